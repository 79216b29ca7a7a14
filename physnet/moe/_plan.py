"""Which rows of a slab the assignments of tokens to experts take, without a sort."""

import math
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from physnet.moe import _layout

_BLOCK = 128  # assignments that are ranked by one product of matrices


class Plan(NamedTuple):
    """M = n k assignments on E experts with C rows each.

    A row that no assignment takes repeats its expert's first one, so that nothing new (a NaN at 0)
    comes from there; those of an expert without assignments hold any token.
    """

    source: Array  # (E, C): the assignment of each row
    real: Array  # (E, C): whether it is there for the first time
    slot: Array  # (M,): the row of each assignment among E C, -1 for none
    served: Array  # (M,): its expert; -1 if there is none or if it is dropped
    rest: Array  # (M,): its expert if that has no row for it; -1 for all others
    fits: Array  # (): whether there are no such others
    used: Array  # (E,): whether an expert has assignments


class Queue(NamedTuple):
    """Assignments in blocks of one expert each, of which `end[-1]` are in use."""

    order: Array  # (M,): assignments in the order of their experts
    first: Array  # (E,): where an expert's begin
    count: Array  # (E,)
    begin: Array  # (E,): an expert's first block
    end: Array  # (E,): the block after its last


def capacity(assignments: int, experts: int) -> int:
    """Rows that random loads exceed rarely: four standard deviations over their mean."""
    mean = assignments / experts
    rows = mean + 4 * math.sqrt(mean)
    return min(assignments, 16 * math.ceil(rows / 16))


def plan(expert: Array, experts: int, rows: int, *, drop: bool) -> tuple[Plan, Array, Array]:
    """The plan, which of the assignments (M,) have an expert that serves them, and all loads."""
    valid = (expert >= 0) & (expert < experts)
    key = jnp.where(valid, expert, experts).astype(jnp.int32)
    rank, count = _ranks(key, experts)
    inside = valid & (rank < rows)
    served = inside if drop else valid
    assignment = jnp.arange(key.shape[0], dtype=jnp.int32)
    # All indices differ, also beyond the slab: a plain write.
    place = jnp.where(inside, key * rows + rank, experts * rows + assignment)
    table = jnp.zeros(experts * rows, jnp.int32)
    table = table.at[place].set(assignment, mode="drop", unique_indices=True)
    table = table.reshape(experts, rows)
    real = jnp.arange(rows, dtype=jnp.int32)[None, :] < count[:, None]
    found = Plan(
        jnp.where(real, table, table[:, :1]),
        real,
        jnp.where(inside, place, -1),
        jnp.where(served, key, -1),
        jnp.where(served & ~inside, key, -1),
        jnp.all(count <= rows),
        count > 0,
    )
    return found, served, count


def queue(expert: Array, experts: int, size: int) -> Queue:
    """Blocks of `size` for the assignments (M,) whose expert is not -1."""
    s = _layout.segments(expert, experts)
    needed = -(-s.count // size)
    end = jnp.cumsum(needed, dtype=jnp.int32)
    return Queue(s.order, s.first, s.count, end - needed, end)


def block(queue: Queue, index: Array, size: int) -> tuple[Array, Array, Array]:
    """The expert of a block in use, its assignments (size,), and which of them are new (size,)."""
    owner = jnp.sum(queue.end <= index, dtype=jnp.int32)
    count = queue.count[owner]
    rank = (index - queue.begin[owner]) * size + jnp.arange(size, dtype=jnp.int32)
    source = queue.order[queue.first[owner] + jnp.minimum(rank, count - 1)]
    return owner, source, rank < count


def _ranks(key: Array, experts: int) -> tuple[Array, Array]:
    """The place (M,) of each assignment among its expert's, and their number (E,).

    By products with triangles of ones: counts up to 128 are exact in any format that a device
    multiplies, and sums are in float32.
    """
    assignments = key.shape[0]
    if assignments * experts > 2**24 or assignments > 2**17:
        s = _layout.segments(key, experts)
        return s.rank, s.count
    blocks = -(-assignments // _BLOCK)
    key = jnp.pad(key, (0, blocks * _BLOCK - assignments), constant_values=experts)
    hot = key.reshape(blocks, _BLOCK, 1) == jnp.arange(experts, dtype=jnp.int32)[None, None, :]
    hot = hot.astype(jnp.float32)
    total = jnp.sum(hot, axis=1)
    before = jnp.tri(blocks, k=-1, dtype=jnp.float32) @ total
    within = jnp.einsum("ij,bje->bie", jnp.tri(_BLOCK, k=-1, dtype=jnp.float32), hot)
    rank = jnp.sum((within + before[:, None, :]) * hot, axis=-1)
    rank = rank.astype(jnp.int32).reshape(-1)[:assignments]
    return rank, jnp.sum(total, axis=0).astype(jnp.int32)
