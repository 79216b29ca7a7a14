"""Polar coordinates: tangent vectors v at the origin, the form that keeps its accuracy far out.

    x = exp_0(v) = tanh(sqrt(c)|v|) v / (sqrt(c)|v|),    d(0, x) = 2|v|

Every vector is a point; parameters and centroids are best kept so.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet.hyperbolic import _arguments, _ball, _midpoint, _separation


def distance(
    u: Float[Array, "*#a d"], v: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e"]:
    r"""Length of the geodesic between two points.

        sinh^2(sqrt(c) d / 2) = sinh^2((r - r') / 2) + sinh r sinh r' sin^2(theta / 2)

    with radii r = 2 sqrt(c)|v|. Small angles are formed with exact products, large radii by
    their logarithm.

    Args:
        u, v: (..., d), tangent coordinates at the origin.
        curvature: c > 0, a number or an array that broadcasts against the batch.

    Returns:
        (...). float32 is right to 1e-5, relatively, for radii up to 40 and distances up to 80,
        and finite beyond; of far pairs all but on one ray, angles below 1e-9, a few in 10^4 are
        off by up to 1e-3. float64 is right to 1e-12. The derivative at u = v, where there is none,
        is 0.
        Second derivatives hold where neither point is the origin.

    Raises:
        ValueError, TypeError: As `poincare.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> u, v = jnp.array([15.0, 0.0]), jnp.array([15.0, 1e-5])
        >>> print(f"{distance(u, v):.4f} {distance(u, jnp.array([0.0, 15.0])):.4f}")
        30.1718 59.3069
    """
    (u, v), c, dtype = _arguments.prepare(curvature, u=u, v=v)
    s = jnp.sqrt(c)
    return (_separation.separation(u, v, s) / s)[..., 0].astype(dtype)


def to_poincare(v: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""The point exp_0(v) of the Poincare ball.

    Args:
        v: (..., d), tangent coordinates at the origin.
        curvature: As in `distance`.

    Returns:
        (..., d), projected: radii beyond 15.2 in float32 become one.

    Raises:
        ValueError, TypeError: As `poincare.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{to_poincare(jnp.array([0.0, 1.0]))[1]:.4f}")
        0.7616
    """
    (v,), c, dtype = _arguments.prepare(curvature, v=v)
    return _ball.project(_ball.from_tangent(v, c), c, dtype).astype(dtype)


def from_poincare(x: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""The tangent coordinates log_0(x) of a point of the Poincare ball.

    Args:
        x: (..., d), in the ball.
        curvature: As in `distance`.

    Returns:
        (..., d).

    Raises:
        ValueError, TypeError: As `poincare.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{2 * from_poincare(jnp.array([0.0, 0.6]))[1]:.4f} {jnp.log(4.0):.4f}")
        1.3863 1.3863
    """
    (x,), c, dtype = _arguments.prepare(curvature, x=x)
    return _ball.to_tangent(x, c).astype(dtype)


def midpoint(
    points: Float[Array, "*#a n d"],
    *,
    weights: Float[Array, "*#b n"] | None = None,
    curvature: ArrayLike = 1.0,
) -> Float[Array, "*e d"]:
    r"""Weighted midpoint: the sum of the points on the hyperboloid, brought back to it.

    Args:
        points: (..., n, d), tangent coordinates at the origin.
        weights: (..., n), not negative; one for each point if not given.
        curvature: As in `distance`; its batch leaves n out.

    Returns:
        (..., d), the point that `poincare.midpoint`, `klein.midpoint` and `lorentz.midpoint` give
        in their coordinates. The origin where all weights are 0. Directions are rounded to eps: of
        points near one another the radius is right while sqrt(c)|v| is below 7 in float32, 17 in
        float64; further out the midpoint falls short of them.

    Raises:
        ValueError, TypeError: As `poincare.midpoint`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(midpoint(jnp.array([[0.0, 0.0], [3.0, 0.0]])))
        [1.5 0. ]
    """
    points, weights, c, dtype = _arguments.prepare_mean(curvature, points, weights)
    return _midpoint.of_tangents(points, weights, c).astype(dtype)
