"""Weights of particles, P_k = softmax(-lambda L_k), and the lambda of an effective sample size."""

import math
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from physnet import _checks

_BISECTIONS = 40


class Weights(NamedTuple):
    """Weights of K particles.

    Attributes:
        probability: P_k, non-negative, of sum 1; all 0 where no loss is finite.
        effective: effective sample size 1 / sum P_k^2; 0 where no loss is finite.
        temperature: lambda, in inverse units of the loss; 0 where nothing tells particles apart.
        usable: which losses are finite.
    """

    probability: Float[Array, " k"]
    effective: Float[Array, ""]
    temperature: Float[Array, ""]
    usable: Bool[Array, " k"]


def checked(temperature: ArrayLike, dtype: Any) -> Array:
    """lambda as a scalar of this dtype; an error where it is known to be no number >= 0."""
    known = _checks.known("temperature", temperature)
    inverse = jnp.asarray(temperature, dtype)
    if inverse.size != 1:
        raise ValueError(f"temperature must be one number, got shape {inverse.shape}")
    if known is not None and not np.all((known >= 0) & (known < np.inf)):
        raise ValueError(f"temperature must be >= 0 and finite, got {temperature}")
    return inverse.reshape(())


def _softmax(exponents: Array, usable: Array) -> Array:
    heights = jnp.where(usable, jnp.exp(-exponents), 0.0)
    return heights / jnp.maximum(jnp.sum(heights), 1.0)  # the best one has height 1


def _size(probability: Array) -> Array:
    return 1.0 / jnp.maximum(jnp.sum(probability**2), jnp.finfo(probability.dtype).tiny)


def weights(
    losses: Float[Array, " k"], *, effective: ArrayLike = 0.5, temperature: ArrayLike | None = None
) -> Weights:
    r"""Weights of particles by their losses: a Gibbs distribution.

    P_k = exp(-lambda L_k) / sum_j exp(-lambda L_j). Without a given lambda, log lambda is bisected
    until the effective sample size 1 / sum P_k^2 is `effective` times the number of finite losses.
    Such weights are the same for a L + b, a > 0, whatever the scale of the losses. Losses of NaN or
    +-inf have weight zero. Where more particles than that tie for the best loss, they share it all.

    Args:
        losses: (K,) of any float dtype.
        effective: share of K in (0, 1).
        temperature: lambda >= 0 as given, in inverse units of the loss; None bisects. Of traced
            ones inf is the best alone, negative or NaN is like 0.

    Returns:
        `Weights` in the dtype of the losses, at least float32.

    Raises:
        TypeError: losses that are not real floating-point numbers.
        ValueError: losses that are not one axis of one or more; `effective` outside (0, 1); a
            lambda that is negative or no number.

    Example:
        >>> import jax.numpy as jnp
        >>> found = weights(jnp.array([0.0, 1.0, 2.0, jnp.nan]), effective=0.5)
        >>> print([round(float(p), 3) for p in found.probability])
        [0.799, 0.167, 0.035, 0.0]
        >>> print(round(float(found.effective), 3))
        1.5
    """
    losses = _checks.real("losses", losses)
    if losses.ndim != 1 or not losses.size:
        raise ValueError(f"losses must have one axis, of K >= 1, got shape {losses.shape}")
    share = _checks.known("effective", effective)
    if jnp.size(effective) != 1 or (share is not None and not np.all((share > 0) & (share < 1))):
        raise ValueError(f"effective must be one number between 0 and 1, got {effective}")
    losses = losses.astype(np.promote_types(losses.dtype, np.float32))
    usable = jnp.isfinite(losses)
    any_usable = jnp.any(usable)
    # Halves: the spread of finite losses may be more than the largest number.
    lowest = jnp.min(jnp.where(usable, losses, jnp.inf))
    lowest = jnp.where(any_usable, lowest, 0.0)
    gaps = jnp.where(usable, losses / 2 - lowest / 2, 0.0)
    tiny = jnp.finfo(gaps.dtype).tiny
    if temperature is not None:
        inverse = checked(temperature, gaps.dtype)
        # Twice a large lambda may be inf, and inf times the gap of the best loss is NaN.
        exponents = jnp.nan_to_num(2 * inverse * gaps, posinf=jnp.inf)
        probability = _softmax(jnp.maximum(exponents, 0), usable)
        return Weights(probability, jnp.where(any_usable, _size(probability), 0.0), inverse, usable)
    widest = jnp.max(gaps)
    scaled = gaps / jnp.maximum(widest, tiny)  # in [0, 1], the best at 0
    nearest = jnp.min(jnp.where(scaled > 0, scaled, 1.0))
    count = jnp.sum(usable).astype(gaps.dtype)
    target = jnp.maximum(jnp.asarray(effective, gaps.dtype) * count, 1.0)

    def halve(_, bracket):
        low, high = bracket
        middle = (low + high) / 2
        large = _size(_softmax(jnp.exp(middle) * scaled, usable)) > target
        return jnp.where(large, middle, low), jnp.where(large, high, middle)

    # From weights that are all alike to those of the best alone, as far as numbers reach.
    high = jnp.minimum(jnp.log(40.0 / nearest), math.log(jnp.finfo(gaps.dtype).max) - 1)
    bracket = jnp.log(jnp.asarray(1e-3, gaps.dtype)) + 0 * nearest, high
    low, high = lax.fori_loop(0, _BISECTIONS, halve, bracket)
    log_inverse = (low + high) / 2
    probability = _softmax(jnp.exp(log_inverse) * scaled, usable)
    told_apart = widest > 0
    inverse = jnp.exp(log_inverse - jnp.log(jnp.maximum(widest, tiny)) - jnp.log(2.0))
    inverse = jnp.where(told_apart, jnp.minimum(inverse, jnp.finfo(gaps.dtype).max), 0.0)
    ess = jnp.where(any_usable, _size(probability), 0.0)
    return Weights(probability, ess, inverse, usable)
