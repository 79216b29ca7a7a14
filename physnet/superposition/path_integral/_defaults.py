"""One choice of options for each class of dimension."""

import math
from typing import Any

from physnet import _checks

_FULL = 64  # up to here D^2 / 2 numbers are learned in fewer losses than they save


def defaults(dimension: int) -> dict[str, Any]:
    """Options that `init` takes for so many parameters where it is told no others.

    K = 4 + 3 ln D particles; up to D = 64 a full covariance and 0.4 K effective particles, beyond a
    diagonal one and 0.3 K. Ill-conditioned losses of more parameters whose axes are not those of
    the parameters may be worth "full" or "low_rank" still.

    Args:
        dimension: D, how many numbers the parameters hold.

    Returns:
        `particles`, `covariance` and `effective` by name.

    Raises:
        TypeError, ValueError: a dimension that is no positive int.

    Example:
        >>> defaults(10)["covariance"], defaults(1000)["covariance"]
        ('full', 'diagonal')
    """
    dimension = _checks.positive_int("dimension", dimension)
    small = dimension <= _FULL
    return {
        "particles": 4 + int(3 * math.log(dimension)),
        "covariance": "full" if small else "diagonal",
        "effective": 0.4 if small else 0.3,
    }
