"""Polar coordinates: tangent vectors v at the origin, the form that keeps its accuracy far out.

    x = exp_0(v) = tanh(sqrt(c)|v|) v / (sqrt(c)|v|),    d(0, x) = 2|v|

Every vector is a point; parameters and centroids are best kept so.
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _dispatch
from physnet.hyperbolic import _arguments, _ball, _midpoint, _pairwise, _separation

PAYS = 2**16  # pairs; on an H100 a kernel is faster at the least measured, 1024 x 64


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
        (...). float32 is right to 1e-5, relatively, for radii up to 40 and distances up to 80, at
        any angle, and finite beyond. float64 is right to 1e-12. The derivative at u = v, where
        there is none, is 0.
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


def pairwise(
    u: Float[Array, "n d"],
    v: Float[Array, "m d"],
    *,
    curvature: ArrayLike = 1.0,
    implementation: _dispatch.Implementation | None = None,
) -> Float[Array, "n m"]:
    r"""Lengths of the geodesics between all points of one set and all of another.

        d_ij = distance(u_i, v_j)

    Neither the differences (n, m, d) nor other arrays of all pairs beside the result are in memory.

    Args:
        u: (n, d), tangent coordinates at the origin.
        v: (m, d), likewise.
        curvature: c > 0, a number.
        implementation: "xla", some rows at a time, or "triton" for float32 on a GPU: each tile of
            the result in one program, the backward pass from the distances of its tiles again.
            None takes the fastest that serves the call.

    Returns:
        (n, m), as accurate as `distance`, near pairs far out included: float32 to 1e-5, relatively,
        for radii 2 sqrt(c)|v| up to 40; "triton" may be off by 1e-3 for far pairs all but on one
        ray, angles below 1e-9. The derivative where two points are one is 0. "xla" has forward mode
        and second derivatives; "triton" has first ones, in reverse mode.

    Raises:
        ValueError: Shapes that do not fit, a curvature that is not one positive number.
        TypeError: Arrays that are not real and floating.
        NotImplementedError: `implementation` does not serve the call.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> d = jax.jit(pairwise)(jnp.array([[15.0, 0.0]]), jnp.array([[15.0, 1e-5], [0.0, 15.0]]))
        >>> [f"{x:.4f}" for x in d[0]]
        ['30.1718', '59.3069']
    """
    shapes = {}
    for name, value in (("u", u), ("v", v)):
        shapes[name] = _arguments.coordinates(name, value).shape
        if len(shapes[name]) != 2:
            raise ValueError(f"{name} must have shape (points, d), got {shapes[name]}")
    (u, v), c, dtype = _arguments.prepare(curvature, u=jnp.asarray(u)[:, None], v=v)
    if c.size != 1:
        raise ValueError(f"curvature must be one number, got shape {c.shape[:-1]}")
    u, s = u[:, 0], jnp.sqrt(c.reshape(()))
    v = v.reshape(shapes["v"])
    name = _dispatch.choose(
        "hyperbolic.polar.pairwise",
        implementation,
        pays=u.shape[0] * v.shape[0] >= PAYS,
        arrays=(u, v),
        dtype=u.dtype,
        pairs=u.shape[0] * v.shape[0],
        d=u.shape[1],
    )
    form = _pairwise.by_parts if name == "xla" else _pairwise.by_kernels(name)
    return form(u, v, s).astype(dtype)


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
