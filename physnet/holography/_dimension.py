"""Mass of a bulk field and scaling dimension of its boundary operator."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks


def conformal_dimension(mass_squared: ArrayLike, *, dim: int = 1) -> Float[Array, "*b"]:
    r"""Scaling dimension Delta of a bulk field of mass m: larger root of Delta (Delta - d) = m^2.

        Delta = d/2 + sqrt(d^2/4 + m^2)

    Args:
        mass_squared: m^2 (...), in units of the inverse curvature radius; negative down to the
            Breitenlohner-Freedman bound -d^2/4.
        dim: Dimension d of the boundary. Static.

    Returns:
        Delta (...), >= d/2. A traced m^2 below the bound gives NaN.

    Raises:
        ValueError: A known m^2 below the bound; dim < 1.
        TypeError: mass_squared is not real floating-point.

    Example:
        >>> print(conformal_dimension(0.0), conformal_dimension(4.0, dim=3))
        1.0 4.0

    References:
        Breitenlohner and Freedman 1982.
    """
    dim = _checks.positive_int("dim", dim)
    known = _checks.known("mass_squared", mass_squared)
    mass = _checks.real("mass_squared", mass_squared)
    if known is not None and np.any(known < -(dim**2) / 4):
        raise ValueError(
            "mass_squared must not be below the Breitenlohner-Freedman bound "
            f"-dim^2 / 4 = {-(dim**2) / 4}, got {mass_squared!r}"
        )
    return dim / 2 + jnp.sqrt(dim**2 / 4 + mass)


def mass_squared(delta: ArrayLike, *, dim: int = 1) -> Float[Array, "*b"]:
    r"""Mass squared m^2 = Delta (Delta - d) of the bulk field with scaling dimension Delta.

    Args:
        delta: Delta (...) >= d/2, where it is one to one.
        dim: Dimension d of the boundary. Static.

    Returns:
        m^2 (...), in units of the inverse curvature radius, >= -d^2/4.

    Raises:
        ValueError: A known delta < d/2; dim < 1.
        TypeError: delta is not real floating-point.

    Example:
        >>> print(mass_squared(1.0), mass_squared(1.0, dim=2), mass_squared(4.0, dim=3))
        0.0 -1.0 4.0
    """
    dim = _checks.positive_int("dim", dim)
    known = _checks.known("delta", delta)
    if known is not None and not np.all(known >= dim / 2):
        raise ValueError(f"delta must be >= dim / 2 = {dim / 2}, got {delta!r}")
    dimension = _checks.real("delta", delta)
    return dimension * (dimension - dim)
