"""Tokens gathered into blocks and scattered back; rows are what shares an order of tokens.

Shapes: R rows (batch, or batch times key heads where heads have scores of their own), K key heads
of a row, G query heads of a key head, H = 1 or G (then K = 1) heads with a gate of their own,
P and Q query and key blocks, b slots of a block, D head dimension.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from physnet.attention._arguments import NO_TOKEN, Labels, Pairs, Scores, Tensors


class Operands(NamedTuple):
    """What the loops over blocks read; every array has the row axis in front."""

    query: jax.Array  # (R, P, K, G, b, D)
    key: jax.Array  # (R, Q, K, b, D)
    value: jax.Array  # (R, Q, K, b, D)
    spoil: jax.Array  # (R, Q, K, b): NaN at keys that make NaN of who sees them, else 0
    pairs: Pairs  # scores (R, P, H, b), (R, Q, H, b) and (R, H); labels (R, P, b) and (R, Q, b)
    kept: jax.Array | None  # (R, P, H, Q) booleans: which blocks to compute at all


class Plan(NamedTuple):
    """What one pass over the pairs needs besides query, key and value."""

    query_order: Any  # (R, P b): the token in each slot, T in an empty one; None: as they come
    key_order: Any  # (R, Q b)
    kept: jax.Array | None  # (R, P, H, Q); for kernels (B, 1 or N, P, Q)


def rows(array: jax.Array, key_heads: int, split: bool) -> jax.Array:
    """(B, T, N, ...) as (R, T, K, G, ...)."""
    batch, time, heads, *rest = array.shape
    array = array.reshape(batch, time, key_heads, heads // key_heads, *rest)
    if not split:
        return array
    array = jnp.moveaxis(array, 2, 1)
    return array.reshape(batch * key_heads, time, 1, heads // key_heads, *rest)


def unrows(array: jax.Array, batch: int) -> jax.Array:
    """The inverse of `rows`."""
    many, time, heads, group, *rest = array.shape
    array = array.reshape(batch, many // batch, time, heads, group, *rest)
    return jnp.moveaxis(array, 1, 2).reshape(batch, time, -1, *rest)


def row_labels(label: jax.Array | np.ndarray, batch: int, row_count: int) -> jax.Array:
    """(B or 1, T) as (R, T)."""
    label = jnp.broadcast_to(label, (batch, label.shape[1]))
    return jnp.repeat(label, row_count // batch, axis=0)


def row_scores(score: jax.Array, key_heads: int, split: bool) -> jax.Array:
    """(B, T, 1 or N) as (R, T, H)."""
    if not split:
        return score
    if score.shape[2] == 1:  # thresholds a head, scores shared
        return jnp.repeat(score, key_heads, axis=0)
    return rows(score, key_heads, split)[:, :, 0]


def row_threshold(threshold: jax.Array, batch: int, key_heads: int, split: bool) -> jax.Array:
    """(1 or N,) as (R, H); N > 1 without `split` only where K = 1."""
    if not split:
        return jnp.broadcast_to(threshold[None], (batch, len(threshold)))
    threshold = (
        threshold.reshape(-1, 1) if threshold.shape[0] == 1 else threshold.reshape(key_heads, -1)
    )
    threshold = jnp.broadcast_to(threshold, (key_heads, threshold.shape[1]))
    return jnp.tile(threshold, (batch, 1))


def gather(array: jax.Array, order: jax.Array, size: int, fill: int = 0) -> jax.Array:
    """(R, T, ...) as (R, P, b, ...); `fill` in empty slots."""
    picked = jax.vmap(lambda x, i: x.at[i].get(mode="fill", fill_value=fill))(array, order)
    return picked.reshape(array.shape[0], -1, size, *array.shape[2:])


def place(order: jax.Array, length: int) -> jax.Array:
    """The slot of each token (R, T): the inverse of an order."""

    def invert(order):
        slots = jnp.arange(order.shape[0], dtype=jnp.int32)
        return jnp.zeros_like(order, shape=length).at[order].set(slots, mode="drop")

    return jax.vmap(invert)(order)


def operands(x: Tensors, spoil: jax.Array, pairs: Pairs, plan: Plan, size: int) -> Operands:
    """Gather everything into the blocks of one pass."""
    batch, key_heads, row_count = len(x.query), x.key.shape[2], len(plan.query_order)
    split = row_count != batch
    orders = (plan.query_order, plan.key_order)

    def tokens(array):
        return key_blocks(array, plan, size, split)

    def labels(both: Labels, empty: int) -> Labels:
        in_rows = [row_labels(label, batch, row_count) for label in both]
        return Labels(*(gather(*pair, size, empty) for pair in zip(in_rows, orders, strict=True)))

    scores = segment = None
    if pairs.scores is not None:
        both = [row_scores(score, key_heads, split) for score in pairs.scores[:2]]
        both = [gather(*pair, size) for pair in zip(both, orders, strict=True)]
        query, key = (jnp.moveaxis(score, 2, 3) for score in both)
        threshold = row_threshold(pairs.scores.threshold, batch, key_heads, split)
        scores = Scores(query, key, threshold)
    if pairs.segment is not None:
        segment = labels(pairs.segment, 0)
    return Operands(
        query_blocks(x.query, key_heads, plan, size),
        tokens(x.key),
        tokens(x.value),
        tokens(spoil),
        Pairs(scores, labels(pairs.position, int(NO_TOKEN)), segment),
        plan.kept,
    )


def heads_in_blocks(array: jax.Array, order: jax.Array, size: int) -> jax.Array:
    """(R, T, N, ...) as (R, P, N, b, ...) by one gather; empty slots repeat the last token."""
    row_count, length, heads = array.shape[:3]
    token = jnp.minimum(order, length - 1).reshape(row_count, -1, 1, size)
    head = jnp.arange(heads, dtype=jnp.int32).reshape(1, 1, -1, 1)
    place = (token * heads + head).reshape(row_count, -1)
    picked = _take(array.reshape(row_count, length * heads, *array.shape[3:]), place)
    return picked.reshape(row_count, -1, heads, size, *array.shape[3:])


def key_blocks(array: jax.Array, plan: Plan, size: int, split: bool) -> jax.Array:
    """(B, S, K, ...) in the key blocks of a pass: (R, Q, K, b, ...)."""
    in_rows = rows(array, array.shape[2], split)[:, :, :, 0]
    return heads_in_blocks(in_rows, plan.key_order, size)


def query_blocks(array: jax.Array, key_heads: int, plan: Plan, size: int) -> jax.Array:
    """(B, T, N, ...) in the query blocks of a pass: (R, P, K, G, b, ...)."""
    in_rows = rows(array, key_heads, plan.query_order.shape[0] != array.shape[0])
    shape = in_rows.shape
    flat = in_rows.reshape(*shape[:2], shape[2] * shape[3], *shape[4:])
    blocks = heads_in_blocks(flat, plan.query_order, size)
    return blocks.reshape(*blocks.shape[:2], *shape[2:4], *blocks.shape[3:])


def tokens_of(blocks: jax.Array, order: jax.Array, batch: int, length: int) -> jax.Array:
    """Blocks (R, P, K, G, b, ...) back in the order of tokens (B, T, N, ...)."""
    row_count, _, key_heads, group, size, *rest = blocks.shape
    heads = key_heads * group
    slot = place(order, length)[:, :, None]
    head = jnp.arange(heads, dtype=jnp.int32).reshape(1, 1, -1)
    index = (slot // size * heads + head) * size + slot % size
    picked = _take(blocks.reshape(row_count, -1, *rest), index.reshape(row_count, -1))
    return unrows(picked.reshape(row_count, length, key_heads, group, *rest), batch)


def _take(array: jax.Array, index: jax.Array) -> jax.Array:
    """(R, n, ...) at (R, m), all within bounds."""
    return jax.vmap(lambda x, i: x.at[i].get(mode="promise_in_bounds"))(array, index)
