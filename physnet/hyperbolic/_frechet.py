"""The point with the least sum of squared distances, and its derivatives from that condition."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet.hyperbolic import _arguments, _ball, _midpoint, _separation
from physnet.hyperbolic import _functions as fn


def frechet_mean(
    points: Float[Array, "*#a n d"],
    *,
    weights: Float[Array, "*#b n"] | None = None,
    curvature: ArrayLike = 1.0,
    coordinates: Literal["ball", "tangent"] = "ball",
    steps: int = 100,
    tolerance: float | None = None,
) -> Float[Array, "*e d"]:
    r"""The Karcher mean: argmin_m sum_i w_i d(m, x_i)^2, which is unique.

    Newton's method from the midpoint on, in steps of length 1 / sqrt(c) at most: for points
    within a radius r of one another it takes about 5 + r of them, O(n d^2 + d^3) each. Derivatives
    follow from sum_i w_i log_m(x_i) = 0 and cost one more solution, whatever the steps.

    Args:
        points: (..., n, d), in the Poincare ball, or polar coordinates.
        weights: (..., n), not negative; one for each point if not given.
        curvature: c > 0, a number or an array that broadcasts against the batch without n.
        coordinates: Of the points and the mean: "ball", or "tangent" for those of `polar`.
        steps: The most steps.
        tolerance: Stop when no mean has moved further than this (sqrt(c) times the distance); 4 eps
            if not given. Earlier where steps no longer shrink: rounding moves far points more.

    Returns:
        (..., d). The origin where all weights are 0.

    Raises:
        ValueError: Unknown coordinates, steps < 1, a curvature known not to be positive, shapes
            that do not fit.
        TypeError: Points or weights that are not real floating-point arrays.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> line = jnp.array([[0.1, 0.0], [0.4, 0.0], [2.5, 0.0]])  # at 0.2, 0.8 and 5 from 0
        >>> mean = jax.jit(lambda points: frechet_mean(points, coordinates="tangent"))
        >>> print(f"{2 * mean(line)[0]:.4f}")
        2.0000

    References:
        Karcher, Riemannian center of mass and mollifier smoothing, Comm. Pure Appl. Math. (1977).
        Lou et al., Differentiating through the Frechet mean (ICML 2020).
    """
    _checks.one_of("coordinates", coordinates, ("ball", "tangent"))
    steps = _checks.positive_int("steps", steps)
    points, weights, c, dtype = _arguments.prepare_mean(curvature, points, weights)
    if tolerance is None:
        tolerance = 4 * float(jnp.finfo(points.dtype).eps)
    tolerance = _checks.number("tolerance", tolerance)
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be >= 0, got {tolerance}")
    tangents = _ball.to_tangent(points, c) if coordinates == "ball" else points
    mean = _mean(steps, tolerance, tangents, weights, jnp.sqrt(c))
    if coordinates == "ball":
        mean = _ball.project(_ball.from_tangent(mean, c), c, dtype)
    return mean[..., 0, :].astype(dtype)


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _mean(steps: int, tolerance: float, v: jax.Array, weights: jax.Array, s: jax.Array):
    """(..., 1, d) of polar coordinates v; s is sqrt(c)."""
    start = _midpoint.of_tangents(v, weights, s * s)[..., None, :]

    def unfinished(state):
        _, _, active, step = state
        return (step < steps) & jnp.any(active)

    def descend(state):
        mean, before, active, step = state
        towards, distance = _towards(mean, v, s)
        p = _solve(_hessian(towards, distance, weights), _sum(weights * towards))
        moved = fn.norm(p)
        p = p / jnp.maximum(moved, 1)
        stalled = (moved < 0.05) & (moved > 0.5 * before)
        active = active & (moved > tolerance) & ~stalled
        return _retract(mean, p, s), moved, active, step + 1

    before = jnp.full_like(start[..., :1], jnp.inf)
    return lax.while_loop(unfinished, descend, (start, before, before > 0, 0))[0]


@_mean.defjvp
def _mean_jvp(steps, tolerance, primals, tangents):
    v, weights, s = primals
    mean = _mean(steps, tolerance, v, weights, s)

    def pull(v, weights, s):
        towards, distance = _towards(mean, v, s)
        return _sum(weights * towards), (towards, distance)

    _, change, (towards, distance) = jax.jvp(pull, primals, tangents, has_aux=True)
    p = _solve(_hessian(towards, distance, weights), change)
    return mean, _velocity(mean, p, s)


def _solve(matrix: jax.Array, row: jax.Array) -> jax.Array:
    return jnp.swapaxes(jnp.linalg.solve(matrix, jnp.swapaxes(row, -1, -2)), -1, -2)


def _sum(terms: jax.Array) -> jax.Array:
    return jnp.sum(terms, -2, keepdims=True)


def _towards(m: jax.Array, v: jax.Array, s: jax.Array) -> tuple[jax.Array, jax.Array]:
    """log_m(v) as a vector of length D = s d in an orthonormal frame at m, and D.

    The frame is that of the coordinates, with its angular part to scale.
    """
    distance = _separation.separation(m, v, s)
    sine = _separation.half_sine(m, v, fn.norm(m), fn.norm(v))
    along, across = _separation.directions(m, v, s, sine, distance)
    return _half_slope(distance) * (along + across), distance


def _half_slope(a: jax.Array) -> jax.Array:
    """a / (1 - exp(-2a))."""
    off = a > 0
    safe = jnp.where(off, a, jnp.ones_like(a))
    return jnp.where(off, safe / -jnp.expm1(-2 * safe), jnp.full_like(a, 0.5))


def _hessian(towards: jax.Array, a: jax.Array, weights: jax.Array) -> jax.Array:
    """sum_i w_i (a coth a + (1 - a coth a) e e^T), e the unit vector towards point i; 1 without."""
    across = (1 + jnp.exp(-2 * a)) * _half_slope(a)
    e = fn.unit(towards, a)
    total = _sum(weights * across)
    total = jnp.where(total > 0, total, jnp.ones_like(total))
    outer = jnp.einsum("...ni,...nj->...ij", weights * (1 - across) * e, e)
    eye = jnp.eye(towards.shape[-1], dtype=towards.dtype)
    return outer + jnp.expand_dims(eye, range(outer.ndim - 2)) * total


def _velocity(m: jax.Array, p: jax.Array, s: jax.Array) -> jax.Array:
    """The change of the coordinates m that the frame's vector p is."""
    length = fn.norm(m)
    n, r = fn.unit(m, length), 2 * s * length
    along = n * fn.dot(n, p)
    rate = 2 * jnp.exp(-r) * _half_slope(r)  # r / sinh r
    return (along + rate * (p - along)) / (2 * s)


def _retract(m: jax.Array, p: jax.Array, s: jax.Array) -> jax.Array:
    """exp_m(p): radius r' and direction of

    (sinh r cosh t + cosh r sinh t A) n + sinh t B,    t = |p|, p / t = A n + B
    """
    length, t = fn.norm(m), fn.norm(p)
    n, r, towards = fn.unit(m, length), 2 * s * length, fn.unit(p, t)
    cosine = fn.dot(n, towards)
    # In units of exp(r + t) / 2
    inward, outward = jnp.exp(-2 * r), jnp.exp(-2 * t)
    along = 0.5 * ((1 - inward) * (1 + outward) + (1 + inward) * (1 - outward) * cosine)
    across = jnp.exp(-r) * (1 - outward) * (towards - n * cosine)
    moved = along * n + across
    size = 0.5 * fn.norm(moved)
    scale = r + t
    near = scale < 1
    close = jnp.arcsinh(size * jnp.exp(jnp.where(near, scale, jnp.zeros_like(scale))))
    safe = jnp.where(near, jnp.ones_like(size), jnp.maximum(size, jnp.finfo(m.dtype).tiny))
    far = scale + jnp.log(safe + jnp.sqrt(safe * safe + jnp.exp(-2 * scale)))
    return jnp.where(near, close, far) / (2 * s) * fn.unit(moved, 2 * size)
