"""Paired differences, and how many were tried."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np


def mean_and_error(values: Sequence[float] | np.ndarray) -> list[float]:
    """Mean and standard error, 0 of one value."""
    count = len(values)
    error = np.std(values, ddof=1) / count**0.5 if count > 1 else 0.0
    return [float(np.mean(values)), float(error)]


def paired(a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray) -> dict[str, Any]:
    """a - b, seed by seed: mean, standard error, and p of Student's test, two-sided.

    Of the sign test where all differ by the same.
    """
    difference = np.subtract(a, b)
    mean, error = mean_and_error(difference)
    freedom = len(difference) - 1
    if freedom == 0 or not difference.any():
        p = 1.0
    elif error == 0:
        p = 0.5**freedom
    else:
        t = mean / error
        p = float(jax.scipy.special.betainc(freedom / 2, 0.5, freedom / (freedom + t * t)))
    return {"mean": mean, "error": error, "p": p}


def helps(difference: dict[str, Any]) -> bool:
    """By more than two standard errors."""
    return difference["mean"] > 2 * difference["error"] and difference["mean"] > 0


def holm(p: Sequence[float]) -> list[float]:
    """p of each, corrected for their number by Holm's method."""
    order = np.argsort(p)
    steps = np.asarray(p)[order] * np.arange(len(p), 0, -1)
    corrected = np.empty(len(p))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1.0)
    return corrected.tolist()
