"""Hard gates on scattering scores: pairs of tokens, tokens, heads and blocks of tokens."""

from typing import Literal

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from physnet import _checks


def as_score(name: str, score: Float[Array, "..."]) -> Float[Array, "..."]:
    """Scores as every gate takes them: float32 (float64 stays), NaN and negative as 0.

    Args:
        name: What an error calls it.
        score: Real floating, any shape.

    Returns:
        The scores, of the same shape.

    Raises:
        TypeError: Another dtype.
    """
    score = _checks.real(name, score)
    score = score.astype(jnp.float64 if score.dtype == jnp.float64 else jnp.float32)
    return jnp.where(score > 0, score, jnp.zeros_like(score))


def as_threshold(threshold: ArrayLike, dtype: np.dtype) -> Float[Array, "..."]:
    """A threshold as every gate takes it: of the dtype of the scores.

    Args:
        threshold: A number or an array.
        dtype: Of the scores.

    Returns:
        An array of that dtype.

    Raises:
        ValueError: It is known to be negative or NaN.
    """
    known = _checks.known("threshold", threshold)
    if known is not None and not np.all(known >= 0):
        raise ValueError(f"threshold must be >= 0 and not NaN, got {threshold!r}")
    return _checks.array("threshold", threshold, dtype)


def pair_gate(
    score_query: Float[Array, "*#b T"],
    score_key: Float[Array, "*#c S"],
    threshold: ArrayLike,
) -> Bool[Array, "*d T S"]:
    r"""Which pairs of tokens scatter: s_i s_j > tau, for all i and j.

    Args:
        score_query: s_i (..., T). NaN or negative counts as 0. The product is formed and compared
            in float32; in float64 if a score is float64.
        score_key: s_j (..., S).
        threshold: tau >= 0, a number or an array that broadcasts with the batch axes.

    Returns:
        (..., T, S) booleans. There is no gradient.

    Raises:
        ValueError: A threshold that is known to be negative or NaN.
        TypeError: Scores that are not real floating.

    Example:
        >>> import jax.numpy as jnp
        >>> s = jnp.array([1.0, 0.5, 0.1])
        >>> pair_gate(s, s, 0.2).astype(int).tolist()
        [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    """
    query = _checks.at_least_1d("score_query", as_score("score_query", score_query))
    key = _checks.at_least_1d("score_key", as_score("score_key", score_key))
    dtype = np.result_type(query.dtype, key.dtype)
    bound = as_threshold(threshold, dtype)
    batch = _checks.broadcast(
        score_query=query.shape[:-1], score_key=key.shape[:-1], threshold=bound.shape
    )
    query, key = (jnp.broadcast_to(x, (*batch, x.shape[-1])).astype(dtype) for x in (query, key))
    bound = jnp.broadcast_to(bound, batch)[..., None, None]
    return query[..., :, None] * key[..., None, :] > bound


def token_gate(score: Float[Array, "..."], threshold: ArrayLike) -> Bool[Array, "..."]:
    r"""Which tokens are physical: s_j > tau. The others are virtual particles.

    With scores of at most 1 a virtual particle has no pair that passes the pair gate of the same
    threshold: it takes part in the local band alone. Where the thresholds differ,
    `where(token_gate(s, t), s, 0)` are the scores with both gates.

    Args:
        score: any shape. NaN or negative counts as 0.
        threshold: tau >= 0, a number or an array that broadcasts with score.

    Returns:
        Booleans of the broadcast shape.

    Raises:
        ValueError, TypeError: As `pair_gate`.

    Example:
        >>> import jax.numpy as jnp
        >>> token_gate(jnp.array([0.3, 0.2, float("nan")]), 0.2).tolist()
        [True, False, False]
    """
    score = as_score("score", score)
    bound = as_threshold(threshold, score.dtype)
    shape = _checks.broadcast(score=score.shape, threshold=bound.shape)
    return jnp.broadcast_to(score, shape) > jnp.broadcast_to(bound, shape)


def head_gate(score: Float[Array, "*b T N"], threshold: ArrayLike) -> Bool[Array, "*b N"]:
    r"""Which heads are open: a head closes when all its tokens are virtual, max_t s_tn <= tau.

    It looks at the whole sequence, and is causal nevertheless as long as a token whose own gate is
    closed behaves alike in an open and in a closed head. That is so for a tau not above the pair
    threshold (scores are at most 1), or after `token_gate` with the same tau. Attention skips
    such a head by itself: its block lists are empty.

    Args:
        score: (..., T, N), integrated LDOS for instance. NaN or negative counts as 0.
        threshold: tau >= 0, a number or (N,).

    Returns:
        (..., N) booleans.

    Raises:
        ValueError, TypeError: As `pair_gate`.

    Example:
        >>> import jax.numpy as jnp
        >>> head_gate(jnp.array([[0.1, 0.3], [0.2, 0.0]]), 0.2).tolist()
        [False, True]
    """
    score = _checks.real("score", score)
    if score.ndim < 2 or score.shape[-2] == 0:
        raise ValueError(f"score must have shape (..., time, heads), time > 0, got {score.shape}")
    return token_gate(jnp.max(as_score("score", score), axis=-2), threshold)


def block_gate(
    score: Float[Array, "*b T"],
    threshold: ArrayLike,
    *,
    block_size: int,
    reduce: Literal["max", "sum"] = "max",
) -> Bool[Array, "*d n"]:
    r"""Which blocks of consecutive tokens are computed: max or sum of the block's scores > tau.

    "max" is exact: it drops a block only when every token of it is virtual. "sum" is a heuristic: a
    block of many weak tokens stays and, for tau above the scores, one with a single strong token
    goes. As a mask for `attention.block_sparse_attention`:
    `gate[..., :, None] & gate[..., None, :]`.

    Args:
        score: (..., T). NaN or negative counts as 0.
        threshold: tau >= 0, a number or an array that broadcasts with the batch axes.
        block_size: Tokens of a block. Static.
        reduce: Which rule.

    Returns:
        (..., ceil(T / block_size)) booleans; the last block may be short.

    Raises:
        ValueError, TypeError: As `pair_gate`; also an unknown rule.

    Example:
        >>> import jax.numpy as jnp
        >>> s = jnp.array([0.2, 0.2, 0.3, 0.0, 0.1])
        >>> block_gate(s, 0.25, block_size=2).tolist()
        [False, True, False]
        >>> block_gate(s, 0.35, block_size=2, reduce="sum").tolist()
        [True, False, False]
    """
    size = _checks.positive_int("block_size", block_size)
    _checks.one_of("reduce", reduce, ("max", "sum"))
    score = _checks.at_least_1d("score", as_score("score", score))
    bound = as_threshold(threshold, score.dtype)
    batch = _checks.broadcast(score=score.shape[:-1], threshold=bound.shape)
    short = -score.shape[-1] % size
    padded = jnp.pad(score, [(0, 0)] * (score.ndim - 1) + [(0, short)])
    blocks = padded.reshape(*score.shape[:-1], padded.shape[-1] // size, size)
    value = jnp.max(blocks, axis=-1) if reduce == "max" else jnp.sum(blocks, axis=-1)
    value = jnp.broadcast_to(value, (*batch, value.shape[-1]))
    return value > jnp.broadcast_to(bound, batch)[..., None]
