"""The hyperboloid's maps on the space part of its points; times follow from it.

A point is (t, s) with t = sqrt(1/c + |s|^2). What is asked of inner products far out cancels, so
it is written with the parts of vectors across one another.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from physnet.hyperbolic import _arguments, _exact
from physnet.hyperbolic import _functions as fn


def prepare(curvature: Any, **points: Any) -> tuple[list[jax.Array], jax.Array, jnp.dtype]:
    """As `_arguments.prepare`, of vectors with a time and some space."""
    arrays, c, dtype = _arguments.prepare(curvature, **points)
    for name, array in zip(points, arrays, strict=True):
        if array.shape[-1] < 2:
            raise ValueError(
                f"{name} must have shape (..., d + 1), d > 0, got {points[name].shape}"
            )
    return arrays, c, dtype


def finish(s: jax.Array, c: jax.Array, dtype: jnp.dtype, log_scale: ArrayLike = 0.0) -> jax.Array:
    """The point with space part s exp(log_scale), for the caller."""
    s = project(s, c, dtype, log_scale)
    return _with_time(jnp.sqrt(1 / c + fn.square(s)), s, dtype)


def finish_tangent(x: jax.Array, v: jax.Array, c: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The vector at x with space part v, for the caller: its time part is x.v / t."""
    t = jnp.sqrt(1 / c + fn.square(x))
    return _with_time(fn.dot(x / t, v), v, dtype)


def _with_time(time: jax.Array, space: jax.Array, dtype: jnp.dtype) -> jax.Array:
    batch = jnp.broadcast_shapes(time.shape[:-1], space.shape[:-1])
    parts = (jnp.broadcast_to(part, (*batch, part.shape[-1])) for part in (time, space))
    return jnp.concatenate(list(parts), -1).astype(dtype)


def log_bound(dtype: jnp.dtype) -> float:
    """log of the largest sqrt(c)|s| of a projected point: its square is far from overflow."""
    return 0.5 * math.log(float(jnp.finfo(dtype).max)) - math.log(4)


def project(s: jax.Array, c: jax.Array, dtype: jnp.dtype, log_scale: ArrayLike) -> jax.Array:
    """s exp(log_scale), cut off at the bound of `dtype` along its radius."""
    length = fn.norm(s)
    size = jnp.where(length > 0, jnp.sqrt(c) * length, jnp.ones_like(length))
    return s * jnp.exp(jnp.minimum(log_scale, log_bound(dtype) - jnp.log(size)))


def half_sinh_square(x: jax.Array, y: jax.Array, c: jax.Array) -> jax.Array:
    """sinh^2(sqrt(c) d / 2) of space parts x and y, smooth also where they meet.

    (|x-y|^2 + c|x^y|^2) / ((t+t')^2 - |x-y|^2)                  the angle is acute
    ((|x|^2 + |y|^2 + c|x|^2|y|^2) / (c t t' + 1) - x.y) c / 2    else
    """
    a, b, inner = c * fn.square(x), c * fn.square(y), c * fn.dot(x, y)
    product = jnp.sqrt(1 + a) * jnp.sqrt(1 + b)
    acute = inner > 0
    below = jnp.sqrt(2 * (1 + product + jnp.where(acute, inner, jnp.zeros_like(inner))))
    same = jnp.all(x == y, -1, keepdims=True)
    across = _exact.perpendicular(x, y)
    across = jnp.where(same, jnp.zeros_like(across), across) / below
    near = c * fn.square((x - y) / below) + b * (c * fn.square(across))
    far = 0.5 * ((a + b) / (product + 1) + a / (product + 1) * b - inner)
    return jnp.where(acute, near, far)


def length(x: jax.Array, v: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """c <v, v> of the vector at x with space part v, smooth; and its root.

    <v, v> = (|v|^2 / c + |x^v|^2) / t^2
    """
    s = jnp.sqrt(c)
    t = jnp.sqrt(1 + c * fn.square(x))
    one, two = s * v / t, s * (s * fn.norm(x) / t) * _exact.perpendicular(v, x)
    both = jnp.concatenate(jnp.broadcast_arrays(one, two), -1)
    return fn.square(both), fn.norm(both)


def expmap(x: jax.Array, v: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """cosh(a) x + sinh(a) / a v with a = sqrt(c)|v|, in units of exp(a); and a."""
    t, a = length(x, v, c)
    shrink, near = jnp.exp(-a), a < 1
    small = fn.sinh_quotient(*(jnp.where(near, y, jnp.zeros_like(y)) for y in (t, a))) * shrink
    large = -0.5 * jnp.expm1(-2 * a) / jnp.where(near, jnp.ones_like(a), a)
    return 0.5 * (1 + shrink * shrink) * x + jnp.where(near, small, large) * v, a


def logmap(x: jax.Array, y: jax.Array, c: jax.Array) -> jax.Array:
    """a / sinh(a) (y - x - 2 sinh^2(a / 2) x)."""
    q = half_sinh_square(x, y, c)
    root = fn.root(q)
    quotient = fn.asinh_quotient(q, root)
    # a = 2 asinh(sqrt q), sinh a = 2 sqrt(q (1 + q))
    return quotient / jnp.sqrt(1 + q) * (y - x - 2 * q * x)


def from_tangent(v: jax.Array, c: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """The space part sinh(r) u / sqrt(c), r = 2 sqrt(c)|v|."""
    r = 2 * jnp.sqrt(c) * fn.norm(v)
    limit = log_bound(dtype)
    beyond = r > limit
    v = v * jnp.where(beyond, limit / jnp.where(beyond, r, jnp.ones_like(r)), jnp.ones_like(r))
    return 2 * v * fn.sinh_quotient(4 * c * fn.square(v), jnp.minimum(r, limit))


def to_tangent(s: jax.Array, c: jax.Array) -> jax.Array:
    return 0.5 * s * fn.asinh_quotient(c * fn.square(s), jnp.sqrt(c) * fn.norm(s))


def transport(x: jax.Array, y: jax.Array, v: jax.Array, c: jax.Array) -> jax.Array:
    """v + c <y, v> / (1 - c <x, y>) (x + y), with <y, v> = y.v - t_y (x.v) / t_x."""
    t, u = (jnp.sqrt(1 + c * fn.square(z)) for z in (x, y))
    inner = fn.dot(y, v) - u * fn.dot(x / t, v)
    return v + inner / (2 + 2 * half_sinh_square(x, y, c)) * c * (x + y)
