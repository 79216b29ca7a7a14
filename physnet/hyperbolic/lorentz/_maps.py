"""Geodesics of the hyperboloid."""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet.hyperbolic import _arguments, _hyperboloid, _midpoint
from physnet.hyperbolic import _functions as fn


def distance(
    x: Float[Array, "*#a m"], y: Float[Array, "*#b m"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e"]:
    r"""Length of the geodesic between two points, arcosh(-c <x, y>) / sqrt(c), nothing cancels.

        sinh^2(sqrt(c) d / 2) = (c|p|^2 + c^2 |s^s'|^2) / (2 (1 + c t t' + c s.s')),    p = s - s'

    where the angle between the space parts s, s' is acute, and -c <x, y> itself elsewhere.

    Args:
        x, y: (..., d + 1), the time first.
        curvature: c > 0, a number or an array that broadcasts against the batch.

    Returns:
        (...). In float32 relatively right to 1e-5 while the radii are below 43. The derivative at
        x = y, where there is none, is 0; derivatives are those of the space part.

    Raises:
        ValueError: A curvature known not to be positive, shapes that do not fit.
        TypeError: Coordinates that are not real floating-point arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([jnp.cosh(20.0), jnp.sinh(20.0)])
        >>> y = jnp.array([jnp.cosh(1.0), -jnp.sinh(1.0)])
        >>> print(f"{distance(x, y):.4f}")
        21.0000
    """
    (x, y), c, dtype = _hyperboloid.prepare(curvature, x=x, y=y)
    half = fn.root(_hyperboloid.half_sinh_square(x[..., 1:], y[..., 1:], c))
    return (2 * jnp.arcsinh(half) / jnp.sqrt(c))[..., 0].astype(dtype)


def expmap(
    x: Float[Array, "*#a m"], v: Float[Array, "*#b m"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e m"]:
    r"""The end of the geodesic that leaves x with velocity v: cosh(a) x + sinh(a) v / a.

    Args:
        x: (..., d + 1).
        v: (..., d + 1), tangent at x: <x, v> = 0. a = sqrt(c <v, v>).
        curvature: As in `distance`.

    Returns:
        (..., d + 1), projected.

    Raises:
        ValueError, TypeError: As `distance`.

    Example:
        >>> import jax.numpy as jnp
        >>> end = expmap(jnp.array([1.0, 0.0]), jnp.array([0.0, 2.0]))
        >>> print(f"{end[0]:.4f} {jnp.cosh(2.0):.4f}")
        3.7622 3.7622
    """
    (x, v), c, dtype = _hyperboloid.prepare(curvature, x=x, v=v)
    moved, log_scale = _hyperboloid.expmap(x[..., 1:], v[..., 1:], c)
    return _hyperboloid.finish(moved, c, dtype, log_scale)


def logmap(
    x: Float[Array, "*#a m"], y: Float[Array, "*#b m"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e m"]:
    r"""The velocity at x of the geodesic that reaches y at time 1: a (y - cosh(a) x) / sinh(a).

    Args:
        x, y: (..., d + 1).
        curvature: As in `distance`.

    Returns:
        (..., d + 1), tangent at x, <v, v> = d(x, y)^2; 0 and smooth at x = y.

    Raises:
        ValueError, TypeError: As `distance`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(logmap(jnp.array([1.0, 0.0]), jnp.array([jnp.cosh(2.0), jnp.sinh(2.0)])))
        [0. 2.]
    """
    (x, y), c, dtype = _hyperboloid.prepare(curvature, x=x, y=y)
    x = x[..., 1:]
    return _hyperboloid.finish_tangent(x, _hyperboloid.logmap(x, y[..., 1:], c), c, dtype)


def expmap0(v: Float[Array, "*#a m"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e m"]:
    r"""`expmap` at the origin (1 / sqrt(c), 0).

    Args:
        v: (..., d + 1), v_0 = 0. Its length is the distance: v = (0, 2 w) for the polar
            coordinates w of `from_tangent`.
        curvature: As in `distance`.

    Returns:
        (..., d + 1), projected.

    Raises:
        ValueError, TypeError: As `distance`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{expmap0(jnp.array([0.0, 2.0]))[1]:.4f} {jnp.sinh(2.0):.4f}")
        3.6269 3.6269
    """
    (v,), c, dtype = _hyperboloid.prepare(curvature, v=v)
    return _hyperboloid.finish(_hyperboloid.from_tangent(v[..., 1:] / 2, c, dtype), c, dtype)


def logmap0(x: Float[Array, "*#a m"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e m"]:
    r"""`logmap` at the origin (1 / sqrt(c), 0).

    Args:
        x: (..., d + 1).
        curvature: As in `distance`.

    Returns:
        (..., d + 1), the time part 0.

    Raises:
        ValueError, TypeError: As `distance`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(logmap0(jnp.array([jnp.cosh(2.0), jnp.sinh(2.0)])))
        [0. 2.]
    """
    (x,), c, dtype = _hyperboloid.prepare(curvature, x=x)
    v = 2 * _hyperboloid.to_tangent(x[..., 1:], c)
    return _hyperboloid.finish_tangent(jnp.zeros_like(v), v, c, dtype)


def transport(
    x: Float[Array, "*#a m"],
    y: Float[Array, "*#b m"],
    v: Float[Array, "*#c m"],
    *,
    curvature: ArrayLike = 1.0,
) -> Float[Array, "*e m"]:
    r"""The tangent vector v at x carried to y along their geodesic.

        v + c <y, v> (x + y) / (1 - c <x, y>)

    Args:
        x, y: (..., d + 1).
        v: (..., d + 1), tangent at x.
        curvature: As in `distance`.

    Returns:
        (..., d + 1), tangent at y. Inner products are kept; far out as well as the time part,
        a difference, lets them.

    Raises:
        ValueError, TypeError: As `distance`.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([1.0, 0.0, 0.0]), jnp.array([1.25, 0.75, 0.0])
        >>> print(transport(x, y, jnp.array([0.0, 1.0, 1.0])))
        [0.75 1.25 1.  ]
    """
    (x, y, v), c, dtype = _hyperboloid.prepare(curvature, x=x, y=y, v=v)
    x, y = x[..., 1:], y[..., 1:]
    return _hyperboloid.finish_tangent(y, _hyperboloid.transport(x, y, v[..., 1:], c), c, dtype)


def midpoint(
    points: Float[Array, "*#a n m"],
    *,
    weights: Float[Array, "*#b n"] | None = None,
    curvature: ArrayLike = 1.0,
) -> Float[Array, "*e m"]:
    r"""Lorentz centroid: X / sqrt(-c <X, X>) of the sum X = sum_i w_i x_i.

    Args:
        points: (..., n, d + 1).
        weights: (..., n), not negative; one for each point if not given.
        curvature: As in `distance`; its batch leaves n out.

    Returns:
        (..., d + 1), the point that `poincare.midpoint`, `klein.midpoint` and `polar.midpoint` give
        in their coordinates. The origin where all weights are 0.

    Raises:
        ValueError, TypeError: As `distance`, and where the weights are not one a point.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([[jnp.cosh(1.0), jnp.sinh(1.0)], [jnp.cosh(3.0), jnp.sinh(3.0)]])
        >>> print(f"{logmap0(midpoint(x))[1]:.4f}")
        2.0000

    References:
        Law, Liao, Snell and Zemel, Lorentzian distance learning for hyperbolic representations
        (ICML 2019).
    """
    points, weights, c, dtype = _arguments.prepare_mean(curvature, points, weights)
    if points.shape[-1] < 2:
        raise ValueError(f"points must have shape (..., n, d + 1), d > 0, got {points.shape}")
    mean = _midpoint.of_space(points[..., 1:], weights, c)
    return _hyperboloid.finish(mean, c[..., 0], dtype)
