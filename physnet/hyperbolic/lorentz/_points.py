"""Points of the hyperboloid: the form they have, and from and to the other models."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet.hyperbolic import _arguments, _ball, _hyperboloid
from physnet.hyperbolic import _functions as fn


def inner(x: Float[Array, "*#a m"], y: Float[Array, "*#b m"]) -> Float[Array, "*e"]:
    r"""Minkowski's <x, y> = -x_0 y_0 + sum_i x_i y_i of any vectors.

    Args:
        x, y: (..., d + 1).

    Returns:
        (...).

    Raises:
        ValueError, TypeError: As `distance`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(inner(jnp.array([2.0, 1.0]), jnp.array([2.0, 3.0])))
        -1.0
    """
    (x, y), _, dtype = _hyperboloid.prepare(1.0, x=x, y=y)
    return (jnp.sum(x[..., 1:] * y[..., 1:], -1) - x[..., 0] * y[..., 0]).astype(dtype)


def project(x: Float[Array, "*#a m"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e m"]:
    r"""The point of the hyperboloid with the space part of x.

    Args:
        x: (..., d + 1).
        curvature: c > 0, a number or an array that broadcasts against the batch.

    Returns:
        (..., d + 1). Space parts so long that their squares would overflow are shortened: to
        sqrt(c)|s| <= sqrt(max) / 4, radius 43.6 in float32.

    Raises:
        ValueError, TypeError: As `distance`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(project(jnp.array([0.0, 0.75]), curvature=1.0))
        [1.25 0.75]
    """
    (x,), c, dtype = _hyperboloid.prepare(curvature, x=x)
    return _hyperboloid.finish(x[..., 1:], c, dtype)


def from_poincare(x: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e m"]:
    r"""(1 + c|x|^2, 2 sqrt(c) x) / (sqrt(c) (1 - c|x|^2)) of a point x of the Poincare ball.

    Args:
        x: (..., d), in the ball.
        curvature: As in `project`.

    Returns:
        (..., d + 1).

    Raises:
        ValueError, TypeError: As `poincare.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> point = from_poincare(jnp.array([1 / 3, 0.0]))
        >>> print(f"{point[0]:.4f} {point[1]:.4f}")
        1.2500 0.7500
    """
    (x,), c, dtype = _arguments.prepare(curvature, x=x)
    return _hyperboloid.finish(_ball.to_space(x, c), c, dtype)


def to_poincare(x: Float[Array, "*#a m"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""s / (1 + sqrt(c) t), the same point in the Poincare ball.

    Args:
        x: (..., d + 1).
        curvature: As in `project`.

    Returns:
        (..., d), projected into the ball.

    Raises:
        ValueError, TypeError: As `distance`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{to_poincare(jnp.array([1.25, 0.75]))[0]:.4f}")
        0.3333
    """
    (x,), c, dtype = _hyperboloid.prepare(curvature, x=x)
    s = x[..., 1:]
    return _ball.project(s / (1 + jnp.sqrt(1 + c * fn.square(s))), c, dtype).astype(dtype)


def from_tangent(v: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e m"]:
    r"""(cosh r, sinh r v/|v|) / sqrt(c), r = 2 sqrt(c)|v|: the point of polar coordinates v.

    Args:
        v: (..., d), as in `polar`.
        curvature: As in `project`.

    Returns:
        (..., d + 1), projected.

    Raises:
        ValueError, TypeError: As `poincare.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{from_tangent(jnp.array([0.5, 0.0]))[0]:.4f} {jnp.cosh(1.0):.4f}")
        1.5431 1.5431
    """
    (v,), c, dtype = _arguments.prepare(curvature, v=v)
    return _hyperboloid.finish(_hyperboloid.from_tangent(v, c, dtype), c, dtype)


def to_tangent(x: Float[Array, "*#a m"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""Polar coordinates of a point: the inverse of `from_tangent`.

    Args:
        x: (..., d + 1).
        curvature: As in `project`.

    Returns:
        (..., d), as in `polar`.

    Raises:
        ValueError, TypeError: As `distance`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{to_tangent(jnp.array([jnp.cosh(1.0), jnp.sinh(1.0)]))[0]:.4f}")
        0.5000
    """
    (x,), c, dtype = _hyperboloid.prepare(curvature, x=x)
    return _hyperboloid.to_tangent(x[..., 1:], c).astype(dtype)
