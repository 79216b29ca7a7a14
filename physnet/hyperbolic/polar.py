"""Polar coordinates: tangent vectors v at the origin, the form that keeps its accuracy far out.

x = exp_0(v) = tanh(sqrt(c)|v|) v / (sqrt(c)|v|),    d(0, x) = 2|v|
"""

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet.hyperbolic import _arguments, _ball, _midpoint, _separation


def distance(
    u: Float[Array, "*#a d"], v: Float[Array, "*#b d"], *, curvature: ArrayLike = 1.0
) -> Float[Array, "*e"]:
    r"""Distance."""
    (u, v), c, dtype = _arguments.prepare(curvature, u=u, v=v)
    s = jnp.sqrt(c)
    return (_separation.separation(u, v, s) / s)[..., 0].astype(dtype)


def to_poincare(v: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""The point exp_0(v) of the ball."""
    (v,), c, dtype = _arguments.prepare(curvature, v=v)
    return _ball.project(_ball.from_tangent(v, c), c, dtype).astype(dtype)


def from_poincare(x: Float[Array, "*#a d"], *, curvature: ArrayLike = 1.0) -> Float[Array, "*e d"]:
    r"""log_0(x)."""
    (x,), c, dtype = _arguments.prepare(curvature, x=x)
    return _ball.to_tangent(x, c).astype(dtype)


def midpoint(
    points: Float[Array, "*#a n d"],
    *,
    weights: Float[Array, "*#b n"] | None = None,
    curvature: ArrayLike = 1.0,
) -> Float[Array, "*e d"]:
    r"""The weighted gyromidpoint."""
    points, weights, c, dtype = _arguments.prepare_mean(curvature, points, weights)
    return _midpoint.of_tangents(points, weights, c).astype(dtype)
