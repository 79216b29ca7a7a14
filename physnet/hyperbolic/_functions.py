"""Norms and odd functions with exact derivatives at 0, and sums without cancellation.

Vectors lie along the last axis, which every result keeps.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax


def dot(x: jax.Array, y: jax.Array) -> jax.Array:
    """x.y along the last axis."""
    return jnp.sum(x * y, -1, keepdims=True)


def square(x: jax.Array) -> jax.Array:
    """|x|^2."""
    return jnp.sum(x * x, -1, keepdims=True)


def norm(x: jax.Array) -> jax.Array:
    """|x| without overflow or underflow, with derivative 0 at 0."""
    largest = lax.stop_gradient(jnp.max(jnp.abs(x), -1, keepdims=True))
    usable = (largest > 0) & (largest < jnp.inf)
    scale = jnp.where(usable, largest, jnp.ones_like(largest))
    return scale * root(square(x / scale))


def root(t: jax.Array) -> jax.Array:
    """sqrt(t), with 0 and derivative 0 for t <= 0."""
    positive = t > 0
    values = jnp.sqrt(jnp.where(positive, t, jnp.ones_like(t)))
    return jnp.where(positive, values, jnp.where(jnp.isnan(t), t, jnp.zeros_like(t)))


def unit(x: jax.Array, length: jax.Array) -> jax.Array:
    """x / |x|, and x itself at 0."""
    return x / jnp.where(length > 0, length, jnp.ones_like(length))


def _even(function: Callable, coefficients: list[float]) -> Callable:
    """f(y) / y of an odd f as a function of t = y^2 and y: smooth at 0, by its series there."""

    def quotient(t: jax.Array, y: jax.Array) -> jax.Array:
        small = t < 1e-3
        series = jnp.zeros_like(t)
        near = jnp.where(small, t, jnp.zeros_like(t))
        for coefficient in reversed(coefficients):
            series = series * near + coefficient
        away = jnp.where(small, jnp.ones_like(y), y)
        return jnp.where(small, series, function(away) / away)

    return quotient


_TERMS = range(6)
tanh_quotient = _even(jnp.tanh, [1.0, -1 / 3, 2 / 15, -17 / 315, 62 / 2835, -1382 / 155925])
sinh_quotient = _even(jnp.sinh, [1 / math.factorial(2 * n + 1) for n in _TERMS])
asinh_quotient = _even(
    jnp.arcsinh,
    [(-1) ** n * math.comb(2 * n, n) / (4**n * (2 * n + 1)) for n in _TERMS],
)


def artanh_quotient(t: jax.Array, y: jax.Array, gap: jax.Array) -> jax.Array:
    """artanh(y) / y, with gap = 1 - y^2 given to full accuracy."""

    def artanh(away: jax.Array) -> jax.Array:
        far = away > 0.5
        inside = jnp.arctanh(jnp.where(far, jnp.zeros_like(away), away))
        return jnp.where(far, jnp.log1p(away) - 0.5 * jnp.log(gap), inside)

    return _even(artanh, [1 / (2 * n + 1) for n in _TERMS])(t, y)
