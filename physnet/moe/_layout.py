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


class Runs(NamedTuple):
    """M assignments in the order of their experts, cut into b runs that have one expert each."""

    order: Array  # (M,): the assignment at each place of that order
    slot: Array  # (M,): the place of each assignment
    owner: Array  # (b,): the expert of each run
    start: Array  # (b,): where it begins, ascending; M for those not in use
    fill: Array  # (b,): how many assignments it has


class Segments(NamedTuple):
    """Assignments in the order of their experts, those of one expert in their own order."""

    order: Array  # (M,)
    slot: Array  # (M,): the inverse of it
    first: Array  # (E,): where an expert's begin
    count: Array  # (E,)
    expert: Array  # (M,), clipped into 0..E-1
    rank: Array  # (M,): the place among its expert's
    valid: Array  # (M,): whether the expert exists


def block_size(assignments: int, experts: int, *, least: int) -> int:
    """Rows of a block: half of an expert's mean load, a power of 2, so that few are empty."""
    mean = assignments // max(2 * experts, 1)
    return min(_power(assignments), max(least, min(128, 1 << max(mean.bit_length() - 1, 0))))


def sizes(assignments: int, experts: int) -> tuple[int, ...]:
    """Rows of a run, ascending: the most, twice an expert's mean load, and quarters of that."""
    most = min(_power(assignments), max(8, min(128, _power(2 * assignments // experts))))
    return tuple(sorted({-(-most * quarter // 4) for quarter in (1, 2, 3, 4)}))


def _power(number: int) -> int:
    """The least power of 2 that is not below it."""
    return 1 << max(number - 1, 0).bit_length()


def loads(expert: Array, experts: int) -> tuple[Array, Array]:
    """Which assignments have an expert, and how many each expert has."""
    valid = (expert >= 0) & (expert < experts)
    key = jnp.where(valid, expert, experts).astype(jnp.int32)
    return valid, jnp.zeros(experts + 1, jnp.int32).at[key].add(1)[:-1]


def runs(expert: Array, experts: int, size: int) -> Runs:
    """Runs of at most `size`, as many as the worst distribution of loads needs."""
    s = segments(expert, experts)
    owner, rank, full = _cut(s, size)
    fill = jnp.where(full, jnp.minimum(s.count[owner] - rank, size), 0)
    start = jnp.where(full, s.first[owner] + rank, expert.shape[0])
    return Runs(s.order, s.slot, owner, start, fill)


def blocks(expert: Array, experts: int, size: int) -> Layout:
    """Each expert's assignments in blocks of `size`: none is dropped.

    There are as many blocks as the worst distribution of loads needs; those in use come first.
    """
    s = segments(expert, experts)
    owner, rank, full = _cut(s, size)
    needed = -(-s.count // size)
    begin = jnp.cumsum(needed, dtype=jnp.int32) - needed
    row = jnp.arange(size, dtype=jnp.int32)
    return Layout(
        _source(s, owner, rank[:, None] + row[None, :]),
        owner,
        full,
        jnp.where(s.valid, begin[s.expert] * size + s.rank, 0),
        s.valid,
        s.count,
    )


def slab(expert: Array, experts: int, capacity: int) -> Layout:
    """One block of `capacity` rows an expert, for its first assignments; the others are dropped."""
    s = segments(expert, experts)
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


def segments(expert: Array, experts: int) -> Segments:
    valid, count = loads(expert, experts)
    key = jnp.where(valid, expert, experts).astype(jnp.int32)
    place = jnp.arange(key.shape[0], dtype=jnp.int32)
    if (experts + 1) * key.shape[0] < 2**31:
        order = jnp.sort(key * key.shape[0] + place) % key.shape[0]  # much quicker than argsort
    else:
        order = jnp.argsort(key, stable=True).astype(jnp.int32)
    first = jnp.cumsum(count, dtype=jnp.int32) - count
    slot = jnp.zeros_like(place).at[order].set(place, unique_indices=True)
    expert = jnp.where(valid, key, 0)
    return Segments(order, slot, first, count, expert, slot - first[expert], valid)


def _cut(s: Segments, size: int) -> tuple[Array, Array, Array]:
    """Blocks of one expert each: the expert, the rank of the first, and whether it is in use.

    There are as many blocks as the worst distribution of loads needs; those in use come first, and
    the others repeat the last one of them.
    """
    assignments, experts = s.order.shape[0], s.count.shape[0]
    most = (assignments + min(experts, assignments) * (size - 1)) // size
    needed = -(-s.count // size)
    end = jnp.cumsum(needed, dtype=jnp.int32)
    block = jnp.arange(most, dtype=jnp.int32)
    place = jnp.minimum(block, jnp.maximum(end[-1:] - 1, 0))
    owner = jnp.searchsorted(end, place, side="right", method="scan_unrolled")
    owner = jnp.minimum(owner, experts - 1).astype(jnp.int32)
    return owner, (place - (end - needed)[owner]) * size, block < end[-1:]


def _source(s: Segments, owner: Array, rank: Array) -> Array:
    """The assignments (b, m) at these ranks; the last one beyond it."""
    last = jnp.maximum(s.count[owner] - 1, 0)[:, None]
    place = s.first[owner][:, None] + jnp.minimum(rank, last)
    return s.order[jnp.minimum(place, s.order.shape[0] - 1)]
