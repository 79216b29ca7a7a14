"""Which pairs of blocks a pass visits, and in which order: the lists that drive the kernels."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from physnet.attention._arguments import NO_TOKEN
from physnet.attention._loops import Rule


class Lists(NamedTuple):
    """Steps of each query block and of each key block: 2 * block + (1 where it needs the mask).

    L is 1, or N where heads have lists of their own; P and Q are query and key blocks.
    """

    steps: jax.Array  # (R, L, P, Q) int32, the first `count` of them, ascending
    count: jax.Array  # (R, L, P)
    order: jax.Array  # (R, L, P): blocks, those of most steps first
    key_steps: jax.Array  # (R, L, Q, P): the same, transposed
    key_count: jax.Array  # (R, L, Q)
    key_order: jax.Array  # (R, L, Q)


class Labels(NamedTuple):
    """What decides the pairs, in the slots of a pass; S is 1, or N for scores a head."""

    query_position: jax.Array  # (R, slots) int32, NO_TOKEN in an empty slot
    key_position: jax.Array
    query_segment: jax.Array | None  # int32
    key_segment: jax.Array | None
    query_score: jax.Array | None  # (R, S, slots) float32
    key_score: jax.Array | None
    threshold: Any  # (R, S) or None


def lists(rule: Rule, labels: Labels, kept: jax.Array | None, size: int) -> Lists:
    """Lists of a pass.

    Args:
        rule: Which pairs take part.
        labels: Of both sides.
        kept: (R, 1 or N, P, Q) booleans: blocks to compute at all.
        size: Slots of a block.
    """
    active, free = _blocks(rule, labels, size)
    if kept is not None:
        active = active & kept
    active, free = jnp.broadcast_arrays(active, free)
    turned = (jnp.swapaxes(x, 2, 3) for x in (active, free))
    return Lists(*_compact(active, free), *_compact(*turned))


def _compact(active: jax.Array, free: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    width = active.shape[-1]
    block = jnp.arange(width, dtype=jnp.int32).reshape(1, 1, 1, -1)
    none = jnp.int32(2 * width)
    code = jnp.where(active, 2 * block + (~free).astype(jnp.int32), none)
    steps = jnp.sort(code, axis=-1)
    count = jnp.sum(active, axis=-1, dtype=jnp.int32)
    order = jnp.argsort(-count, axis=-1).astype(jnp.int32)
    return jnp.where(steps == none, 0, steps), count, order


def _blocks(rule: Rule, labels: Labels, size: int) -> tuple[jax.Array, jax.Array]:
    """Which pairs of blocks (R, L, P, Q) can hold a pair, and which consist of nothing else."""

    def in_blocks(x: Any) -> Any:
        return None if x is None else x.reshape(*x.shape[:-1], -1, size)

    query, key = in_blocks(labels.query_position), in_blocks(labels.key_position)
    some, other = (position != NO_TOKEN for position in (query, key))

    def span(values: jax.Array, token: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Least and largest over tokens; the other way round without any."""
        low = jnp.min(jnp.where(token, values, NO_TOKEN), axis=-1)
        return low, jnp.max(jnp.where(token, values, -NO_TOKEN), axis=-1)

    def of_queries(x: jax.Array) -> jax.Array:
        return x[..., :, None]

    def of_keys(x: jax.Array) -> jax.Array:
        return x[..., None, :]

    begin, end = (of_queries(x) for x in span(query, some))
    key_begin, key_end = (of_keys(x) for x in span(key, other))
    active = (begin != NO_TOKEN) & (key_begin != NO_TOKEN)
    full = of_queries(jnp.all(some, axis=-1)) & of_keys(jnp.all(other, axis=-1))
    free = full & active
    if rule.is_causal:
        active = active & (key_begin <= end)
        free = free & (key_end <= begin)
    if rule.band != "all":
        w = rule.window
        reached = (key_begin - end < w) & (begin - key_end < w)  # no sums: they overflow
        inside = (end - key_begin < w) & (begin - key_end > -w)
        active = active & (reached if rule.band == "near" else ~inside)
        free = free & (inside if rule.band == "near" else ~reached)
    if labels.query_segment is not None:
        low, high = (of_queries(x) for x in span(in_blocks(labels.query_segment), some))
        key_low, key_high = (of_keys(x) for x in span(in_blocks(labels.key_segment), other))
        active = active & (key_low <= high) & (key_high >= low)
        free = free & (low == high) & (key_low == key_high) & (low == key_low)
    active, free = active[:, None], free[:, None]
    if rule.band != "near" and labels.query_score is not None:
        query, key = in_blocks(labels.query_score), in_blocks(labels.key_score)
        tau = labels.threshold[:, :, None, None]
        some, other = some[:, None], other[:, None]
        most = of_queries(jnp.max(query, axis=-1)) * of_keys(jnp.max(key, axis=-1))
        least = of_queries(jnp.min(jnp.where(some, query, jnp.inf), axis=-1))
        least = least * of_keys(jnp.min(jnp.where(other, key, jnp.inf), axis=-1))
        active = active & (most > tau)
        free = free & (least > tau)
    return active, free & active
