"""Masked softmax over all pairs at once: the plain form, for short sequences.

O(T S) memory; every derivative of every order by JAX itself.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from physnet.attention._arguments import NO_TOKEN, Pairs, Tensors, accumulator


def pair_mask(pairs: Pairs, *, local_window: int, is_causal: bool) -> jax.Array:
    """Which pairs take part: (B or 1, 1 or N, T, S)."""
    query, key = (jnp.asarray(label) for label in pairs.position)
    query, key = query[:, None, :, None], key[:, None, None, :]
    mask = (query != NO_TOKEN) & (key != NO_TOKEN)
    if is_causal:
        mask = mask & (key <= query)
    if pairs.scores is not None:
        s = pairs.scores
        passes = jnp.swapaxes(s.query, 1, 2)[..., :, None] * jnp.swapaxes(s.key, 1, 2)[..., None, :]
        passes = passes > s.threshold[None, :, None, None]
        # Not |difference| < w: the absolute value of the least integer is negative.
        near = (query - key < local_window) & (query - key > -local_window)
        mask = mask & (passes | near)
    if pairs.segment is not None:
        mask = mask & (pairs.segment.query[:, None, :, None] == pairs.segment.key[:, None, None, :])
    return mask


def unclean(x: Tensors, zero: ArrayLike = 0.0) -> tuple[Tensors, jax.Array, jax.Array]:
    """Tensors with non-finite tokens zeroed; which queries (B, T, N) and keys (B, S, K) these are.

    A key is one where its value is. A zero weight times NaN is NaN: without this a masked token
    would spoil rows that do not see it. So its derivative is 0.
    """
    query, key, value = (_holds_non_finite(lax.stop_gradient(a)) for a in x)
    bad = query, key | value, key | value
    zeroed = (
        jnp.where(b[..., None], jnp.asarray(zero, a.dtype), a) for a, b in zip(x, bad, strict=True)
    )
    return Tensors(*zeroed), query, key | value


def _holds_non_finite(x: jax.Array) -> jax.Array:
    """Which rows (..., H) hold a NaN or an infinity: (...).

    0 x is NaN there, and a sum of NaN is NaN (a maximum on CPU is not always). The sum as a product
    with ones is faster on CPUs than a reduction of the last axis.
    """
    total = (x.reshape(-1, x.shape[-1]) * 0) @ jnp.ones((x.shape[-1],), x.dtype)
    return jnp.isnan(total).reshape(x.shape[:-1])


def dense(x: Tensors, mask: jax.Array, scale: float) -> tuple[jax.Array, jax.Array]:
    """Attention over the pairs of `mask`, (B or 1, 1 or N, T, S).

    Returns:
        Output (B, T, N, H), and the log of the softmax's sum (B, T, N) in the accumulator's dtype.
    """
    dtype = accumulator(x.query.dtype)
    (query, key, value), bad_query, bad_key = unclean(x)
    batch, time, heads, size = query.shape
    kv_heads, group = key.shape[2], heads // key.shape[2]
    query = query.reshape(batch, time, kv_heads, group, size)
    logits = scale * jnp.einsum("btkgh,bskh->bkgts", query, key, preferred_element_type=dtype)
    if mask.shape[1] == 1:
        mask = mask[:, :, None]
    else:
        mask = mask.reshape(mask.shape[0], kv_heads, group, *mask.shape[2:])
    seen = jnp.any(mask & jnp.swapaxes(bad_key, 1, 2)[:, :, None, None, :], axis=-1)
    seen = jnp.broadcast_to(seen, (batch, kv_heads, group, time))
    lost = bad_query | jnp.moveaxis(seen, 3, 1).reshape(batch, time, heads)
    logits = jnp.where(mask, logits, -jnp.inf)
    top = jax.lax.stop_gradient(jnp.max(logits, axis=-1, keepdims=True, initial=-jnp.inf))
    top = jnp.where(top == -jnp.inf, jnp.zeros_like(top), top)
    weight = jnp.where(mask, jnp.exp(logits - top), jnp.zeros_like(logits))
    total = jnp.sum(weight, axis=-1, keepdims=True)
    empty = total == 0
    total = jnp.where(empty, jnp.ones_like(total), total)
    weight = (weight / total).astype(value.dtype)
    output = jnp.einsum("bkgts,bskh->btkgh", weight, value, preferred_element_type=dtype)
    output = output.reshape(batch, time, heads, size)
    lse = jnp.where(empty, -jnp.inf, top + jnp.log(total))[..., 0]
    lse = jnp.moveaxis(lse, 3, 1).reshape(batch, time, heads)
    # The derivative of a finite query that sees a bad key is NaN as well, but none reaches a key.
    factor = jnp.where(lost & ~bad_query, jnp.nan, 0.0).astype(dtype)
    nan = jnp.where(
        bad_query, jnp.nan, factor * jnp.sum(query.reshape(x.query.shape).astype(dtype), axis=-1)
    )
    output = jnp.where(lost[..., None], nan[..., None], output)
    return output.astype(x.query.dtype), jnp.where(lost, nan, lse)
