"""The waves that gL carries, by kernels, and their derivatives; arrays complex, the sites behind.

y_i = g_i (x_i + l_i y_{i-1}) changes by

    dy_i = g_i l_i dy_{i-1} + g_i dx_i + g_i y_{i-1} dl_i + y_i h_i,    h_i = dg_i / g_i,

which needs no sources, only the waves. As a linear system of dx, dl, h and dy together it has a
transpose that is one pass over the cotangents and the waves.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from physnet import _dispatch
from physnet.greens import _kernels


def _waves(
    green: jax.Array,
    link: jax.Array,
    source: jax.Array,
    start: jax.Array,
    implementation: _dispatch.Implementation,
) -> jax.Array:
    """y_i = g_i (x_i + l_i y_{i-1}).

    Args:
        green: g (*b, n), complex.
        link: l (*b, n), complex.
        source: x (*b, n, d), real or complex.
        start: y_{-1} (*b, d), complex.
        implementation: A name that has kernels.

    Returns:
        y (*batch, n, d).
    """
    return _kernels.waves(implementation, link, green, source, start)


waves = jax.custom_jvp(_waves, nondiff_argnums=(4,))


@waves.defjvp
def _waves_jvp(implementation, primals, tangents):
    green, link, _, start = primals
    y = waves(*primals, implementation)
    batch, n = y.shape[:-2], y.shape[-2]
    d_green, d_link = (jnp.broadcast_to(x, (*batch, n)) for x in tangents[:2])
    d_source = jnp.broadcast_to(tangents[2], y.shape)
    entry = (green[..., :1] * link[..., :1] * tangents[3])[..., None, :]
    entry = _padded(entry, 0, n - 1)
    # a g too small to hold carries no wave, and no change of it reaches any other number
    held = green != 0
    inverse = jnp.where(held, 1 / jnp.where(held, green, 1), 0)
    right = d_source, d_link, inverse * d_green, jnp.broadcast_to(entry, y.shape)
    operands = link, green, y, jnp.broadcast_to(start, (*batch, y.shape[-1]))
    return y, _solve(operands, _tied(right), implementation)[3]


def back(
    factor: jax.Array, source: jax.Array, implementation: _dispatch.Implementation
) -> jax.Array:
    """Solve x_i - F_i x_{i+1} = s_i, x_n = 0.

    Args:
        factor: F (*batch, n), complex; that of the last site is not used.
        source: s (*batch, n, d), complex.
        implementation: A name that has kernels.

    Returns:
        x (*batch, n, d).
    """

    def run(factor, source, reverse):
        return _kernels.waves(implementation, factor, None, source, None, reverse=reverse)

    return lax.custom_linear_solve(
        lambda x: x - factor[..., None] * _padded(x[..., 1:, :], 0, 1),
        source,
        solve=lambda _, s: run(factor, s, True),
        transpose_solve=lambda _, s: run(jnp.roll(factor, 1, -1), s, False),
    )


def _solve(operands, right, implementation: _dispatch.Implementation):
    """Solve for p, q, h and y': p = dx, q = dl, h = dg / g, and y' the change of the waves."""
    link, green, y, start = operands
    factor = green * link
    before = jnp.concatenate([start[..., None, :], y[..., :-1, :]], -2)

    def driven(p, q, h):
        wide = green[..., None]
        return wide * p.astype(y.dtype) + wide * before * q[..., None] + y * h[..., None]

    def matvec(unknown):
        p, q, h, change = unknown
        behind = _padded(change[..., :-1, :], 1, 0)
        return p, q, h, change - factor[..., None] * behind - driven(p, q, h)

    def solve(_, right):
        p, q, h, entry = right
        source = entry + driven(p, q, h)
        return p, q, h, _kernels.waves(implementation, factor, None, source, None)

    def transpose_solve(_, cotangents):
        p, q, h, u = cotangents
        t, d_p, d_q, d_h = _kernels.waves_transpose(
            implementation, link, green, u, y, start, is_complex=jnp.iscomplexobj(p)
        )
        return p + d_p, q + d_q, h + d_h, t

    return lax.custom_linear_solve(matvec, right, solve, transpose_solve)


def _tied(right):
    """The same, all depending on all: custom_linear_solve transposes all or none.

    XLA drops a selection that a constant decides.
    """
    never = np.zeros((), bool)
    p, q, h, entry = right
    wide = jnp.where(never, h[..., None], jnp.where(never, q[..., None], entry))
    wide = jnp.where(never, p.astype(wide.dtype), wide)
    thin = wide[..., 0]
    p = jnp.where(never, wide if jnp.iscomplexobj(p) else wide.real, p)
    return p, jnp.where(never, thin, q), jnp.where(never, thin, h), wide


def _padded(y: jax.Array, before: int, after: int) -> jax.Array:
    """With zeros at so many sites before and after."""
    return jnp.pad(y, ((0, 0),) * (y.ndim - 2) + ((before, after), (0, 0)))
