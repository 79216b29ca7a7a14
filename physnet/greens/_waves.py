"""gL and the waves that it carries: both recursions in one pass where plain scans serve.

Forward and backward they take turns at each site: half the passes over memory of one recursion
after the other. Accelerators run them apart, each in its chunked form.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from physnet.greens._planes import (
    Planes,
    add,
    column,
    conjugate,
    join,
    multiply,
    reciprocal,
    scale,
    shift,
    split,
    square,
    subtract,
)
from physnet.greens._recurrence import affine, ahead, plain
from physnet.greens._riccati import few_lanes, riccati


@jax.custom_jvp
def waves(
    onsite: jax.Array,
    link: Planes,
    energy: Planes,
    source: jax.Array | Planes,
    green: Planes,
    amplitude: Planes,
) -> tuple[Planes, Planes]:
    """g_i = 1 / (z - a_i - |l_i|^2 g_{i-1}) and y_i = g_i (x_i + l_i y_{i-1}).

    Args:
        onsite: a (n, *batch), with the batch axes of all arguments.
        link: l_i = conj(b_{i-1}) (n, *b).
        energy: z (1, *b), Im z > 0.
        source: x (n, d, *b), a real array or planes.
        green: g_{-1} (1, *b).
        amplitude: y_{-1} (1, d, *b).

    Returns:
        g (n, *batch) and y (n, d, *batch).
    """
    operands = onsite, link, energy, source, green, amplitude
    return _fused_on_cpu(_together, _apart, onsite.shape, *operands)


@waves.defjvp
def _waves_jvp(primals, tangents):
    _, link, _, source, green, amplitude = primals
    d_onsite, d_link, d_energy, d_source, d_green, d_amplitude = tangents
    g, y = waves(*primals)
    squared, weight = square(g), link.real**2 + link.imag**2
    d_weight = 2 * (link.real * d_link.real + link.imag * d_link.imag)
    # dg_i = g_i^2 (da_i - dz + dw_i g_{i-1} + w_i dg_{i-1})
    change = add(scale(d_weight, _behind(green, g)), scale(weight, _first(d_green, g)))
    change = Planes(change.real + d_onsite - d_energy.real, change.imag - d_energy.imag)
    # dy_i = dg_i (x_i + l_i y_{i-1}) + g_i (dx_i + dl_i y_{i-1} + l_i dy_{i-1})
    before, links = _behind(amplitude, y), column(link)
    incoming = add(split(source), multiply(links, before))
    d_incoming = add(multiply(column(d_link), before), multiply(links, _first(d_amplitude, y)))
    d_incoming = add(split(d_source), d_incoming)
    solved = _coupled(
        scale(weight, squared),
        multiply(g, link),
        incoming,
        (multiply(squared, change), multiply(column(g), d_incoming)),
    )
    return (g, y), solved


def _coupled(
    bond: Planes, factor: Planes, incoming: Planes, right: tuple[Planes, Planes]
) -> tuple[Planes, Planes]:
    """Solve g_i - A_i g_{i-1} = r_i and y_i - F_i y_{i-1} - v_i g_i = s_i for g and y."""

    def matvec(x):
        g, y = x
        ahead_of = add(multiply(column(factor), shift(y)), multiply(incoming, column(g)))
        return subtract(g, multiply(bond, shift(g))), subtract(y, ahead_of)

    def solve(_, right):
        operands = bond, factor, incoming, right
        return _fused_on_cpu(_forward_together, _forward_apart, right[0].real.shape, *operands)

    def transpose_solve(_, right):
        operands = ahead(conjugate(bond)), ahead(conjugate(factor)), conjugate(incoming), right
        return _fused_on_cpu(_backward_together, _backward_apart, right[0].real.shape, *operands)

    return lax.custom_linear_solve(matvec, _tied(right), solve, transpose_solve)


def _tied(right: tuple[Planes, Planes]) -> tuple[Planes, Planes]:
    """The same, all four planes depending on all: custom_linear_solve transposes all or none.

    XLA drops a selection that a constant decides.
    """
    never = np.zeros((), bool)
    g, y = (split(join(x)) for x in right)
    return (
        Planes(*(jnp.where(never, q[:, 0], p) for p, q in zip(g, y, strict=True))),
        Planes(*(jnp.where(never, p[:, None], q) for p, q in zip(g, y, strict=True))),
    )


def _fused_on_cpu(together: Callable, apart: Callable, shape: tuple[int, ...], *operands):
    """One pass on CPUs, unless their continued fraction runs in chunks; two elsewhere."""
    if few_lanes(math.prod(shape[1:])) and shape[0] > 128:
        return apart(*operands)
    return lax.platform_dependent(*operands, cpu=together, default=apart)


@jax.jit
def _together(onsite, link, energy, source, green, amplitude):
    z = Planes(energy.real[0], energy.imag[0])

    def step(carry, site):
        g, y = carry
        a, l, x = site
        w = l.real**2 + l.imag**2
        g = reciprocal(Planes(z.real - a - w * g.real, z.imag - w * g.imag))
        l = Planes(l.real[None], l.imag[None])
        y = multiply(Planes(g.real[None], g.imag[None]), add(split(x), multiply(l, y)))
        return (g, y), (g, y)

    # Sums of all operands have the type of the carry: shape, varying axes in shard_map.
    like = jnp.zeros_like(onsite[0] + link.real[0] + z.real + green.real[0])
    wide = jnp.zeros_like(like[None] + split(source).real[0] + amplitude.real[0])
    start = Planes(*(like + p[0] for p in green)), Planes(*(wide + p[0] for p in amplitude))
    return lax.scan(step, start, (onsite, link, source))[1]


@jax.jit
def _apart(onsite, link, energy, source, green, amplitude):
    g = riccati(onsite, link.real**2 + link.imag**2, energy, green, "xla")
    factor = column(multiply(g, link))
    entry = multiply(column(link), _first(amplitude, onsite))
    return g, affine(factor, multiply(column(g), add(split(source), entry)))


@jax.jit
def _forward_together(bond, factor, incoming, right):
    def step(carry, site):
        g, y = carry
        a, f, v, r, s = site
        g = add(multiply(a, g), r)
        y = add(add(multiply(_channel(f), y), multiply(v, _channel(g))), s)
        return (g, y), (g, y)

    return lax.scan(step, _zeros(right), (bond, factor, incoming, *right))[1]


@jax.jit
def _backward_together(bond, factor, incoming, right):
    def step(carry, site):
        g, y = carry
        a, f, v, r, s = site
        y = add(multiply(_channel(f), y), s)
        arrived = multiply(v, y)
        g = add(multiply(a, g), Planes(r.real + arrived.real.sum(0), r.imag + arrived.imag.sum(0)))
        return (g, y), (g, y)

    return lax.scan(step, _zeros(right), (bond, factor, incoming, *right), reverse=True)[1]


@jax.jit
def _forward_apart(bond, factor, incoming, right):
    g = plain(bond, right[0], reverse=False)
    source = add(right[1], multiply(incoming, column(g)))
    return g, plain(column(factor), source, reverse=False)


@jax.jit
def _backward_apart(bond, factor, incoming, right):
    y = plain(column(factor), right[1], reverse=True)
    arrived = multiply(incoming, y)
    source = Planes(right[0].real + arrived.real.sum(1), right[0].imag + arrived.imag.sum(1))
    return plain(bond, source, reverse=True), y


def _channel(x: Planes) -> Planes:
    return Planes(x.real[None], x.imag[None])


def _zeros(right):
    return jax.tree.map(lambda p: jnp.zeros_like(p[0]), right)


def _behind(first: Planes, x: Planes) -> Planes:
    """x_{i-1}, with what lies in front of the first site."""
    return Planes(
        *(
            jnp.concatenate([jnp.broadcast_to(f, (1, *p.shape[1:])), p[:-1]])
            for f, p in zip(first, x, strict=True)
        )
    )


def _first(x: Planes, like) -> Planes:
    """x (1, ...) at the first site, zeros at the others."""
    missing = jax.tree.leaves(like)[0].shape[0] - 1
    return Planes(*(jnp.pad(p, ((0, missing),) + ((0, 0),) * (p.ndim - 1)) for p in x))
