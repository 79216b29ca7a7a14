"""The nearest centroids: an affine product proposes, a polar form of the distance decides.

Both run without gradients, and the polar form is a quick one: the monotone log sinh^2(D / 2) with
D = sqrt(c) d, right to some 1e-4 of D where tokens and centroids are up to 13 from the origin.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from physnet import _dispatch

SCORES = 2**18  # scores in memory at once: a part of the tokens against all centroids
COORDINATES = 2**18  # the same for the coordinates of the polar form
CANDIDATES = 16  # that the polar form ranks again, at least
TOLERANCE = 1e-4  # of the distance, by which another centroid may be nearer unseen


class Found(NamedTuple):
    """The top_k nearest (n, k), how many comparisons that took, and whether it is proven."""

    index: Array
    evaluations: Array
    certified: Array


@functools.partial(jax.jit, static_argnums=(3, 4))
def dense(
    tokens: Array,
    centroids: Array,
    curvature: Array,
    top_k: int,
    implementation: _dispatch.Implementation = "xla",
) -> Found:
    """The top_k nearest centroids of each token, all compared."""
    experts = centroids.shape[0]
    index, certified = _batched(top_k, implementation)(tokens, centroids, curvature)
    return Found(index, jnp.full_like(index[:, 0], experts), certified)


@functools.cache
def _batched(top_k: int, implementation: _dispatch.Implementation):
    """The search with a batch of tokens taken as more tokens: `vmap` would run every branch."""

    @jax.custom_batching.custom_vmap
    def search(tokens, centroids, curvature):
        if implementation == "xla":
            return _nearest(tokens, centroids, curvature, top_k)
        kernels: Any = _dispatch.load("nearest_centroid", implementation)
        return kernels.nearest(tokens, centroids, 2 * jnp.sqrt(curvature), top_k=top_k)

    @search.def_vmap
    def _(size, batched, tokens, centroids, curvature):
        if batched[0] and not any(batched[1:]):
            found = search(tokens.reshape(-1, tokens.shape[-1]), centroids, curvature)
            found = jax.tree.map(lambda x: x.reshape(size, -1, *x.shape[1:]), found)
        else:
            arrays = (tokens, centroids, curvature)
            whole = [x for x, moves in zip(arrays, batched, strict=True) if moves]

            def one(parts):
                parts = iter(parts)
                pairs = zip(arrays, batched, strict=True)
                return search(*[next(parts) if moves else x for x, moves in pairs])

            found = lax.map(one, whole)
        return found, (True, True)

    return search


def _nearest(tokens: Array, centroids: Array, c: Array, top_k: int) -> tuple[Array, Array]:
    count, experts = tokens.shape[0], centroids.shape[0]
    if count == 0:
        return jnp.zeros((0, top_k), jnp.int32), jnp.zeros(0, bool)
    few = 2 * top_k if top_k > CANDIDATES // 2 else CANDIDATES
    if few >= experts:
        index = _map(lambda x: _all(x, centroids, c, top_k), tokens, _rows(centroids))
        return index, ~jnp.isnan(tokens).any(-1) & ~jnp.isnan(centroids).any() & (c > 0)
    table = _affine(centroids, c)

    def part(x):
        score = jnp.matmul(_klein(x, c), table.T, precision=lax.Precision.HIGHEST)

        def ranked(candidates, bound):
            return _ranked(x, centroids, c, candidates, bound, top_k)

        def more(_):
            # Without a barrier XLA merges the slices below into a sort of whole rows.
            bound, candidates = lax.optimization_barrier(lax.top_k(score, few + 1))
            index, proven = ranked(candidates[:, :-1], bound[:, -1])
            rows = (x, index, proven)
            index = _map(lambda rows: _unless(rows, centroids, c, top_k), rows, _rows(centroids))
            return index, proven

        if top_k > 2:
            return more(None)
        index, proven = ranked(*_largest(score, top_k))
        return lax.cond(proven.all(), lambda _: (index, proven), more, None)

    return _map(part, tokens, SCORES // experts)


def _rows(centroids: Array) -> int:
    return COORDINATES // centroids.size


def _klein(v: Array, c: Array) -> Array:
    """Of tokens: Klein's coordinates tanh(r) u, then 1 and tanh(r) for the other terms."""
    length, unit = _polar(v)
    tanh = jnp.tanh(2 * jnp.sqrt(c) * length)
    return jnp.concatenate([tanh * unit, jnp.ones_like(tanh), tanh], -1)


def _affine(v: Array, c: Array) -> Array:
    """Of centroids: what takes `_klein` to an upper bound of 1 - cosh D / cosh r.

    The exact value is tanh(r) sinh(q) u.w - 2 sinh^2(q / 2); the rounding of its two terms, by
    which it may come out too small, is added in the product itself.
    """
    length, unit = _polar(v)
    q, slack = 2 * jnp.sqrt(c) * length, _slack(v)
    return jnp.concatenate(
        [
            jnp.sinh(q) * unit,
            -2 * jnp.square(jnp.sinh(q / 2)) * (1 - slack),
            jnp.sinh(q) * slack,
        ],
        -1,
    )


def _slack(v: Array) -> float:
    """A bound on the relative rounding of a sum of d products and of their factors."""
    return float(jnp.finfo(v.dtype).eps) * (8 + v.shape[-1] / 2)


def _polar(v: Array) -> tuple[Array, Array]:
    length = jnp.linalg.norm(v, axis=-1, keepdims=True)
    return length, v / jnp.where(length > 0, length, jnp.ones_like(length))


def _largest(score: Array, top_k: int) -> tuple[Array, Array]:
    """The indices of the top_k largest of each row, and the next value: cheaper than a sort."""
    indices = []
    places = jnp.arange(score.shape[1], dtype=jnp.int32)
    for _ in range(top_k):
        indices.append(jnp.argmax(score, 1).astype(jnp.int32))
        score = jnp.where(places[None, :] == indices[-1][:, None], -jnp.inf, score)
    return jnp.stack(indices, 1), jnp.max(score, 1)


def _ranked(
    x: Array, centroids: Array, c: Array, candidates: Array, bound: Array, top_k: int
) -> tuple[Array, Array]:
    """The top_k nearest candidates, and whether all other centroids are farther.

    Their scores are at most `bound`: sinh^2(D / 2) >= sinh^2(r / 2) - cosh(r) bound / 2.
    """
    least, place = _least(_far(x[:, None, :], centroids[candidates], c), top_k)
    worst = least[:, -1]
    r = 2 * jnp.sqrt(c) * jnp.linalg.norm(x, axis=-1)
    others = jnp.square(jnp.sinh(r / 2)) * (1 - _slack(x)) - 0.5 * jnp.cosh(r) * bound
    allowed = jnp.exp(worst - TOLERANCE * (2 + jnp.maximum(worst, 0)))
    proven = (allowed <= others) & (others < jnp.inf)
    return jnp.take_along_axis(candidates, place, 1).astype(jnp.int32), proven


def _all(x: Array, centroids: Array, c: Array, top_k: int) -> Array:
    """The top_k nearest of all centroids, in the polar form."""
    return _least(_far(x[:, None, :], centroids[None, :, :], c), top_k)[1]


def _far(v: Array, w: Array, c: Array) -> Array:
    """log sinh^2(D / 2) = log(sinh^2(rho / 2) + sinh r sinh q |turn|^2 / 4), rho = r - q.

    From v - w, whose digits count where both are far, and in units of e^{r + q}: no overflow.
    """
    one = lambda x: jnp.where(x > 0, x, jnp.ones_like(x))  # noqa: E731
    a, b = (jnp.linalg.norm(x, axis=-1, keepdims=True) for x in (v, w))
    change = v - w
    closer = jnp.sum(change * (v + w), -1, keepdims=True) / one(a + b)  # |v| - |w|
    turn = (change - w / one(b) * closer) / one(a)  # v / |v| - w / |w|
    chord = jnp.sum(turn * turn, -1)
    double = 2 * jnp.sqrt(c)
    r, q, rho = (double * x[..., 0] for x in (a, b, jnp.abs(closer)))
    radial = jnp.exp(-2 * jnp.minimum(r, q)) * jnp.square(jnp.expm1(-rho))
    across = jnp.expm1(-2 * r) * jnp.expm1(-2 * q) * chord
    return r + q + jnp.log((radial + 0.25 * across) / 4)


def _unless(rows: tuple[Array, Array, Array], centroids: Array, c: Array, top_k: int) -> Array:
    """The proven indices, or for rows with one that is not, those of `_all`."""
    x, index, proven = rows
    return lax.cond(
        proven.all(),
        lambda: index,
        lambda: jnp.where(proven[:, None], index, _all(x, centroids, c, top_k)),
    )


def _least(distance: Array, top_k: int) -> tuple[Array, Array]:
    if top_k == 1:
        place = jnp.argmin(distance, 1, keepdims=True).astype(jnp.int32)
        return jnp.take_along_axis(distance, place, 1), place
    negative, place = lax.top_k(-distance, top_k)
    return -negative, place


def _map(function, rows, size: int):
    """`function` over parts of about `size` rows; the last one is filled with its last row."""
    count = jax.tree.leaves(rows)[0].shape[0]
    size = min(count, max(size, 1))
    parts = -(-count // size)
    size = -(-count // parts)
    if parts == 1:
        return function(rows)

    def split(x):
        x = jnp.pad(x, ((0, parts * size - count),) + ((0, 0),) * (x.ndim - 1), mode="edge")
        return x.reshape(parts, size, *x.shape[1:])

    found = lax.map(function, jax.tree.map(split, rows))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)
