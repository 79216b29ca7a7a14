"""The Klein ball c|k|^2 < 1 of sectional curvature -c: geodesics and bisectors are straight.

    k = 2x / (1 + c|x|^2) = tanh(r) u / sqrt(c)    for x in the Poincare ball, r = sqrt(c) d(0, x)

Convenient, and the first to lose the boundary: in float32 radii beyond 8 cannot be told apart.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet.hyperbolic import _arguments, _ball, _exact, _midpoint
from physnet.hyperbolic import _functions as fn


def project(k: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""Points on or outside the ball moved into it, as `poincare.project` does.

    Args:
        k: (..., d).
        curvature: c > 0, a number or an array that broadcasts against the batch.

    Returns:
        (..., d), sqrt(c)|k| <= 1 - 4 eps.

    Raises:
        ValueError, TypeError: As `poincare.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{1 - project(jnp.array([2.0, 0.0], jnp.float32))[0]:.1e}")
        4.8e-07
    """
    (k,), c, dtype = _arguments.prepare(curvature, k=k)
    return _ball.project(k, c, dtype).astype(dtype)


def from_poincare(x: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""k = 2x / (1 + c|x|^2) of a point x of the Poincare ball.

    Args:
        x: (..., d), in the Poincare ball.
        curvature: As in `project`.

    Returns:
        (..., d), projected.

    Raises:
        ValueError, TypeError: As `poincare.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{from_poincare(jnp.array([0.5, 0.0]))[0]:.4f}")
        0.8000
    """
    (x,), c, dtype = _arguments.prepare(curvature, x=x)
    return _ball.project(2 * x / (1 + c * fn.square(x)), c, dtype).astype(dtype)


def to_poincare(k: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""x = k / (1 + sqrt(1 - c|k|^2)), the same point in the Poincare ball.

    Args:
        k: (..., d), in the Klein ball.
        curvature: As in `project`.

    Returns:
        (..., d), projected.

    Raises:
        ValueError, TypeError: As `poincare.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{to_poincare(jnp.array([0.8, 0.0]))[0]:.4f}")
        0.5000
    """
    (k,), c, dtype = _arguments.prepare(curvature, k=k)
    return _ball.project(k / (1 + jnp.sqrt(_exact.gap(k, c))), c, dtype).astype(dtype)


def from_tangent(v: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""tanh(r) v / (sqrt(c)|v|), r = 2 sqrt(c)|v|: the point whose polar coordinates are v.

    Args:
        v: (..., d), tangent coordinates at the origin, as in `polar`.
        curvature: As in `project`.

    Returns:
        (..., d), projected.

    Raises:
        ValueError, TypeError: As `poincare.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{from_tangent(jnp.array([0.5, 0.0]))[0]:.4f} {jnp.tanh(1.0):.4f}")
        0.7616 0.7616
    """
    (v,), c, dtype = _arguments.prepare(curvature, v=v)
    return _ball.project(_ball.from_tangent(2 * v, c), c, dtype).astype(dtype)


def to_tangent(k: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""Polar coordinates of a point: the inverse of `from_tangent`.

    Args:
        k: (..., d), in the Klein ball.
        curvature: As in `project`.

    Returns:
        (..., d), tangent coordinates at the origin, as in `polar`.

    Raises:
        ValueError, TypeError: As `poincare.project`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{to_tangent(jnp.array([jnp.tanh(1.0), 0.0]))[0]:.4f}")
        0.5000
    """
    (k,), c, dtype = _arguments.prepare(curvature, k=k)
    return (_ball.to_tangent(k, c) / 2).astype(dtype)


def distance(
    k: Float[Array, "*#a d"], m: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e"]:
    r"""Length of the geodesic between two points.

        sinh^2(sqrt(c) d) = c (g_k |p|^2 + c (k.p)^2) / (g_k g_m),    p = m - k,  g_k = 1 - c|k|^2

    Args:
        k, m: (..., d), in the Klein ball; those outside count as on its rim.
        curvature: As in `project`.

    Returns:
        (...). The derivative at k = m, where there is none, is 0.

    Raises:
        ValueError, TypeError: As `poincare.distance`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{distance(jnp.zeros(2), jnp.array([jnp.tanh(1.0), 0.0])):.4f}")
        1.0000
    """
    (k, m), c, dtype = _arguments.prepare(curvature, k=k, m=m)
    p, root_c = m - k, jnp.sqrt(c)
    below_k, below_m = jnp.sqrt(_exact.gap(k, c)), jnp.sqrt(_exact.gap(m, c))
    parts = [p / below_m, root_c * fn.dot(k, p) / below_k / below_m]
    batch = jnp.broadcast_shapes(*(part.shape[:-1] for part in parts))
    parts = [jnp.broadcast_to(part, (*batch, part.shape[-1])) for part in parts]
    sinh = root_c * fn.norm(jnp.concatenate(parts, -1))
    return (jnp.arcsinh(sinh) / root_c)[..., 0].astype(dtype)


def midpoint(
    points: Float[Array, "*#a n d"],
    *,
    weights: Float[Array, "*#b n"] | None = None,
    curvature: ArrayLike = 1.0,
) -> Float[Array, "*e d"]:
    r"""Einstein midpoint sum_i w_i gamma_i k_i / sum_i w_i gamma_i, gamma = 1 / sqrt(1 - c|k|^2).

    Args:
        points: (..., n, d), in the Klein ball.
        weights: (..., n), not negative; one for each point if not given.
        curvature: As in `project`; its batch leaves n out.

    Returns:
        (..., d), the point that `poincare.midpoint`, `lorentz.midpoint` and `polar.midpoint` give
        in their coordinates. The origin where all weights are 0.

    Raises:
        ValueError, TypeError: As `poincare.midpoint`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> print(f"{jax.jit(midpoint)(jnp.array([[0.0, 0.0], [0.8, 0.0]]))[0]:.4f}")
        0.5000

    References:
        Ungar, A Gyrovector Space Approach to Hyperbolic Geometry (2009), chapter 5.
    """
    points, weights, c, dtype = _arguments.prepare_mean(curvature, points, weights)
    return _ball.project(_midpoint.of_klein(points, weights, c), c[..., 0], dtype).astype(dtype)
