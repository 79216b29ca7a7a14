"""The ball's maps in forms that add positive terms, so that little cancels at the boundary.

Points x, y and the curvature c broadcast; p = y - x, g = 1 - c|x|^2, and
s^2 = sinh^2(sqrt(c) d / 2) = c|p|^2 / (g_x g_y) throughout.
"""

import jax
import jax.numpy as jnp

from physnet.hyperbolic import _exact
from physnet.hyperbolic import _functions as fn


def bound(dtype: jnp.dtype) -> float:
    """The largest sqrt(c)|x| of a projected point."""
    return 1 - 4 * float(jnp.finfo(dtype).eps)


def project(x: jax.Array, c: jax.Array, dtype: jnp.dtype) -> jax.Array:
    """Points beyond the bound of `dtype` move to it along their radius."""
    limit = bound(dtype) / jnp.sqrt(c)
    length = fn.norm(x)
    outside = ~(length <= limit)  # NaN too: of a length or of the curvature
    safe = jnp.where(outside, length, jnp.ones_like(length))
    return jnp.where(outside, x / safe * limit, x)


def distance(x: jax.Array, y: jax.Array, c: jax.Array) -> jax.Array:
    root_c = jnp.sqrt(c)
    below = jnp.sqrt(_exact.gap(x, c)) * jnp.sqrt(_exact.gap(y, c))
    return 2 / root_c * jnp.arcsinh(root_c * fn.norm(x - y) / below)


def from_tangent(v: jax.Array, c: jax.Array) -> jax.Array:
    """exp_0(v)."""
    return v * fn.tanh_quotient(c * fn.square(v), jnp.sqrt(c) * fn.norm(v))


def to_space(x: jax.Array, c: jax.Array) -> jax.Array:
    """sinh(r) u / sqrt(c), the space part of the point on the hyperboloid."""
    return 2 * x / _exact.gap(x, c)


def to_tangent(x: jax.Array, c: jax.Array) -> jax.Array:
    """log_0(x); outside the ball as at its rim."""
    g = _exact.gap(x, c)
    size = jnp.sqrt(c) * fn.norm(x)
    rim = jnp.minimum(size, 1.0)
    return x / jnp.maximum(size, 1.0) * fn.artanh_quotient(c * fn.square(x), rim, g)


def add(x: jax.Array, y: jax.Array, c: jax.Array, gap_y: jax.Array) -> jax.Array:
    """x + y of Mobius: (c|x+y|^2 x + g_x (x+y)) / (g_x g_y + c|x+y|^2)."""
    total = x + y
    size = c * fn.square(total)
    g = _exact.gap(x, c)
    return (size * x + g * total) / (g * gap_y + size)


def expmap(x: jax.Array, v: jax.Array, c: jax.Array) -> jax.Array:
    """x + z with z = tanh(t) v / (sqrt(c)|v|), t = sqrt(c)|v| / g_x, and g_z = 1 / cosh^2 t."""
    v = v / _exact.gap(x, c)
    t = jnp.sqrt(c) * fn.norm(v)
    z = v * fn.tanh_quotient(c * fn.square(v), t)
    shrink = jnp.exp(-2 * t)
    return add(x, z, c, 4 * shrink / jnp.square(1 + shrink))


def logmap(x: jax.Array, y: jax.Array, c: jax.Array) -> jax.Array:
    """(g_x p - c|p|^2 x) / (g_y sqrt(1 + s^2)) asinh(s) / s."""
    p = y - x
    size = c * fn.square(p)
    gx, gy = _exact.gap(x, c), _exact.gap(y, c)
    t = size / gx / gy
    s = jnp.sqrt(c) * fn.norm(p) / (jnp.sqrt(gx) * jnp.sqrt(gy))
    return (gx * p - size * x) / (gy * jnp.sqrt(1 + t)) * fn.asinh_quotient(t, s)


def transport(x: jax.Array, y: jax.Array, v: jax.Array, c: jax.Array) -> jax.Array:
    """g_y / g_x times the rotation by twice the angle of 1 - c x.y + c y^x in the plane of x, y."""
    p = y - x
    size = c * fn.square(p)
    gx, gy = _exact.gap(x, c), _exact.gap(y, c)
    cosine = 0.5 * (gx + gy + size)

    def turn(u: jax.Array) -> jax.Array:
        return c * (x * fn.dot(p, u) - p * fn.dot(x, u))

    once = turn(v)
    return gy / gx * (v + 2 / (gx * gy + size) * (cosine * once + turn(once)))
