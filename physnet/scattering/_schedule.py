"""Block schedules: an order of tokens in which a product gate leaves whole blocks empty."""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet.scattering._classes import best_edges, class_of
from physnet.scattering._gates import as_score, as_threshold
from physnet.scattering._order import NO_TOKEN, block_order


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """Where the pairs that pass a gate can lie, once tokens are ordered by (class, position).

    A pytree with the batch axes (...) of the scores; Q and K are the query and key blocks, C the
    classes. Storage is O(slots + Q C): the kept blocks of a class are a range.

    Attributes:
        query_order: (..., Q block_size) int32, the token in each slot; T where it is empty.
        key_order: (..., K block_size), likewise.
        first, last: (..., Q, C) int32: of class c the key blocks first..last-1 can hold a passing
            pair with the query block; the others hold none.
        full: (..., Q, C) int32: in the blocks first..first+full-1 every pair of two tokens passes,
            so that they need no mask but for empty slots. Where heads share the order of their
            largest score, this holds for that score alone.
        kept_fraction: (...) float32: blocks of these ranges and of the local band, over the blocks
            of dense attention in position order.
        block_size, classes, local_window, is_causal: As given. Static.
        query_length, key_length: T and S. Static.
    """

    query_order: Any
    key_order: Any
    first: Any
    last: Any
    full: Any
    kept_fraction: Any
    block_size: int = dataclasses.field(metadata={"static": True})
    classes: int = dataclasses.field(metadata={"static": True})
    local_window: int = dataclasses.field(metadata={"static": True})
    is_causal: bool = dataclasses.field(metadata={"static": True})
    query_length: int = dataclasses.field(metadata={"static": True})
    key_length: int = dataclasses.field(metadata={"static": True})


class _Blocks(NamedTuple):
    """Bounds of the tokens in each block."""

    least: Array  # smallest score
    most: Array  # largest score
    begin: Array  # smallest position; NO_TOKEN in an empty block
    end: Array  # largest position


def schedule(
    score: Float[Array, "*b T"],
    threshold: ArrayLike,
    *,
    key_score: Float[Array, "*b S"] | None = None,
    query_position: Int[Array, "..."] | None = None,
    key_position: Int[Array, "..."] | None = None,
    edges: ArrayLike | None = None,
    local_window: int = 0,
    block_size: int = 128,
    classes: int = 16,
    is_causal: bool = True,
) -> Schedule:
    r"""Order tokens by (score class, position) and bound what each pair of blocks can hold.

    A key block is skipped where max s_q max s_k <= tau or every key is later than every query;
    it needs no mask where min s_q min s_k > tau and no key is later than any query.

    With `edges` given (by `default_edges` or `class_edges`) a token's slot in its block depends on
    earlier tokens alone, and attention sums in an order that no later token moves: causal to the
    bit. Without, the edges are fitted to each sequence: for offline use, as later scores then move
    earlier sums (by rounding).

    Args:
        score: s (..., T), of the queries; NaN or negative counts as 0.
        threshold: tau >= 0, a number or an array that broadcasts with the batch axes.
        key_score: Scores of the keys (..., S) where those are others.
        query_position, key_position: Integers (..., T) or (T,), (..., S) or (S,) where the arrays
            are not in the order of the sequence; needed where S is not T. A key at 2^31 - 1 is no
            token.
        edges: Ascending class edges (c,) or (..., c); c + 1 classes.
        local_window: w: the band |i - j| < w, which attention computes apart in position order; it
            enters kept_fraction only. Static.
        block_size: Tokens of a block. Static.
        classes: The most classes to make where edges are fitted. Static.
        is_causal: Whether later keys are left out. Static.

    Returns:
        A `Schedule` with the batch axes of score.

    Raises:
        ValueError: Shapes that do not fit, T = 0, a threshold that is known to be negative or NaN.
        TypeError: Scores that are not real floating, positions that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> s = jnp.tile(jnp.array([1.0, 0.1]), 512)  # every second token is virtual
        >>> plan = schedule(s, 0.5, edges=jnp.array([0.5]))
        >>> float(plan.kept_fraction)  # 10 of 36 blocks
        0.2777777910232544
    """
    size = _checks.positive_int("block_size", block_size)
    window = _checks.positive_int("local_window", local_window, minimum=0)
    query = _checks.at_least_1d("score", as_score("score", score))
    key = query
    if key_score is not None:
        key = _checks.at_least_1d("key_score", as_score("key_score", key_score))
    dtype = np.result_type(query.dtype, key.dtype)
    query, key = query.astype(dtype), key.astype(dtype)
    batch, length, span = query.shape[:-1], query.shape[-1], key.shape[-1]
    if 0 in (length, span):
        raise ValueError(f"score must have at least one token, got shape {query.shape}")
    if key.shape[:-1] != batch:
        raise ValueError(f"key_score must have the batch axes {batch}, got shape {key.shape}")
    if length != span and is_causal and (query_position is None or key_position is None):
        raise ValueError(
            f"query_position and key_position must be given where queries ({length}) and keys "
            f"({span}) differ in number"
        )
    tau = as_threshold(threshold, dtype)
    if _checks.broadcast(score=batch, threshold=tau.shape) != batch:
        raise ValueError(f"threshold must broadcast with the batch {batch}, got shape {tau.shape}")
    tau = jnp.broadcast_to(tau, batch)
    places = (
        _positions("query_position", query_position, (*batch, length)),
        _positions("key_position", key_position, (*batch, span)),
    )
    alike = key_score is None and key_position is query_position
    if edges is not None:
        edges = _checks.at_least_1d("edges", _checks.array("edges", edges, dtype))
        if edges.shape[:-1] not in ((), batch):
            raise ValueError(f"edges must have the batch axes {batch} or none, got {edges.shape}")
        edges = jnp.broadcast_to(edges, (*batch, edges.shape[-1]))
        classes = edges.shape[-1] + 1
    classes = _checks.positive_int("classes", classes, minimum=1 if edges is not None else 2)

    run: Any = functools.partial(_single, size, window, classes, is_causal, alike)
    arrays = (query, None if key_score is None else key, tau, edges, *places)
    axes = [None if x is None else 0 for x in arrays]
    for _ in batch:
        run = jax.vmap(run, in_axes=axes)
    return Schedule(
        *run(*arrays),
        block_size=size,
        classes=classes,
        local_window=window,
        is_causal=is_causal,
        query_length=length,
        key_length=span,
    )


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4))
def _single(size, window, classes, is_causal, alike, query, key, tau, edges, place, key_place):
    """The arrays of a schedule for a single sequence; `alike`: the keys are the queries.

    None stands for scores of the queries and for positions in the order given, which is then known.
    """
    if edges is None:
        pooled = query if key is None else jnp.concatenate([query, key])
        edges = best_edges(jnp.sort(pooled), tau, query.shape[0], size, classes, is_causal)

    def side(score, position):
        rank = class_of(score, edges)
        order = block_order(rank, position, block_size=size, classes=classes)
        return order, _bounds(order, score, position, size), rank

    key = query if key is None else key
    place = _in_order(query) if place is None else place
    key_place = _in_order(key) if key_place is None else key_place
    query_order, rows, rank = side(query, place)
    key_order, columns = query_order, rows
    if alike:
        key_place = place
    else:
        key_order, columns, rank = side(key, key_place)
    first, last, full = _ranges(rows, columns, rank, tau, size, classes, is_causal)
    dense, band = _position_blocks(place, key_place, window, size, is_causal)
    kept = (jnp.sum(last - first).astype(jnp.float32) + band) / dense
    return query_order, key_order, first, last, full, kept


def _positions(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    if value is None:
        return None
    array = _checks.integer(name, value)
    if array.shape not in (shape, shape[-1:]):
        raise ValueError(f"{name} must have shape {shape} or {shape[-1:]}, got {array.shape}")
    return jnp.broadcast_to(array.astype(jnp.int32), shape)


def _in_order(score: Array) -> np.ndarray:
    return np.arange(score.shape[0], dtype=np.int32)


def _bounds(order: Array, score: Array, position: Any, size: int) -> _Blocks:
    position = jnp.asarray(position)
    token = position != NO_TOKEN

    def blocks(values, empty):
        values = jnp.where(token, values, jnp.asarray(empty, values.dtype))
        return values.at[order].get(mode="fill", fill_value=empty).reshape(-1, size)

    return _Blocks(
        jnp.min(blocks(score, jnp.inf), axis=-1),
        jnp.max(blocks(score, 0), axis=-1),
        jnp.min(blocks(position, NO_TOKEN), axis=-1),
        jnp.max(blocks(position, -NO_TOKEN), axis=-1),
    )


def _ranges(rows: _Blocks, columns: _Blocks, rank, tau, size: int, classes: int, is_causal: bool):
    """first, last and full (Q, C), a few query blocks at a time: O(K C) memory."""
    count = jnp.sum(
        rank[:, None] == jnp.arange(classes, dtype=jnp.int32)[None], axis=0, dtype=jnp.int32
    )
    stop = jnp.cumsum((count + size - 1) // size)  # the first block behind each class
    block = jnp.arange(columns.most.shape[0], dtype=jnp.int32)
    owner = jnp.sum(block[:, None] >= stop[None, :], axis=1, dtype=jnp.int32)
    member = owner[:, None] == jnp.arange(classes, dtype=jnp.int32)[None]  # (K, C)
    block, none = block[:, None], jnp.int32(block.shape[0])

    def of_row(row: _Blocks):
        active = (row.most * columns.most > tau) & (columns.begin != NO_TOKEN)
        passes = (row.least * columns.least > tau) & active
        if is_causal:
            active = active & (columns.begin <= row.end)
            passes = passes & active & (columns.end <= row.begin)
        mine = member & active[:, None]
        first = jnp.min(jnp.where(mine, block, none), axis=0)
        last = jnp.max(jnp.where(mine, block + 1, 0), axis=0)
        first = jnp.minimum(first, last)
        masked = member & (block >= first[None]) & ~passes[:, None]
        stop = jnp.min(jnp.where(masked, block, last[None]), axis=0)
        return first, last, jnp.clip(stop - first, 0, last - first)

    return lax.map(of_row, rows, batch_size=min(64, rows.most.shape[0]))


def _position_blocks(query, key, window: int, size: int, is_causal: bool):
    """Blocks of dense attention in position order, and those that hold pairs of the band."""

    def spans(position):
        ordered = jnp.sort(jnp.asarray(position))
        short = -ordered.shape[0] % size
        begin = ordered[::size]
        end = jnp.concatenate(
            [ordered[size - 1 :: size], ordered[-1:]] if short else [ordered[size - 1 :: size]]
        )
        return begin, end

    (begin, end), (key_begin, key_end) = spans(query), spans(key)
    limit = end if is_causal else jnp.full_like(end, NO_TOKEN - 1)
    # All at once: blocks are few, and on GPUs every step of a bisection is kernel launches.
    place = functools.partial(jnp.searchsorted, side="right", method="compare_all")
    dense = jnp.sum(place(key_begin, limit))
    if window == 0:
        return dense.astype(jnp.float32), jnp.float32(0)
    above = place(key_begin, jnp.minimum(limit, end + (window - 1)))
    below = place(key_end, begin - window)
    band = jnp.sum(jnp.maximum(above - below, 0))
    return dense.astype(jnp.float32), band.astype(jnp.float32)
