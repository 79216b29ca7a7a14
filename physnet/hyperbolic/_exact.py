"""Differences that plain arithmetic loses: 1 - c|x|^2 at the boundary, a small angle far out.

Numbers are split into parts so short that their products are exact. `lax.reduce_precision` does it,
which no compiler undoes; where a fused multiply-add replaces an exact product it changes nothing.
"""

import jax
import jax.numpy as jnp
from jax import lax

from physnet.hyperbolic import _functions as fn


def split(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x = high + low, each of half the significant bits."""
    info = jnp.finfo(x.dtype)
    high = lax.reduce_precision(x, exponent_bits=info.nexp, mantissa_bits=(info.nmant - 1) // 2)
    return high, x - high


def gap(x: jax.Array, c: jax.Array) -> jax.Array:
    """1 - c|x|^2, right to about eps^{3/2}: what is left is the rounding of x itself.

    Outside the ball and within eps / 8 of its boundary it is eps / 8, with derivative 0.
    """
    plain = 1 - c * fn.square(x)
    whole = plain + lax.stop_gradient(_gap(x, c) - plain)
    return jnp.maximum(whole, jnp.finfo(x.dtype).eps / 8)


def _gap(x: jax.Array, c: jax.Array) -> jax.Array:
    """By sqrt(c) x = h + l: the h are multiples of 2^-k, so that the sum of h^2 is exact."""
    s = jnp.sqrt(c)
    (s1, s2), (x1, x2) = split(s), split(x)
    grid = 2.0 ** ((jnp.finfo(x.dtype).nmant - 1) // 2)
    h = jnp.round(s * x * grid) / grid
    l = (s1 * x1 - h) + (s1 * x2 + s2 * x1) + s2 * x2
    rest = (c - s1 * s1) - 2 * s1 * s2 - s2 * s2  # c - s^2
    return (1 - fn.square(h)) - jnp.sum(l * (2 * h + l), -1, keepdims=True) - rest * fn.square(x)


def perpendicular(x: jax.Array, y: jax.Array) -> jax.Array:
    """The part of x across y, relatively right to about eps however small it is; x where y = 0.

    Gram-Schmidt twice, with exact products: a direction y / |y| is rounded, y itself is not.
    """
    length = fn.norm(y)
    n = fn.unit(y, length)
    below = jnp.where(length > 0, length, jnp.ones_like(length))
    once = _minus(x, fn.dot(x, n) / below, y)
    return _minus(once, fn.dot(once, n) / below, y)


@jax.custom_jvp
def _minus(x: jax.Array, t: jax.Array, y: jax.Array) -> jax.Array:
    """x - t y, rounded once where the two nearly cancel."""
    (t1, t2), (y1, y2) = split(t), split(y)
    one, two = t1 * y2, t2 * y1
    both = one + two
    part = both - one
    lost = (one - (both - part)) + (two - part)
    return ((x - t1 * y1) - both) - (lost + t2 * y2)


@_minus.defjvp
def _minus_jvp(primals, tangents):
    x, t, y = primals
    dx, dt, dy = tangents
    return _minus(x, t, y), dx - t * dy - dt * y
