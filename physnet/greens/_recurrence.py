"""The linear recurrence y_i = A_i y_{i-1} + s_i, as one linear solve.

`custom_linear_solve` derives forward mode, transpose, batching and all higher orders from the
scans below; what they keep is A and y, O(n).
"""

import functools

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact

from physnet import _checks, _dispatch
from physnet.greens import _kernels
from physnet.greens._chain import align, astype, real_dtype
from physnet.greens._chunks import by_platform, fold, unfold
from physnet.greens._planes import Planes, add, conjugate, join, multiply, shift, split, subtract


def recurrence(
    factor: Inexact[Array, "*#b n"], source: Inexact[Array, "*#c n"]
) -> Inexact[Array, "*d n"]:
    r"""The causal linear recurrence y_i = A_i y_{i-1} + s_i, y_{-1} = 0, over the last axis.

    Args:
        factor: A (..., n), real or complex. A_0 is not used.
        source: s (..., n), likewise; the batch axes broadcast.

    Returns:
        y (..., n), complex where one of both is, of the higher precision. Derivatives of all
        orders, O(n). y_i depends on no bit of later sites.

    Raises:
        TypeError: An argument is not of floating dtype.
        ValueError: The shapes do not broadcast, or there is no site.

    Example:
        >>> import jax.numpy as jnp
        >>> print(recurrence(jnp.full(4, 0.5), jnp.ones(4)))
        [1.    1.5   1.75  1.875]
    """
    factor = _checks.at_least_1d("factor", _checks.inexact("factor", factor))
    source = _checks.at_least_1d("source", _checks.inexact("source", source))
    if factor.shape[-1] != source.shape[-1] or not source.shape[-1]:
        raise ValueError(
            "factor and source must have the same number of sites n >= 1 on their last axes, "
            f"got shapes {factor.shape} and {source.shape}"
        )
    batch = _checks.broadcast(factor=factor.shape[:-1], source=source.shape[:-1])
    y = _recurrence(factor, source, batch=batch, dtype=real_dtype(factor, source))
    return y if jnp.iscomplexobj(factor) or jnp.iscomplexobj(source) else y.real


@functools.partial(jax.jit, static_argnames=("batch", "dtype"))
def _recurrence(factor: Array, source: Array, *, batch, dtype) -> Array:
    source = jnp.broadcast_to(source, (*batch, source.shape[-1]))
    planes = (split(align(astype(x, dtype), len(batch))) for x in (factor, source))
    return jnp.moveaxis(join(affine(*planes)), 0, -1)


def affine(
    factor: Planes, source: Planes, *, implementation: _dispatch.Implementation = "xla"
) -> Planes:
    """Solve y_i - A_i y_{i-1} = s_i with y_{-1} = 0, over the leading axis.

    Args:
        factor: A (n, *b); A_0 is not used. Axes of size 1 broadcast.
        source: s (n, *batch).
        implementation: A name.

    Returns:
        y (n, *batch).
    """
    # A real source has no tangent in its imaginary plane, and custom_linear_solve takes no symbolic
    # zeros for a part of its operands; complex numbers have both planes or none.
    return lax.custom_linear_solve(
        lambda y: subtract(y, multiply(factor, shift(y))),
        split(join(source)),
        solve=lambda _, s: plain(factor, s, reverse=False, implementation=implementation),
        transpose_solve=lambda _, s: plain(
            ahead(conjugate(factor)), s, reverse=True, implementation=implementation
        ),
    )


def ahead(factor: Planes) -> Planes:
    """A_{i+1}, what carries y_{i+1} back to site i."""
    return Planes(*(jnp.concatenate([p[1:], p[:1]]) for p in factor))


def plain(
    factor: Planes,
    source: Planes,
    *,
    reverse: bool,
    implementation: _dispatch.Implementation = "xla",
) -> Planes:
    """The recurrence alone, without derivatives."""
    if implementation != "xla":
        return _kernels.affine(implementation, factor, source, reverse=reverse)
    run = _backward if reverse else _forward
    return by_platform(run, source.real.shape[0], factor, source, cpu_chunks=False)


def _run(length: int, factor: Planes, source: Planes, *, reverse: bool) -> Planes:
    if not length:
        return _scan(factor, source, reverse=reverse)
    sites = source.real.shape[0]
    factor, source = (Planes(*(fold(p, length) for p in x)) for x in (factor, source))

    def step(chunk, site):
        y, product = chunk
        a, s = site
        chunk = add(multiply(a, y), s), multiply(a, product)
        return chunk, chunk

    zero = jax.tree.map(lambda p: jnp.zeros_like(p[0]), source)
    one = jax.tree.map(lambda p: jnp.zeros_like(p[0]), factor)
    one = Planes(one.real + 1, one.imag)
    last, (y, product) = lax.scan(step, (zero, one), (factor, source), reverse=reverse)
    # y of a chunk with nothing in front, and what the sites in front of it add.
    entry = _scan(last[1], last[0], reverse=reverse, before=True)
    y = add(y, multiply(product, Planes(*(p[None] for p in entry))))
    return Planes(*(unfold(p, sites) for p in y))


_forward = jax.jit(functools.partial(_run, reverse=False), static_argnums=0)
_backward = jax.jit(functools.partial(_run, reverse=True), static_argnums=0)


def _scan(factor: Planes, source: Planes, *, reverse: bool, before: bool = False) -> Planes:
    def step(y, site):
        a, s = site
        new = add(multiply(a, y), s)
        return new, y if before else new

    zero = jax.tree.map(lambda p: jnp.zeros_like(p[0]), source)
    return lax.scan(step, zero, (factor, source), reverse=reverse)[1]
