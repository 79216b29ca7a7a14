"""The threshold that a given share of pairs passes, exactly and without forming the pairs."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet.scattering._gates import as_score

_DIGIT = (
    12  # counts of pairs exceed 32 bits at T = 65536: two digits of base 2^12, the high one wide
)


def threshold_for_density(score: Float[Array, "*b T"], density: ArrayLike) -> Float[Array, "*d"]:
    r"""Smallest tau >= 0 that at most the given share of the T^2 pairs passes.

        tau = min { t >= 0 : #{(i, j) : s_i s_j > t} <= density T^2 }

    The share is met exactly, down to a pair, unless products tie: a group of equal products passes
    as a whole or not at all, and then fewer pairs pass. Products of 0 never pass.
    Deterministic; O(T log T) time for each of the bits of a float, O(T) memory.

    A statistic of the sequence that it gates leaks later tokens into earlier rows. For a causal
    model calibrate once, on the scores of a sample (`score.reshape(-1)` pools heads and examples),
    and keep the number.

    Args:
        score: (..., T). NaN or negative counts as 0.
        density: Share of pairs in [0, 1], a number or an array that broadcasts with the batch axes.

    Returns:
        tau of batch shape, of the dtype in which `pair_gate` compares. NaN for a traced density
        outside [0, 1].

    Raises:
        ValueError: T = 0, or a density outside [0, 1] where it is known.
        TypeError: A score that is not real floating.

    Example:
        >>> import jax.numpy as jnp
        >>> s = jnp.array([1.0, 0.5, 0.25, 0.125])
        >>> float(threshold_for_density(s, 0.375))  # 1, 1/2 twice and 1/4 thrice pass
        0.125
    """
    score = _checks.at_least_1d("score", as_score("score", score))
    length = score.shape[-1]
    if length == 0:
        raise ValueError("score must have at least one token, got T = 0")
    known = _checks.known("density", density)
    if known is not None and not np.all((known >= 0) & (known <= 1)):
        raise ValueError(f"density must be in [0, 1], got {density!r}")
    limit = _digits(density, known, length)
    batch = _checks.broadcast(score=score.shape[:-1], density=limit[0].shape)
    ordered = jnp.broadcast_to(jnp.sort(score, axis=-1), (*batch, length))
    find = _smallest
    for _ in batch:
        find = jax.vmap(find)
    found = find(ordered, *(jnp.broadcast_to(digit, batch) for digit in limit))
    if known is not None:
        return found
    share = jnp.asarray(density, found.dtype)
    return jnp.where((share >= 0) & (share <= 1), found, jnp.nan)


def _digits(density: ArrayLike, known: np.ndarray | None, length: int) -> tuple[Array, Array]:
    """floor(density T^2) as (high, low) digits of base 2^_DIGIT."""
    if known is not None:
        count = np.floor(known.astype(np.float64) * length**2 * (1 + 1e-15)).astype(np.int64)
        return jnp.asarray(count >> _DIGIT, jnp.uint32), jnp.asarray(
            count & (2**_DIGIT - 1), jnp.uint32
        )
    exact = jnp.asarray(density, jnp.float32) * np.float32(length**2 / 2**_DIGIT)
    high = jnp.floor(exact)
    return high.astype(jnp.uint32), ((exact - high) * 2**_DIGIT).astype(jnp.uint32)


@jax.jit
def _smallest(ordered: Array, high: Array, low: Array) -> Array:
    """Bisection over bit patterns: those of non-negative floats ascend with their values."""
    wide = ordered.dtype == jnp.float64
    bits = jnp.uint64 if wide else jnp.uint32

    def fits(pattern: Array) -> Array:
        got_high, got_low = _count(ordered, lax.bitcast_convert_type(pattern, ordered.dtype))
        return (got_high < high) | ((got_high == high) & (got_low <= low))

    def halve(_, bounds):
        least, most = bounds  # the answer lies in [least, most]
        middle = least + (most - least) // 2
        inside = fits(middle)
        return jnp.where(inside, least, middle + 1), jnp.where(inside, middle, most)

    # The largest product never passes itself; an overflowed one is beaten by no threshold at all.
    most = lax.bitcast_convert_type(ordered[-1] * ordered[-1], bits)
    least = jnp.zeros_like(most)
    least, _ = lax.fori_loop(0, 64 if wide else 32, halve, (least, most))
    return lax.bitcast_convert_type(least, ordered.dtype)


def _count(ordered: Array, threshold: Array) -> tuple[Array, Array]:
    """Number of pairs with s_i s_j > threshold, as two digits.

    For every i the passing j are a suffix of the sorted scores: its start by binary search, on the
    rounded products themselves.
    """
    length = ordered.shape[0]

    def halve(_, bounds):
        first, last = bounds
        middle = (first + last) // 2
        passes = ordered * ordered[jnp.minimum(middle, length - 1)] > threshold
        done = first >= last
        return (
            jnp.where(passes | done, first, middle + 1),
            jnp.where(passes & ~done, middle, last),
        )

    first = jnp.zeros_like(ordered, jnp.int32)
    steps = int(length).bit_length()
    first, _ = lax.fori_loop(0, steps, halve, (first, jnp.full_like(first, length)))
    count = (length - first).astype(jnp.uint32)
    mask = jnp.uint32(2**_DIGIT - 1)
    low = jnp.sum(count & mask, dtype=jnp.uint32)
    high = jnp.sum(count >> _DIGIT, dtype=jnp.uint32) + (low >> _DIGIT)
    return high, low & mask
