"""The dyadic lattice in the bulk: level l has a slot every 2^l sites, at depth 2^l / 2."""

import math

import numpy as np

from physnet import _checks

# Every cell has the same hyperbolic volume: z^{-2} times its width 2 z and its height z log 2.
CELL = 2 * math.log(2.0)


def all_levels(n: int) -> int:
    """Number of dyadic levels over n sites, from the sites themselves up to a single slot.

    Args:
        n: Number of sites, >= 1. Static.

    Returns:
        1 + ceil(log2 n).

    Raises:
        ValueError: n < 1.

    Example:
        >>> all_levels(64), all_levels(65), all_levels(1)
        (7, 8, 1)
    """
    n = _checks.positive_int("n", n)
    return 1 + (n - 1).bit_length()


def level_sizes(n: int, levels: int) -> tuple[int, ...]:
    """Numbers of slots of the dyadic levels over n sites: ceil(n / 2^l), l = 0 .. levels - 1.

    Args:
        n: Number of sites, >= 1. Static.
        levels: Number of levels, from 1 to `all_levels(n)`. Static.

    Returns:
        A tuple of integers, decreasing; less than 2 n + levels in all.

    Raises:
        ValueError: n or levels out of range.

    Example:
        >>> level_sizes(10, 5)
        (10, 5, 3, 2, 1)
    """
    most, n = all_levels(n), int(n)
    if (levels := _checks.positive_int("levels", levels)) > most:
        raise ValueError(f"levels must be <= {most} for n = {n}, got {levels}")
    return tuple(-(-n // 2**level) for level in range(levels))


def depth(level: int) -> float:
    """z of a level, in units of the sites' spacing."""
    return 2.0**level / 2


def offset(level: int) -> float:
    """Place of the first slot: the middle of the first 2^level sites."""
    return (2**level - 1) / 2


def which_levels(sizes: list[int], n: int) -> list[int]:
    """Levels with these numbers of slots over n sites; a ValueError names what does not fit."""
    known = {size: level for level, size in enumerate(level_sizes(n, all_levels(n)))}
    found = [known.get(size, -1) for size in sizes]
    if not found or min(found) < 0 or np.any(np.diff(found) <= 0):
        raise ValueError(
            f"levels must have numbers of slots from {tuple(known)} for n = {n}, finest first and "
            f"each once, got {tuple(sizes)}"
        )
    return found
