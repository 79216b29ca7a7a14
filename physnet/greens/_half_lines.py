"""The diagonal of the resolvent from the two half lines of each site, derivatives included."""

import jax
import jax.numpy as jnp
from jax import lax

from physnet import _dispatch
from physnet.greens import _kernels
from physnet.greens._planes import (
    Planes,
    add,
    conjugate,
    join,
    multiply,
    reciprocal,
    reverse,
    scale,
    shift,
    split,
    square,
    subtract,
    unshift,
)
from physnet.greens._recurrence import ahead, plain
from physnet.greens._riccati import riccati

_Pair = tuple[Planes, Planes]


def _half_lines(
    onsite: jax.Array,
    weight: jax.Array,
    energy: Planes,
    implementation: _dispatch.Implementation,
) -> tuple[Planes, Planes, Planes]:
    """The diagonal of the resolvent, and the half lines that it is made of.

    Args:
        onsite: a (n, *b).
        weight: w_{i-1} (n, *b), 0 at i = 0.
        energy: z (1, *b), Im z > 0.
        implementation: A name.

    Returns:
        G_ii, gL_{i-1} and gR_{i+1}, (n, *batch) each, zero where there is no such site.
    """
    if implementation != "xla":
        return _kernels.two_sided(implementation, onsite, weight, energy)
    start = Planes(*map(jnp.zeros_like, energy))
    after = _unshift(weight)
    left = shift(riccati(onsite, weight, energy, start, implementation))
    right = riccati(onsite[::-1], after[::-1], energy, start, implementation)
    right = reverse(shift(right))
    lead = add(scale(weight, left), scale(after, right))
    green = Planes(energy.real - onsite - lead.real, energy.imag - lead.imag)
    return reciprocal(green), left, right


half_lines = jax.custom_jvp(_half_lines, nondiff_argnums=(3,))


@half_lines.defjvp
def _half_lines_jvp(implementation, primals, tangents):
    _, weight, _ = primals
    d_onsite, d_weight, d_energy = tangents
    green, left, right = half_lines(*primals, implementation)
    after, d_after = _unshift(weight), _unshift(d_weight)
    site = Planes(d_onsite - d_energy.real, -d_energy.imag)
    # dg = g^2 (da - dz + dw g' + w dg'), g' the Green's function that a half line continues
    from_left, from_right = add(site, scale(d_weight, left)), add(site, scale(d_after, right))
    squares = square(left), square(right)
    factors = scale(_shift(weight), squares[0]), scale(_unshift(after), squares[1])
    sources = multiply(squares[0], shift(from_left)), multiply(squares[1], unshift(from_right))
    d_left, d_right = _solve(factors, sources, implementation)
    change = add(from_left, scale(d_after, right))
    change = add(change, add(scale(weight, d_left), scale(after, d_right)))
    return (green, left, right), (multiply(square(green), change), d_left, d_right)


def _solve(factors: _Pair, sources: _Pair, implementation: _dispatch.Implementation) -> _Pair:
    """Solve y_i - A_i y_{i-1} = s_i and x_i - B_i x_{i+1} = r_i for y and x."""

    def matvec(unknown: _Pair) -> _Pair:
        y, x = unknown
        a, b = factors
        return subtract(y, multiply(a, shift(y))), subtract(x, multiply(b, unshift(x)))

    def solve(_, right: _Pair) -> _Pair:
        return _both(factors, right, (False, True), implementation)

    def transpose_solve(_, right: _Pair) -> _Pair:
        a, b = map(conjugate, factors)
        behind = Planes(*(jnp.roll(p, 1, 0) for p in b))
        return _both((ahead(a), behind), right, (True, False), implementation)

    # custom_linear_solve takes no symbolic zeros for a part of its operands
    right = split(join(sources[0])), split(join(sources[1]))
    return lax.custom_linear_solve(matvec, right, solve, transpose_solve)


def _both(
    factors: _Pair,
    sources: _Pair,
    backwards: tuple[bool, bool],
    implementation: _dispatch.Implementation,
) -> _Pair:
    if implementation != "xla":
        return _kernels.affine_pair(implementation, factors, sources, reverse=backwards)
    one, two = (
        plain(factor, source, reverse=back, implementation=implementation)
        for factor, source, back in zip(factors, sources, backwards, strict=True)
    )
    return one, two


def _shift(x: jax.Array) -> jax.Array:
    """x_{i-1}, zero at i = 0."""
    return jnp.concatenate([jnp.zeros_like(x[:1]), x[:-1]])


def _unshift(x: jax.Array) -> jax.Array:
    """x_{i+1}, zero at the last site."""
    return jnp.concatenate([x[1:], jnp.zeros_like(x[:1])])
