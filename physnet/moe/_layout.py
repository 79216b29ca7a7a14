"""Where each assignment of a token to an expert lies: blocks of rows that have one expert each."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array


class Layout(NamedTuple):
    """Blocks of rows for M assignments, b blocks of m rows.

    A row that no assignment fills repeats one of its block: whatever the expert makes of it, it
    makes of a token that it was given, so that nothing new (a NaN at 0) can come from there.
    """

    source: Array  # (b, m): the assignment of each row
    owner: Array  # (b,): the expert of each block
    full: Array  # (b,): whether any assignment lies in the block
    slot: Array  # (M,): the row of each assignment among b m
    kept: Array  # (M,): whether it has one
    count: Array  # (E,): assignments of each expert, dropped ones included


class _Segments(NamedTuple):
    """Assignments in the order of their experts, those of one expert in their own order."""

    order: Array  # (M,)
    first: Array  # (E,): where an expert's begin
    count: Array  # (E,)
    expert: Array  # (M,), clipped into 0..E-1
    rank: Array  # (M,): the place among its expert's
    valid: Array  # (M,): whether the expert exists


def block_size(assignments: int, experts: int, *, least: int) -> int:
    """Rows of a block: half of an expert's mean load, a power of 2, so that few are empty."""
    mean = assignments // max(2 * experts, 1)
    most = 1 << max(assignments - 1, 0).bit_length()
    return min(most, max(least, min(128, 1 << max(mean.bit_length() - 1, 0))))


def blocks(expert: Array, experts: int, size: int) -> Layout:
    """Each expert's assignments in blocks of `size`: none is dropped.

    There are as many blocks as the worst distribution of loads needs; those in use come first.
    """
    assignments = expert.shape[0]
    s = _segments(expert, experts)
    most = (assignments + min(experts, assignments) * (size - 1)) // size
    needed = -(-s.count // size)
    end = jnp.cumsum(needed, dtype=jnp.int32)
    begin = end - needed
    block = jnp.arange(most, dtype=jnp.int32)
    # The blocks after the last one in use repeat it.
    place = jnp.minimum(block, jnp.maximum(end[-1:] - 1, 0))
    owner = jnp.searchsorted(end, place, side="right", method="scan_unrolled")
    owner = jnp.minimum(owner, experts - 1).astype(jnp.int32)
    row = jnp.arange(size, dtype=jnp.int32)
    rank = ((place - begin[owner]) * size)[:, None] + row[None, :]
    return Layout(
        _source(s, owner, rank),
        owner,
        block < end[-1:],
        jnp.where(s.valid, begin[s.expert] * size + s.rank, 0),
        s.valid,
        s.count,
    )


def slab(expert: Array, experts: int, capacity: int) -> Layout:
    """One block of `capacity` rows an expert, for its first assignments; the others are dropped."""
    s = _segments(expert, experts)
    owner = jnp.arange(experts, dtype=jnp.int32)
    rank = jnp.broadcast_to(jnp.arange(capacity, dtype=jnp.int32)[None, :], (experts, capacity))
    kept = s.valid & (s.rank < capacity)
    return Layout(
        _source(s, owner, rank),
        owner,
        s.count > 0,
        jnp.where(kept, s.expert * capacity + s.rank, 0),
        kept,
        s.count,
    )


def _segments(expert: Array, experts: int) -> _Segments:
    valid = (expert >= 0) & (expert < experts)
    key = jnp.where(valid, expert, experts).astype(jnp.int32)
    order = jnp.argsort(key, stable=True).astype(jnp.int32)
    count = jnp.zeros(experts + 1, jnp.int32).at[key].add(1)
    first = jnp.cumsum(count, dtype=jnp.int32) - count
    place = jnp.arange(key.shape[0], dtype=jnp.int32)
    place = jnp.zeros_like(place).at[order].set(place, unique_indices=True)
    rank = place - first[key]
    return _Segments(order, first[:-1], count[:-1], jnp.where(valid, key, 0), rank, valid)


def _source(s: _Segments, owner: Array, rank: Array) -> Array:
    """The assignments (b, m) at these ranks; the last one beyond it."""
    last = jnp.maximum(s.count[owner] - 1, 0)[:, None]
    place = s.first[owner][:, None] + jnp.minimum(rank, last)
    return s.order[jnp.minimum(place, s.order.shape[0] - 1)]
