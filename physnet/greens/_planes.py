"""Complex arithmetic on separate real and imaginary planes.

XLA's CPU code for complex division is slow and scalar, and a complex reciprocal that squares its
argument overflows at 1e19 in float32. Here a complex array is a pair (real, imag) of equal dtype.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax


class Planes(NamedTuple):
    """A complex array as two real ones, which broadcast against each other."""

    real: jax.Array
    imag: jax.Array


def split(value: jax.Array | Planes) -> Planes:
    """Planes of a complex array, or of a real one with an imaginary part of zeros."""
    if isinstance(value, Planes):
        return value
    if jnp.iscomplexobj(value):
        return Planes(value.real, value.imag)
    return Planes(value, jnp.zeros_like(value))


def join(x: Planes) -> jax.Array:
    return lax.complex(x.real, x.imag)


def conjugate(x: Planes) -> Planes:
    return Planes(x.real, -x.imag)


def add(x: Planes, y: Planes) -> Planes:
    return Planes(x.real + y.real, x.imag + y.imag)


def subtract(x: Planes, y: Planes) -> Planes:
    return Planes(x.real - y.real, x.imag - y.imag)


def scale(factor: jax.Array, x: Planes) -> Planes:
    """A real factor times x."""
    return Planes(factor * x.real, factor * x.imag)


def multiply(x: Planes, y: Planes) -> Planes:
    return Planes(x.real * y.real - x.imag * y.imag, x.real * y.imag + x.imag * y.real)


def square(x: Planes) -> Planes:
    return Planes((x.real - x.imag) * (x.real + x.imag), 2 * x.real * x.imag)


@jax.custom_jvp
def reciprocal(x: Planes) -> Planes:
    """1/x, scaled by max(|re|, |im|): exact to rounding, and zero where 1/x is too small to hold.

    The sign of the imaginary part is minus that of x to the last bit, so Im x > 0 gives a
    non-positive result: densities of states made from it are never negative.
    """
    inverse = 1 / jnp.maximum(jnp.abs(x.real), jnp.abs(x.imag))
    inverse = jnp.maximum(inverse, 4 * jnp.finfo(inverse.dtype).tiny)  # subnormals count as zero
    real, imag = x.real * inverse, x.imag * inverse
    factor = inverse / (real * real + imag * imag)
    return Planes(real * factor, -imag * factor)


@reciprocal.defjvp
def _reciprocal_jvp(primals, tangents):
    g = reciprocal(*primals)
    change = multiply(square(g), *tangents)
    return g, Planes(-change.real, -change.imag)


def column(x: Planes) -> Planes:
    """With a channel axis of size 1 behind the sites'."""
    return Planes(x.real[:, None], x.imag[:, None])


def reverse(x: Planes) -> Planes:
    """Sites in the opposite order."""
    return Planes(x.real[::-1], x.imag[::-1])


def shift(x: Planes) -> Planes:
    """x_{i-1}, zero at i = 0."""
    return Planes(*(jnp.concatenate([jnp.zeros_like(p[:1]), p[:-1]]) for p in x))


def unshift(x: Planes) -> Planes:
    """x_{i+1}, zero at the last site."""
    return Planes(*(jnp.concatenate([p[1:], jnp.zeros_like(p[:1])]) for p in x))
