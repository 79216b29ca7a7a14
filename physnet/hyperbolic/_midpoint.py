"""The weighted midpoint: the sum of the points on the hyperboloid, brought back to it.

With sqrt(c) X_i = (cosh r_i, sinh r_i n_i) the sum (T, S) has radius r, tanh r = |S| / T. Far out
T - |S| cancels; with m = S / |S| it is a sum of positive terms,

    T - |S| = sum_i w_i (exp(-r_i) + sinh r_i |n_i - m|^2 / 2)
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from physnet.hyperbolic import _exact
from physnet.hyperbolic import _functions as fn


class Sum(NamedTuple):
    """T, S, |S| and T - |S|, in a common unit."""

    time: jax.Array
    space: jax.Array
    length: jax.Array
    less: jax.Array


def of_ball(x: jax.Array, weights: jax.Array, c: jax.Array) -> jax.Array:
    """The midpoint of ball points (..., n, d) with weights (..., n, 1); c is (..., 1, 1)."""
    s = jnp.sqrt(c)
    g, length = _exact.gap(x, c), fn.norm(x)
    time, space = (1 + c * fn.square(x)) / g, 2 * s * x / g
    inverse = g / jnp.square(1 + s * length)
    total = _sum(time, space, inverse, 2 * s * length / g, fn.unit(x, length), weights)
    below = total.time + fn.root((total.time + total.length) * total.less)
    return total.space / (jnp.where(below > 0, below, jnp.ones_like(below)) * s[..., 0, :])


def of_klein(k: jax.Array, weights: jax.Array, c: jax.Array) -> jax.Array:
    """The same in the Klein model: the mean with weights w cosh r."""
    weights = weights / jnp.sqrt(_exact.gap(k, c))
    whole = jnp.sum(weights, -2)
    return jnp.sum(weights * k, -2) / jnp.where(whole > 0, whole, jnp.ones_like(whole))


def of_space(x: jax.Array, weights: jax.Array, c: jax.Array) -> jax.Array:
    """The same for space parts of points on the hyperboloid."""
    s = jnp.sqrt(c)
    length, time = s * fn.norm(x), jnp.sqrt(1 + c * fn.square(x))
    total = _sum(time, s * x, 1 / (time + length), length, fn.unit(x, fn.norm(x)), weights)
    mass = fn.root(total.time + total.length) * fn.root(total.less)
    return total.space / (jnp.where(mass > 0, mass, jnp.ones_like(mass)) * s[..., 0, :])


def of_tangents(v: jax.Array, weights: jax.Array, c: jax.Array) -> jax.Array:
    """The same in polar coordinates; what is summed is in units of exp(the largest radius)."""
    s = jnp.sqrt(c)
    length = fn.norm(v)
    r = 2 * s * length
    largest = jax.lax.stop_gradient(jnp.max(r, -2, keepdims=True))
    outer, inverse = jnp.exp(r - largest), jnp.exp(-r - largest)
    sinh = 0.5 * outer * -jnp.expm1(-2 * r)
    off = length > 0
    rate = jnp.where(off, sinh / jnp.where(off, length, 1 + length), 2 * s * outer)
    time = 0.5 * (outer + inverse)
    total = _sum(time, rate * v, inverse, sinh, fn.unit(v, length), weights)
    tiny = jnp.finfo(v.dtype).tiny
    less = jnp.maximum(total.less, tiny)
    ratio = total.length / jnp.maximum(total.time, tiny)
    # artanh(|S| / T) / |S|
    near = ratio < 0.5
    inner = jnp.where(near, ratio, jnp.full_like(ratio, 0.25))
    quotient = fn.artanh_quotient(inner * inner, inner, jnp.ones_like(inner))
    far = 0.5 * jnp.log((total.time + total.length) / less)
    far = far / jnp.where(near, jnp.ones_like(ratio), total.length)
    return (
        total.space
        * jnp.where(near, quotient / jnp.maximum(total.time, tiny), far)
        / (2 * s[..., 0, :])
    )


def _sum(time, space, inverse, sinh, n, weights) -> Sum:
    def total(terms):
        return jnp.sum(weights * terms, -2)

    whole, vector = total(time), total(space)
    length = fn.norm(vector)
    some = length[..., None] > 0
    m = fn.unit(vector, length)[..., None, :]
    across = jnp.where(some, 0.5 * fn.square(n - m), 1.0)
    # Near the origin n has no derivative, and nothing cancels.
    less = jnp.where(inverse > 0.3 * time, time - fn.dot(space, m), inverse + sinh * across)
    return Sum(whole, vector, length, total(less))
