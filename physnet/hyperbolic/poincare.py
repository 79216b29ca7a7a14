"""The Poincare ball c|x|^2 < 1 of sectional curvature -c, metric (2 / (1 - c|x|^2))^2 |dx|^2."""

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet.hyperbolic import _arguments, _ball, _exact, _midpoint


def project(x: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""Points on or outside the ball moved into it, along their radius."""
    (x,), c, dtype = _arguments.prepare(curvature, x=x)
    return _ball.project(x, c, dtype).astype(dtype)


def distance(
    x: Float[Array, "*#a d"], y: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e"]:
    r"""Length of the geodesic between two points."""
    (x, y), c, dtype = _arguments.prepare(curvature, x=x, y=y)
    return _ball.distance(x, y, c)[..., 0].astype(dtype)


def mobius_add(
    x: Float[Array, "*#a d"], y: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e d"]:
    r"""Mobius addition."""
    (x, y), c, dtype = _arguments.prepare(curvature, x=x, y=y)
    return _ball.project(_ball.add(x, y, c, _exact.gap(y, c)), c, dtype).astype(dtype)


def expmap(
    x: Float[Array, "*#a d"], v: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e d"]:
    r"""The end of the geodesic that leaves x with velocity v."""
    (x, v), c, dtype = _arguments.prepare(curvature, x=x, v=v)
    return _ball.project(_ball.expmap(x, v, c), c, dtype).astype(dtype)


def logmap(
    x: Float[Array, "*#a d"], y: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e d"]:
    r"""The velocity at x of the geodesic that reaches y at time 1."""
    (x, y), c, dtype = _arguments.prepare(curvature, x=x, y=y)
    return _ball.logmap(x, y, c).astype(dtype)


def expmap0(v: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""expmap at the origin."""
    (v,), c, dtype = _arguments.prepare(curvature, v=v)
    return _ball.project(_ball.from_tangent(v, c), c, dtype).astype(dtype)


def logmap0(x: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""logmap at the origin."""
    (x,), c, dtype = _arguments.prepare(curvature, x=x)
    return _ball.to_tangent(x, c).astype(dtype)


def transport(
    x: Float[Array, "*#a d"],
    y: Float[Array, "*#b d"],
    v: Float[Array, "*#c d"],
    *,
    curvature: ArrayLike = 1.0,
) -> Float[Array, "*e d"]:
    r"""The tangent vector v at x carried to y along their geodesic."""
    (x, y, v), c, dtype = _arguments.prepare(curvature, x=x, y=y, v=v)
    return _ball.transport(x, y, v, c).astype(dtype)


def midpoint(
    points: Float[Array, "*#a n d"],
    *,
    weights: Float[Array, "*#b n"] | None = None,
    curvature: ArrayLike = 1.0,
) -> Float[Array, "*e d"]:
    r"""The weighted gyromidpoint."""
    points, weights, c, dtype = _arguments.prepare_mean(curvature, points, weights)
    mean = _midpoint.of_ball(points, weights, c)
    return _ball.project(mean, c[..., 0], dtype).astype(dtype)
