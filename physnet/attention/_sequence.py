"""Sequences cut over the devices of a mesh axis: each device's queries, the keys of all of them.

Keys and values are gathered (`_exchange`), and one call runs over the pairs of the own queries: its
lists of blocks know that no pair lies in a later piece, that the gate closes others, and where the
local band crosses a border. Nothing that is gathered outlives the call: the backward pass gathers
again.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from physnet import _checks, _varying
from physnet.attention import _arguments, _exchange


def over_pieces(
    attend: Callable[..., Any],
    query: Any,
    key: Any,
    value: Any,
    score: Any,
    *,
    axis_name: str,
    threshold: Any,
    key_score: Any,
    local_window: int,
    is_causal: bool,
    query_position: Any,
    key_position: Any,
    segment_ids: Any,
    **options: Any,
) -> Any:
    """`scattering_attention` of this device's queries.

    Args:
        attend: it; the others are its arguments, of this piece.
        query, key, value, score, threshold, key_score, local_window, is_causal: as it takes them.
        axis_name: The axis of the mesh.
        query_position, key_position, segment_ids: as it takes them, or None.
        options: the rest.
    """
    window = _checks.positive_int("local_window", local_window, minimum=0)
    x, unbatched = _arguments.tensors(query, key, value)
    scores = _arguments.scores(score, key_score, threshold, x, unbatched)
    time, span, key_heads = x.query.shape[1], *x.key.shape[1:3]
    placed = query_position is not None or key_position is not None
    if time != span and (query_position is None or key_position is None):
        raise ValueError(
            f"query_position and key_position must be given where queries ({time}) and keys "
            f"({span}) differ in number"
        )
    # As they come, and the band no wider than a piece: then it is known where the band is.
    chosen = scores is not None and not placed and window <= span + 1
    place = lax.axis_index(axis_name) * time + jnp.arange(time, dtype=jnp.int32)
    positions = tuple(place if p is None else p for p in (query_position, key_position))
    segments = segment_ids
    if segments is not None and not isinstance(segments, tuple):
        segments = (segments, segments)

    @jax.checkpoint
    def run(arrays: Any) -> Any:
        x, scores, positions, segments = arrays
        if chosen:
            keep = _exchange.needed(scores, key_heads, axis_name)
            keys = _exchange.kept(x.key, x.value, keep, window, is_causal, axis_name)
        else:
            keys = tuple(_exchange.whole(a, axis_name, 1) for a in x[1:])
        if segments is not None:
            segments = (segments[0], _exchange.whole(segments[1], axis_name, -1))
        position = _exchange.whole(positions[1], axis_name, -1)
        gate: Any = {"score": None, "threshold": None}
        if scores is not None:
            every = _exchange.whole(scores.key, axis_name, 1)
            gate = {"score": _of_heads(scores.query, x), "key_score": _of_heads(every, x)}
            gate["threshold"] = scores.threshold
        return attend(
            x.query,
            *keys,
            local_window=window,
            is_causal=is_causal,
            query_position=positions[0],
            key_position=position,
            segment_ids=segments,
            **gate,
            **options,
        )

    arrays = jax.tree.map(jnp.asarray, (x, scores, positions, segments))
    output = run(_varying.alike(arrays, lax.axis_index(axis_name)))
    return jax.tree.map(lambda a: a[0], output) if unbatched else output


def _of_heads(score: jax.Array, x: _arguments.Tensors) -> jax.Array:
    """(B, T, 1 or N) as (B, T) or (B, T, N)."""
    return score[..., 0] if score.shape[2] == 1 and x.query.shape[2] > 1 else score
