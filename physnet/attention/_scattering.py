"""Softmax attention over the pairs of tokens that scatter."""

from typing import Any, Literal, overload

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks, _dispatch
from physnet.attention import _arguments
from physnet.attention._dense import dense, pair_mask


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
    scale: float | None = None,
    return_lse: Literal[False] = False,
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
    scale: float | None = None,
    return_lse: Literal[True],
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
    scale: float | None = None,
    return_lse: bool = False,
    implementation: _dispatch.Implementation | None = None,
) -> Float[Array, "*b T N H"] | tuple[Float[Array, "*b T N H"], Float[Array, "*b T N"]]:
    r"""Exact softmax attention over the pairs that pass the gate or lie in the local band.

        o_i = sum_j p_ij v_j,   p_ij = exp(scale q_i.k_j) / sum over the pairs of i
        pair (i, j):  (s_i s_j > tau  or  |t_i - t_j| < w)  and  t_j <= t_i

    Shapes: B batch (all arrays may come without it), T queries, S keys, N query heads, K key
    heads (N a multiple of K), H head dimension.

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
            sequence where the arrays hold a part of it, or in another order. Needed where S is
            not T.
        segment_ids: Integers (B, T) or (T,): tokens of different segments form no pair. A pair of
            arrays where S is not T.
        scale: 1 / sqrt(H) if not given. Static.
        return_lse: Also return log sum exp over the pairs of each query.
        implementation: None for the fastest one.

    Returns:
        o (B, T, N, H) of the dtype of query; a query without a pair gives exactly 0. With
        `return_lse` a pair with (B, T, N), float32 (float64 for float64), -inf without a pair.
        Score and threshold get no gradient: the gate is hard. A query that sees a token with a NaN
        or infinity in its key or value is NaN; no other is touched.

    Raises:
        ValueError: Shapes that do not fit; a threshold that is NaN or negative where it is known.
        TypeError: Arrays that are not real floating or differ in dtype.
        NotImplementedError: A named implementation that there is not.

    Example:
        >>> import jax.numpy as jnp
        >>> value = jnp.array([1.0, 2.0, 4.0]).reshape(3, 1, 1)
        >>> query = jnp.zeros_like(value)
        >>> score = jnp.array([1.0, 0.1, 0.5])
        >>> output = scattering_attention(query, query, value, score, threshold=0.3)
        >>> output.ravel().tolist()  # pairs: (0, 0), (2, 0)
        [1.0, 0.0, 1.0]

    References:
        Milakov & Gimelshein 2018, Online normalizer calculation for softmax; Dao 2023,
        FlashAttention-2.
    """
    _dispatch.choose("attention.scattering_attention", implementation)
    window = _checks.positive_int("local_window", local_window, minimum=0)
    x, unbatched = _arguments.tensors(query, key, value)
    scores = _arguments.scores(score, key_score, threshold, x, unbatched)
    placed = is_causal or (window > 0 and scores is not None)
    pairs = _arguments.Pairs(
        scores,
        _arguments.positions(query_position, key_position, x, needed=placed),
        _arguments.segments(segment_ids, x),
    )
    factor = _arguments.scale_of(scale, x.query.shape[-1])
    mask = pair_mask(pairs, local_window=window, is_causal=is_causal)
    output, lse = dense(x, mask, factor)
    if unbatched:
        output, lse = output[0], lse[0]
    return (output, lse) if return_lse else output
