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
    """The part of x across y, relatively right to about eps however small it is; x where y = 0."""
    across, along, n = nearly_perpendicular(x, y)
    return across - along * n


def nearly_perpendicular(x: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """across, along, n = y / |y|: `perpendicular` is across - along n, and along small.

    Gram-Schmidt with exact products: a direction y / |y| is rounded, y itself is not. What is left
    of x is in two numbers for each coordinate: vectors of one dtype can be as near in angle as the
    square of eps. `along` is what rounding has left; to take it out of vectors is slower than out
    of numbers.
    """
    length = fn.norm(y)
    n = fn.unit(y, length)
    below = jnp.where(length > 0, length, jnp.ones_like(length))
    once, low = _minus(x, fn.dot(x, n) / below, y)
    twice, lower = _minus(once, fn.dot(once, n) / below, y)
    across = twice + (low + lower)
    return across, fn.dot(across, n), n


@jax.custom_jvp
def _minus(x: jax.Array, t: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x - t y as a sum of two numbers, all but exact where x and t y nearly cancel."""
    (t1, t2), (y1, y2) = split(t), split(y)
    one, two = t1 * y2, t2 * y1
    both = one + two
    part = both - one
    lost = (one - (both - part)) + (two - part)
    rest, least = (x - t1 * y1) - both, t2 * y2
    high = rest - least
    change = high - rest
    return high, ((rest - (high - change)) - (least + change)) - lost


@_minus.defjvp
def _minus_jvp(primals, tangents):
    x, t, y = primals
    dx, dt, dy = tangents
    high, low = _minus(x, t, y)
    return (high, low), (dx - t * dy - dt * y, jnp.zeros_like(low))
