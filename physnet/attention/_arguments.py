"""Arguments of attention, checked and brought to one form.

Shapes: B batch, T queries, S keys, N query heads, K key heads, H head dimension. A 1 stands for an
axis that is shared.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from physnet import _checks, scattering

NO_TOKEN = np.int32(2**31 - 1)  # a key at this position takes part in no pair


class Tensors(NamedTuple):
    """What carries gradients."""

    query: jax.Array  # (B, T, N, H)
    key: jax.Array  # (B, S, K, H)
    value: jax.Array  # (B, S, K, H)


class Scores(NamedTuple):
    """What the gate compares."""

    query: jax.Array  # (B, T, 1 or N)
    key: jax.Array  # (B, S, 1 or N)
    threshold: jax.Array  # (1 or N,)


class Labels(NamedTuple):
    """Integers of queries and keys."""

    query: jax.Array  # (B or 1, T)
    key: jax.Array  # (B or 1, S)


class Spoil(NamedTuple):
    """NaN at tokens that hold something non-finite, else 0; of the accumulator's dtype."""

    query: jax.Array  # (B, T, N)
    key: jax.Array  # (B, S, K), of key or value


class Pairs(NamedTuple):
    """What decides which pairs take part; without scores all of them pass."""

    scores: Scores | None
    position: Labels
    segment: Labels | None


def tensors(query: Any, key: Any, value: Any) -> tuple[Tensors, bool]:
    """Query, key and value with a batch axis, and whether they came without one."""
    named = {"query": query, "key": key, "value": value}
    arrays = {name: _checks.real(name, array) for name, array in named.items()}
    rank = arrays["query"].ndim
    for name, array in arrays.items():
        if array.ndim not in (3, 4) or array.ndim != rank:
            raise ValueError(
                f"{name} must have shape (batch, time, heads, head_dim), or all three without "
                f"batch, got {array.shape} beside query {arrays['query'].shape}"
            )
        if array.dtype != arrays["query"].dtype:
            raise TypeError(f"{name} must be {arrays['query'].dtype} like query, got {array.dtype}")
    q, k, v = (array if rank == 4 else array[None] for array in arrays.values())
    if k.shape != v.shape:
        raise ValueError(f"value must have the shape of key {key.shape}, got {value.shape}")
    if q.shape[0] != k.shape[0] or q.shape[3] != k.shape[3]:
        raise ValueError(
            f"key must have the batch and head_dim of query {query.shape}, got {key.shape}"
        )
    if k.shape[2] == 0 or q.shape[2] % k.shape[2]:
        raise ValueError(
            f"query must have a multiple of key's {k.shape[2]} heads, got {q.shape[2]}"
        )
    return Tensors(q, k, v), rank == 3


def scores(
    score: Any, key_score: Any, threshold: ArrayLike | None, x: Tensors, unbatched: bool
) -> Scores | None:
    """Scores and threshold, checked, of one dtype."""
    if threshold is None:
        return None
    if score is None:
        raise ValueError("score must be given where threshold is not None")
    batch, time, heads, _ = x.query.shape
    span = x.key.shape[1]
    if key_score is None and time != span:
        raise ValueError(
            f"key_score must be given where queries ({time}) and keys ({span}) differ in number"
        )
    query = _score("score", score, (batch, time, heads), unbatched)
    key = query
    if key_score is not None:
        key = _score("key_score", key_score, (batch, span, heads), unbatched)
    dtype = np.result_type(query.dtype, key.dtype)
    bound = scattering.as_threshold(threshold, dtype)
    if bound.shape not in ((), (1,), (heads,)):
        raise ValueError(
            f"threshold must be a number or have one entry a head ({heads},), got {bound.shape}"
        )
    return Scores(query.astype(dtype), key.astype(dtype), bound.reshape(-1))


def _score(name: str, score: Any, shape: tuple[int, int, int], unbatched: bool) -> jax.Array:
    array = scattering.as_score(name, score)
    array = array[None] if unbatched else array
    if array.shape == shape[:2]:
        return array[..., None]
    if array.shape != shape:
        shown = [str(s[unbatched:]) for s in (shape[:2], shape)]
        raise ValueError(f"{name} must have shape {' or '.join(shown)}, got {jnp.shape(score)}")
    return array


def positions(query: Any, key: Any, x: Tensors, *, needed: bool) -> Labels:
    """Positions, int32; by default those of the order given."""
    time, span = x.query.shape[1], x.key.shape[1]
    if needed and time != span and (query is None or key is None):
        raise ValueError(
            f"query_position and key_position must be given where queries ({time}) and keys "
            f"({span}) differ in number and positions matter"
        )
    if query is key and time == span:
        both = _integers("query_position", query, x.query.shape[:2])
        return Labels(both, both)
    return Labels(
        _integers("query_position", query, (x.query.shape[0], time)),
        _integers("key_position", key, (x.key.shape[0], span)),
    )


def segments(segment_ids: Any, x: Tensors) -> Labels | None:
    """Segment ids from one array or a pair."""
    if segment_ids is None:
        return None
    pair = segment_ids if isinstance(segment_ids, tuple) else (segment_ids, segment_ids)
    if len(pair) != 2:
        raise ValueError(f"segment_ids must be an array or a pair of them, got {len(pair)}")
    return Labels(
        _integers("segment_ids", pair[0], x.query.shape[:2]),
        _integers("segment_ids", pair[1], x.key.shape[:2]),
    )


def _integers(name: str, value: Any, shape: tuple[int, ...]) -> Any:
    if value is None:
        return np.arange(shape[1], dtype=np.int32)[None]  # known to be in order, under jit too
    array = _checks.integer(name, value)
    if array.shape not in (shape, (1, shape[1]), shape[1:]):
        raise ValueError(f"{name} must have shape {shape} or {shape[1:]}, got {array.shape}")
    return array.astype(jnp.int32).reshape(-1, shape[1])


def accumulator(dtype: Any) -> np.dtype:
    """float64 for float64 inputs, else float32."""
    return np.dtype(np.float64 if dtype == jnp.float64 else np.float32)


def scale_of(scale: float | None, head_dim: int) -> float:
    """The given scale, or 1 / sqrt(H)."""
    if scale is None:
        return head_dim**-0.5
    found = _checks.number("scale", scale)
    if not np.isfinite(found):
        raise ValueError(f"scale must be a finite static number, got {scale!r}")
    return found
