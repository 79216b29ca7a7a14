"""Softmax attention over the pairs of tokens that scatter."""

from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks, _dispatch, scattering
from physnet.attention import _arguments, _layout, _sequence
from physnet.attention._dense import dense, pair_mask
from physnet.attention._loops import Rule
from physnet.attention._over_blocks import attend, dense_pays, facts, kernel_pays

_BLOCK = 128


@overload
def scattering_attention(
    query: Float[Array, "*b T N H"],
    key: Float[Array, "*b S K H"],
    value: Float[Array, "*b S K H"],
    score: Float[Array, "..."] | None,
    *,
    threshold: ArrayLike | None,
    key_score: Float[Array, "..."] | None = None,
    local_window: int = 0,
    is_causal: bool = True,
    query_position: ArrayLike | None = None,
    key_position: ArrayLike | None = None,
    segment_ids: Any = None,
    schedule: scattering.Schedule | None = None,
    scale: float | None = None,
    return_lse: Literal[False] = False,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Float[Array, "*b T N H"]: ...


@overload
def scattering_attention(
    query: Float[Array, "*b T N H"],
    key: Float[Array, "*b S K H"],
    value: Float[Array, "*b S K H"],
    score: Float[Array, "..."] | None,
    *,
    threshold: ArrayLike | None,
    key_score: Float[Array, "..."] | None = None,
    local_window: int = 0,
    is_causal: bool = True,
    query_position: ArrayLike | None = None,
    key_position: ArrayLike | None = None,
    segment_ids: Any = None,
    schedule: scattering.Schedule | None = None,
    scale: float | None = None,
    return_lse: Literal[True],
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> tuple[Float[Array, "*b T N H"], Float[Array, "*b T N"]]: ...


def scattering_attention(
    query: Float[Array, "*b T N H"],
    key: Float[Array, "*b S K H"],
    value: Float[Array, "*b S K H"],
    score: Float[Array, "..."] | None,
    *,
    threshold: ArrayLike | None,
    key_score: Float[Array, "..."] | None = None,
    local_window: int = 0,
    is_causal: bool = True,
    query_position: ArrayLike | None = None,
    key_position: ArrayLike | None = None,
    segment_ids: Any = None,
    schedule: scattering.Schedule | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Float[Array, "*b T N H"] | tuple[Float[Array, "*b T N H"], Float[Array, "*b T N"]]:
    r"""Exact softmax attention over the pairs that pass the gate or lie in the local band.

        o_i = sum_j p_ij v_j,   p_ij = exp(scale q_i.k_j) / sum over the pairs of i
        pair (i, j):  (s_i s_j > tau  or  |t_i - t_j| < w)  and  t_j <= t_i

    Shapes: B batch (all arrays may come without it), T queries, S keys, N query heads, K key
    heads (N a multiple of K), H head dimension.

    Inside `shard_map` with `axis_name`, the devices of that axis hold the sequence in contiguous
    pieces: T and S are those of a piece. Keys and values are gathered from all pieces, and each
    device computes the pairs of its own queries, later pieces and closed blocks left out. A token
    that no query can lift over the threshold is not sent, but for the band over a border (in steps
    of a quarter of the tokens, by the head and piece that keep most; all are sent where positions
    are given or the band is wider than a piece). The backward pass gathers again, after one more
    forward pass over these pairs: what is kept for it are the piece's own arrays.

    Args:
        query: (B, T, N, H), real floating.
        key, value: (B, S, K, H), of the dtype of query; float16 and bfloat16 accumulate in float32.
        score: s (B, T) or, a query head, (B, T, N); any non-negative numbers. NaN or negative
            counts as 0. Not used (None will do) where threshold is None.
        threshold: tau >= 0, a number or (N,). None lets every pair pass.
        key_score: Scores of the keys, (B, S) or (B, S, N); those of the queries by default.
        local_window: w: pairs nearer than w always take part (1: the token itself). Static.
        is_causal: Whether later keys are left out. Static.
        query_position, key_position: t, integers (B, T) or (T,), (B, S) or (S,): the place in the
            sequence where the arrays hold a part of it, or in another order; less than 2^31 apart.
            Needed where S is not T. At 2^31 - 1 there is no token: an unused slot of a cache, for
            instance.
        segment_ids: Integers (B, T) or (T,): tokens of different segments form no pair. A pair of
            arrays where S is not T.
        schedule: An order of tokens made by `scattering.schedule`, with batch axes (B,), or (B, K)
            for an order a key head. It decides how many blocks are skipped, never the result. By
            default one is made from `scattering.default_edges`.
        scale: 1 / sqrt(H) if not given. Static.
        return_lse: Also return log sum exp over the pairs of each query.
        axis_name: The mesh axis that the sequence is split over. Default positions then count from
            the first piece on; scores, positions and segments are those of the piece, a schedule
            is one of its T queries and the keys of all pieces.
        implementation: None for the fastest one.

    Returns:
        o (B, T, N, H) of the dtype of query; a query without a pair gives exactly 0. With
        `return_lse` a pair with (B, T, N), float32 (float64 for float64), -inf without a pair.
        Score and threshold get no gradient: the gate is hard. A query that sees a token with a NaN
        or infinity in its key or value is NaN, and so is its gradient; no other is touched, and
        the gradient in a token that itself holds one is 0.

    Raises:
        ValueError: Shapes that do not fit; a threshold that is NaN or negative where it is known.
        TypeError: Arrays that are not real floating or differ in dtype.
        NotImplementedError: A named implementation that there is not.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> value = jnp.array([1.0, 2.0, 4.0]).reshape(3, 1, 1)
        >>> query = jnp.zeros_like(value)
        >>> score = jnp.array([1.0, 0.1, 0.5])
        >>> attend = jax.jit(lambda *x: scattering_attention(*x, threshold=0.3))
        >>> attend(query, query, value, score).ravel().tolist()  # pairs: (0, 0), (2, 0)
        [1.0, 0.0, 1.0]

    References:
        Milakov & Gimelshein 2018, Online normalizer calculation for softmax; Dao 2023,
        FlashAttention-2.
    """
    if axis_name is not None:
        return _sequence.over_pieces(
            scattering_attention,
            query,
            key,
            value,
            score,
            axis_name=axis_name,
            threshold=threshold,
            key_score=key_score,
            local_window=local_window,
            is_causal=is_causal,
            query_position=query_position,
            key_position=key_position,
            segment_ids=segment_ids,
            schedule=schedule,
            scale=scale,
            return_lse=return_lse,
            implementation=implementation,
        )
    window = _checks.positive_int("local_window", local_window, minimum=0)
    window = min(window, int(_arguments.NO_TOKEN))  # as far as positions go
    x, unbatched = _arguments.tensors(query, key, value)
    scores = _arguments.scores(score, key_score, threshold, x, unbatched)
    name = _dispatch.choose(
        "attention.scattering_attention",
        implementation,
        pays=kernel_pays(x),
        **facts(x, _BLOCK if schedule is None else schedule.block_size, scores),
    )
    placed = is_causal or (window > 0 and scores is not None)
    pairs = _arguments.Pairs(
        scores,
        _arguments.positions(query_position, key_position, x, needed=placed),
        _arguments.segments(segment_ids, x),
    )
    factor = _arguments.scale_of(scale, x.query.shape[-1])
    if schedule is not None:
        _check_schedule(schedule, x)
    if name == "xla" and dense_pays(x):
        mask = pair_mask(pairs, local_window=window, is_causal=is_causal)
        output, lse = dense(x, mask, factor)
    else:
        output, lse = _over_blocks(name, x, pairs, schedule, window, is_causal, factor)
    if not isinstance(pairs.position.query, np.ndarray):  # what lies where no token is may be NaN
        none = (pairs.position.query == _arguments.NO_TOKEN)[..., None]
        output, lse = jnp.where(none[..., None], 0, output), jnp.where(none, -jnp.inf, lse)
    if unbatched:
        output, lse = output[0], lse[0]
    return (output, lse) if return_lse else output


def _over_blocks(name, x, pairs, schedule, window: int, is_causal: bool, scale: float):
    size = _BLOCK if schedule is None else schedule.block_size
    if pairs.scores is None:
        rules = (Rule("all", 0, is_causal, scale),)
        plans = (_in_sequence(name, x, pairs, size),)
    else:
        rules = (Rule("far" if window else "all", window, is_causal, scale),)
        plans = (_by_class(x, pairs, schedule, size, is_causal),)
        if window:
            rules = (*rules, Rule("near", window, is_causal, scale))
            plans = (*plans, _in_sequence(name, x, pairs, size))
    return attend(name, rules, size, x, pairs, plans)


def _in_sequence(name, x, pairs, size: int) -> _layout.Plan:
    """Blocks of consecutive positions."""
    if name != "xla" and all(isinstance(position, np.ndarray) for position in pairs.position):
        return _layout.Plan(None, None, None)  # tokens are in this order as they come
    orders = []
    for position in pairs.position:
        one_class = jnp.zeros_like(position)
        order = scattering.block_order(one_class, position, block_size=size, classes=1)
        orders.append(jnp.broadcast_to(order, (x.query.shape[0], order.shape[1])))
    return _layout.Plan(orders[0], orders[1], None)


def _by_class(x, pairs, schedule, size: int, is_causal: bool) -> _layout.Plan:
    """Blocks of tokens of like score; a head's own order where scores or thresholds are its own."""
    batch, time, heads, _ = x.query.shape
    key_heads = x.key.shape[2]
    s = pairs.scores
    own = max(s.query.shape[2], s.key.shape[2], s.threshold.shape[0]) > 1
    if schedule is not None:
        own = own or schedule.query_order.size // schedule.query_order.shape[-1] > batch
    split = own and heads > 1
    rows = batch * key_heads if split else batch
    if schedule is None:
        scores = [jnp.max(_layout.row_scores(a, key_heads, split), axis=2) for a in s[:2]]
        tau = jnp.min(_layout.row_threshold(s.threshold, batch, key_heads, split), axis=1)
        edges = jax.vmap(lambda t: scattering.default_edges(t, length=time, block_size=size))(tau)
        positions = [
            # As the tokens come: `schedule` knows then that they are in order.
            None if isinstance(label, np.ndarray) else _layout.row_labels(label, batch, rows)
            for label in pairs.position
        ]
        alike = s.key is s.query and pairs.position.key is pairs.position.query
        schedule = scattering.schedule(
            scores[0],
            tau,
            key_score=None if alike else scores[1],
            query_position=positions[0],
            key_position=positions[0] if alike else positions[1],
            edges=edges,
            block_size=size,
            is_causal=is_causal,
        )

    def of_rows(order):
        order = order.reshape(batch, -1, 1, order.shape[-1])
        shape = (*order.shape[:2], rows // batch // order.shape[1], order.shape[3])
        return jnp.broadcast_to(order, shape).reshape(rows, -1)

    return _layout.Plan(of_rows(schedule.query_order), of_rows(schedule.key_order), None)


def _check_schedule(schedule, x) -> None:
    batch, time, _, _ = x.query.shape
    span, key_heads = x.key.shape[1:3]
    if (schedule.query_length, schedule.key_length) != (time, span):
        raise ValueError(
            f"schedule must be of {time} queries and {span} keys, got {schedule.query_length} "
            f"and {schedule.key_length}"
        )
    shape = schedule.query_order.shape[:-1]
    if shape not in ((batch,), (batch, key_heads)) and not (
        batch == 1 and shape in ((), (key_heads,))
    ):
        raise ValueError(
            f"schedule must have the batch axes ({batch},) or, for scores of each head, "
            f"({batch}, {key_heads}) with one order a key head, got {shape}"
        )
