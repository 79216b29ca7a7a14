"""Sums of decaying exponentials in place of kernels with long tails."""

import functools
import itertools
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnet import _checks


class Exponentials(NamedTuple):
    """f(t) = sum_q weight_q e^{-rate_q t}, t >= 0.

    Attributes:
        rate: (Q,), positive, increasing, in units of 1 / t.
        weight: (Q,).
    """

    rate: Float[Array, " Q"]
    weight: Float[Array, " Q"]


def exponentials(delta: float, *, terms: int = 24, span: float = 1e5) -> Exponentials:
    r"""The causal kernel (1 + t)^{-2 Delta} as a sum of decaying exponentials.

    It is completely monotone, a mixture of exponentials over all rates; a few geometrically spaced
    ones with fitted weights do. A convolution with them is a diagonal linear recurrence with one
    number a term for its state. For Delta = 1 and lags up to 1e5, 16 terms err by 2e-4 at most and
    24 by 4e-6 (of f(0) = 1), and at lags up to 2000 by 2e-3 and 4e-5 of the kernel itself.

    Args:
        delta: Delta > 1/2, below 50. Static.
        terms: Q, from 4 to 64. Static.
        span: Longest lag, in units of the depth z. Static.

    Returns:
        `Exponentials` in float32, or float64 under x64.

    Raises:
        ValueError: delta <= 1/2, terms or span out of range.

    Example:
        >>> found = exponentials(1.0, terms=24)
        >>> t = jnp.array([0.0, 1.0, 9.0])
        >>> value = jnp.exp(-t[:, None] * found.rate[None]) @ found.weight
        >>> [f"{v:.4f}" for v in value]
        ['1.0000', '0.2500', '0.0100']

    References:
        Beylkin and Monzon 2005, on approximation of functions by exponential sums.
    """
    terms = _checks.positive_int("terms", terms, minimum=4)
    delta, span = _checks.number("delta", delta), _checks.number("span", span)
    if not 0.5 < delta < 50:
        raise ValueError(f"delta must be above 1/2 and below 50, got {delta!r}")
    if terms > 64 or not 1 <= span < 1e12:
        raise ValueError(f"terms must be <= 64 and span from 1 to 1e12, got {terms} and {span!r}")
    rate, weight = fit_causal(delta, terms, span)
    return Exponentials(jnp.asarray(rate), jnp.asarray(weight))


@functools.lru_cache(maxsize=64)
def fit_causal(delta: float, terms: int, span: float) -> tuple[np.ndarray, np.ndarray]:
    """Rates and weights for (1 + t)^{-2 Delta} on [0, span]: the best of a grid of rate ranges.

    Rates are those of a Gamma distribution of shape 2 Delta. Where the kernel is below 1e-20 it no
    longer counts.
    """
    span = min(span, max(10 ** (10 / delta) - 1, 0.1))
    up = max(np.log(delta), 0.0)
    lags = np.concatenate([[0.0], np.geomspace(1e-2, span, 250)])
    values = (1 + lags) ** (-2 * delta)

    def attempt(low: float, high: float):
        rate = np.exp(np.linspace(low, high, terms))
        weight = weighted_fit(lags, values, rate, values**-0.75)
        error = np.abs(np.exp(-np.outer(lags, rate)) @ weight - values)
        return max(error.max(), 1e-2 * (error / values).max()), low, high, rate, weight

    start, highs = np.log(1 / span) - 2.0, np.array([1.5, 2.25, 3.0])
    best = min(
        (attempt(low, high) for low in np.arange(start, up + 0.5, 1.0) for high in up + highs),
        key=lambda found: found[0],
    )
    for step in (0.5, 0.25):
        _, low, high, *_ = best
        near = itertools.product((low - step, low, low + step), (high - step, high, high + step))
        best = min(best, *itertools.starmap(attempt, near), key=lambda found: found[0])
    return best[3:]


def poisson_tail(depth: float, first: float, terms: int) -> tuple[np.ndarray, np.ndarray]:
    """Rates and weights for the Poisson kernel depth / (pi (depth^2 + t^2)), t >= first.

    The trapezoidal rule over log s for the integral of e^{-ts} sin(depth s) / pi: good for any t,
    so for sums over all images too.
    """
    rate = np.geomspace(1e-7, 20 / first, terms)
    step = np.log(rate[1] / rate[0])
    return rate, step * rate * np.sin(depth * rate) / np.pi


def weighted_fit(
    lags: np.ndarray, values: np.ndarray, rate: np.ndarray, importance: np.ndarray
) -> np.ndarray:
    """Weights of least squares, with columns scaled so that no term is cut off for its size."""
    table = np.exp(-np.outer(lags, rate)) * importance[:, None]
    size = np.linalg.norm(table, axis=0)
    return np.linalg.lstsq(table / size, values * importance, rcond=1e-12)[0] / size
