"""An expert that acts in the ball, seen from its own centroid."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks


def ball_expert(
    x: Float[Array, "m d"],
    centroid: Float[Array, " d"],
    network: Callable[[Array], Array],
    *,
    curvature: ArrayLike = 1.0,
) -> Float[Array, "m d"]:
    r"""A network in the tangent space of a centroid: exp_mu(network(log_mu(x))).

    Tokens, centroid and output are tangents at the origin, as in `route`. At the centroid mu the
    frame is that of the origin, carried along the geodesic, with the same scale: a token at
    distance d from mu has length d / 2 there. So for mu = 0 this is network(x), and a token on its
    centroid is 0. With the plain expert, y = network(x), all experts see the same origin instead.

    The translation by -mu and back is a boost, in a form without cancellation in float32:

        along u_mu:   sinh(r - q) - cosh q sinh r h,    h = |u - u_mu|^2 / 2
        across:       sinh r (u - u_mu + h u_mu)

    with r, q the distances of x and mu from the origin, over the radius of curvature.

    Args:
        x: (m, d).
        centroid: mu (d,).
        network: (m, d) -> (m, d), in the tangent space of mu.
        curvature: c > 0, a number.

    Returns:
        (m, d), in the dtype of the network's output. Finite for r + q < 85 in float32, before the
        network and after it; smooth, also at 0 and at x = mu.

    Raises:
        ValueError: Shapes that do not fit; a network that changes the shape; a curvature that is
            not one positive number.
        TypeError: Arrays that are not real and floating.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> mu, x = jnp.array([0.5, 0.0]), jnp.array([[0.75, 0.0]])
        >>> run = jax.jit(lambda x, mu: ball_expert(x, mu, lambda t: 2 * t))  # twice as far from mu
        >>> [f"{y:.3f}" for y in run(x, mu)[0]]
        ['1.000', '0.000']
    """
    x, centroid = _checks.real("x", x), _checks.real("centroid", centroid)
    if x.ndim != 2 or centroid.shape != x.shape[1:]:
        raise ValueError(
            f"x must have shape (m, d) and centroid (d,), got {x.shape} and {centroid.shape}"
        )
    wide = jnp.float64 if jnp.float64 in (x.dtype, centroid.dtype) else jnp.float32
    root = jnp.sqrt(_checks.one_positive("curvature", curvature, wide))
    mu = centroid.astype(wide)
    _checks.function("network", network)
    inside = network(translated(x.astype(wide), -mu, root).astype(x.dtype))
    if jnp.shape(inside) != x.shape:
        raise ValueError(f"network must return shape {x.shape}, got {jnp.shape(inside)}")
    inside = _checks.real("network(x)", inside)
    return translated(inside.astype(wide), mu, root).astype(inside.dtype)


def translated(x: Array, by: Array, root: Array) -> Array:
    """Tangents at 0 of the Mobius sum (by + x), for tangents x (m, d) and by (d,) at 0."""
    two, a = 2 * root, -by[None, :]
    scaled, shift = two * x, two * a
    t, p = _square(scaled), _square(shift)  # r^2 and q^2
    near = (t < 1) | (p < 1)
    far = jnp.where(near, 4 * jnp.ones_like(x), x)  # where it is not used, harmless
    base = jnp.where(near, 4 * jnp.ones_like(x), a)
    boosted = jnp.where(near, _smooth(scaled, shift, t, p, near), _sharp(far, base, two))
    return boosted * _arcsinh_quotient(_square(boosted)) / two


def _smooth(x: Array, a: Array, t: Array, p: Array, near: Array) -> Array:
    """sinh D times the direction, from Cartesian components: fails where both are far."""
    t, p = (jnp.where(near, y, jnp.ones_like(y)) for y in (t, p))
    x, a = (jnp.where(near, y, jnp.zeros_like(y)) for y in (x, a))
    spatial, shift = _sinh_quotient(t) * x, _sinh_quotient(p) * a
    time, lift = _cosh(t), 1 + _cosh(p)
    return spatial + shift * (jnp.sum(shift * spatial, -1, keepdims=True) / lift - time)


def _sharp(x: Array, a: Array, two: Array) -> Array:
    """The same from x - a, whose digits count where both are far."""
    length, base = (jnp.linalg.norm(y, axis=-1, keepdims=True) for y in (x, a))
    r, q, w = two * length, two * base, a / base
    change = x - a
    closer = jnp.sum(change * (x + a), -1, keepdims=True) / (length + base)  # |x| - |a|
    turn = (change - w * closer) / length  # u - w
    h = 0.5 * _square(turn)
    sinh = jnp.sinh(r)
    return (jnp.sinh(two * closer) - jnp.cosh(q) * sinh * h) * w + sinh * (turn + h * w)


def _square(x: Array) -> Array:
    return jnp.sum(x * x, -1, keepdims=True)


def _even(function: Callable[[Any], Any], series: list[float], radius: float):
    """A function of t = z^2 by its series below `radius`, so that it is smooth at 0."""

    def of_square(t: Array) -> Array:
        small = t < radius
        low = jnp.where(small, t, jnp.zeros_like(t))
        total = jnp.zeros_like(t)
        for coefficient in reversed(series):
            total = total * low + coefficient
        return jnp.where(small, total, function(jnp.sqrt(jnp.where(small, jnp.ones_like(t), t))))

    return of_square


_sinh_quotient = _even(
    lambda z: jnp.sinh(z) / z, [1 / math.factorial(2 * k + 1) for k in range(9)], 1.0
)
_cosh = _even(jnp.cosh, [1 / math.factorial(2 * k) for k in range(10)], 1.0)
_arcsinh_quotient = _even(
    lambda z: jax.lax.asinh(z) / z,
    [(-1) ** k * math.comb(2 * k, k) / (4**k * (2 * k + 1)) for k in range(9)],
    0.02,
)
