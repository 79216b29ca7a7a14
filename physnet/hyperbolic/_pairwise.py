"""Distances of all pairs: rows of the matrix in parts, or by kernels with a rule of their own."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from physnet import _dispatch
from physnet.hyperbolic import _separation

COORDINATES = 2**22  # of pairs in memory at once


def by_parts(u: jax.Array, v: jax.Array, s: jax.Array) -> jax.Array:
    """d (n, m); each part of the rows is computed again in the backward pass."""

    @jax.checkpoint
    def rows(part):
        return _separation.separation(part[:, None, :], v[None, :, :], s)[..., 0] / s

    n, size = u.shape[0], max(1, COORDINATES // max(1, v.size))
    if n <= size:
        return rows(u)
    return lax.map(lambda x: rows(x[None])[0], u, batch_size=size)


@functools.cache
def by_kernels(implementation: _dispatch.Implementation) -> Any:
    """(u, v, s) -> d, with derivatives in reverse mode, of first order."""
    raw: Any = _dispatch.load("pairwise_distance", implementation)
    forward = jax.custom_batching.sequential_vmap(raw.distances)
    rows = jax.custom_batching.sequential_vmap(raw.gradient)
    columns = jax.custom_batching.sequential_vmap(functools.partial(raw.gradient, transposed=True))

    @jax.custom_vjp
    def distances(u, v, s):
        return forward(u, v, s)

    def remember(u, v, s):
        d = forward(u, v, s)
        return d, (u, v, s, d)

    def pull(kept, g):
        u, v, s, d = kept
        (du, along_u), (dv, along_v) = rows(u, v, s, g), columns(v, u, s, g)
        # s d is a function of s u and s v
        ds = (jnp.sum(along_u) + jnp.sum(along_v) - jnp.sum(g * d)) / s
        return du, dv, ds

    distances.defvjp(remember, pull)
    return distances
