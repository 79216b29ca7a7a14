"""The Poincare ball c|x|^2 < 1 of sectional curvature -c, metric (2 / (1 - c|x|^2))^2 |dx|^2.

Points on or outside the ball, and within eps / 8 of its rim in 1 - c|x|^2, count as lying at
1 - c|x|^2 = eps / 8: results stay finite. Points that are returned are projected (`project`).
float16 and bfloat16 are computed in float32 and returned as they came.
"""

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet.hyperbolic import _arguments, _ball, _exact, _midpoint


def project(x: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""Points on or outside the ball moved into it, along their radius.

    Args:
        x: (..., d).
        curvature: c > 0, a number or an array that broadcasts against the batch.

    Returns:
        (..., d), sqrt(c)|x| <= 1 - 4 eps: radius sqrt(c) d(0, x) <= 15.2 in float32, 35.4 in
        float64, 7.6 and 4.1 in float16 and bfloat16.

    Raises:
        ValueError: A curvature known not to be positive, shapes that do not fit.
        TypeError: Coordinates that are not real floating-point arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> x = project(jnp.array([[0.3, 0.4], [3.0, 4.0]]), curvature=4.0)
        >>> print(f"{jnp.linalg.norm(x[0]):.4f} {jnp.linalg.norm(x[1]):.4f}")
        0.5000 0.5000
    """
    (x,), c, dtype = _arguments.prepare(curvature, x=x)
    return _ball.project(x, c, dtype).astype(dtype)


def distance(
    x: Float[Array, "*#a d"], y: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e"]:
    r"""Length of the geodesic between two points.

        sinh^2(sqrt(c) d / 2) = c|x-y|^2 / ((1 - c|x|^2) (1 - c|y|^2))

    1 - c|x|^2 is formed with exact products: of the points as they are given, no digit is lost.

    Args:
        x, y: (..., d), in the ball.
        curvature: As in `project`.

    Returns:
        (...), right to 1e-4 in float32 and 1e-12 in float64, relatively, anywhere in the ball. The
        derivative at x = y, where there is none, is 0.

    Raises:
        ValueError, TypeError: As `project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{distance(jnp.zeros(2), jnp.array([0.6, 0.0])):.4f} {jnp.log(4.0):.4f}")
        1.3863 1.3863

    References:
        Nickel and Kiela, Poincare embeddings (NeurIPS 2017).
    """
    (x, y), c, dtype = _arguments.prepare(curvature, x=x, y=y)
    return _ball.distance(x, y, c)[..., 0].astype(dtype)


def mobius_add(
    x: Float[Array, "*#a d"], y: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e d"]:
    r"""Mobius addition: y moved by the translation that takes the origin to x.

        x + y = (c|s|^2 x + g_x s) / (g_x g_y + c|s|^2),    s = x + y on the right,  g = 1 - c|x|^2

    Args:
        x, y: (..., d), in the ball.
        curvature: As in `project`.

    Returns:
        (..., d). d(x, y) = d(0, -x + y), and -x + (x + y) = y.

    Raises:
        ValueError, TypeError: As `project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{mobius_add(jnp.array([0.5, 0.0]), jnp.array([0.5, 0.0]))[0]:.4f}")
        0.8000

    References:
        Ungar, A Gyrovector Space Approach to Hyperbolic Geometry (2009).
    """
    (x, y), c, dtype = _arguments.prepare(curvature, x=x, y=y)
    return _ball.project(_ball.add(x, y, c, _exact.gap(y, c)), c, dtype).astype(dtype)


def expmap(
    x: Float[Array, "*#a d"], v: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e d"]:
    r"""The end of the geodesic that leaves x with velocity v.

    Args:
        x: (..., d), in the ball.
        v: (..., d), in coordinates: the path is 2|v| / (1 - c|x|^2) long.
        curvature: As in `project`.

    Returns:
        (..., d), projected.

    Raises:
        ValueError, TypeError: As `project`.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([0.5, 0.0]), jnp.array([0.0, -0.7])
        >>> print(expmap(x, logmap(x, y)).round(4) + 0)
        [ 0.  -0.7]
    """
    (x, v), c, dtype = _arguments.prepare(curvature, x=x, v=v)
    return _ball.project(_ball.expmap(x, v, c), c, dtype).astype(dtype)


def logmap(
    x: Float[Array, "*#a d"], y: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e d"]:
    r"""The velocity at x of the geodesic that reaches y at time 1.

    Args:
        x, y: (..., d), in the ball.
        curvature: As in `project`.

    Returns:
        (..., d), in coordinates: 2|v| / (1 - c|x|^2) is the distance. 0 and smooth at x = y.

    Raises:
        ValueError, TypeError: As `project`.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.array([0.5, 0.0]), jnp.array([0.0, 0.5])
        >>> length = 2 * jnp.linalg.norm(logmap(x, y)) / (1 - 0.25)
        >>> print(f"{length:.4f} {distance(x, y):.4f}")
        1.6807 1.6807
    """
    (x, y), c, dtype = _arguments.prepare(curvature, x=x, y=y)
    return _ball.logmap(x, y, c).astype(dtype)


def expmap0(v: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""`expmap` at the origin: tanh(sqrt(c)|v|) v / (sqrt(c)|v|); `polar.to_poincare` by its name.

    Args:
        v: (..., d). The distance is 2|v|.
        curvature: As in `project`.

    Returns:
        (..., d), projected.

    Raises:
        ValueError, TypeError: As `project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{expmap0(jnp.array([1.0, 0.0]))[0]:.4f} {jnp.tanh(1.0):.4f}")
        0.7616 0.7616
    """
    (v,), c, dtype = _arguments.prepare(curvature, v=v)
    return _ball.project(_ball.from_tangent(v, c), c, dtype).astype(dtype)


def logmap0(x: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""`logmap` at the origin: artanh(sqrt(c)|x|) x / (sqrt(c)|x|); `polar.from_poincare` too.

    Args:
        x: (..., d), in the ball.
        curvature: As in `project`.

    Returns:
        (..., d). The distance is 2|v|.

    Raises:
        ValueError, TypeError: As `project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{logmap0(jnp.array([jnp.tanh(1.0), 0.0]))[0]:.4f}")
        1.0000
    """
    (x,), c, dtype = _arguments.prepare(curvature, x=x)
    return _ball.to_tangent(x, c).astype(dtype)


def transport(
    x: Float[Array, "*#a d"],
    y: Float[Array, "*#b d"],
    v: Float[Array, "*#c d"],
    *,
    curvature: ArrayLike = 1.0,
) -> Float[Array, "*e d"]:
    r"""The tangent vector v at x carried to y along their geodesic.

    A rotation in the plane of x and y by twice the angle of 1 - c x.y + c y^x, times g_y / g_x,
    g = 1 - c|x|^2: no denominator vanishes.

    Args:
        x, y: (..., d), in the ball.
        v: (..., d), in coordinates.
        curvature: As in `project`.

    Returns:
        (..., d), in coordinates: |v| / g_x = |result| / g_y.

    Raises:
        ValueError, TypeError: As `project`.

    Example:
        >>> import jax.numpy as jnp
        >>> moved = transport(jnp.zeros(2), jnp.array([0.6, 0.0]), jnp.array([0.0, 1.0]))
        >>> print(f"{moved[1]:.4f}")
        0.6400
    """
    (x, y, v), c, dtype = _arguments.prepare(curvature, x=x, y=y, v=v)
    return _ball.transport(x, y, v, c).astype(dtype)


def midpoint(
    points: Float[Array, "*#a n d"],
    *,
    weights: Float[Array, "*#b n"] | None = None,
    curvature: ArrayLike = 1.0,
) -> Float[Array, "*e d"]:
    r"""Weighted gyromidpoint: half of sum_i w_i l_i x_i / sum_i w_i (l_i - 1), l = 2 / g.

    Args:
        points: (..., n, d), in the ball.
        weights: (..., n), not negative; one for each point if not given.
        curvature: As in `project`; its batch leaves n out.

    Returns:
        (..., d), the point that `klein.midpoint`, `lorentz.midpoint` and `polar.midpoint` give in
        their coordinates. The origin where all weights are 0.

    Raises:
        ValueError, TypeError: As `project`, and where the weights are not one a point.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{midpoint(jnp.array([[0.0, 0.0], [0.8, 0.0]]))[0]:.4f}")
        0.5000

    References:
        Ungar, A Gyrovector Space Approach to Hyperbolic Geometry (2009), chapter 5.
    """
    points, weights, c, dtype = _arguments.prepare_mean(curvature, points, weights)
    mean = _midpoint.of_ball(points, weights, c)
    return _ball.project(mean, c[..., 0], dtype).astype(dtype)
