"""Rows of numbers in 8, 4 or 2 bits a channel, with a step and an offset a row.

Shapes: n rows, d channels, k = 8 / bits channels of a byte.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, BFloat16, Float, UInt8

GAUSSIAN_STEP = 0.9957  # of four evenly spaced levels, in standard deviations: least mean square


class Packed(NamedTuple):
    """x = offset + step * code, codes packed from the lowest bits of a byte on."""

    codes: UInt8[Array, "n bytes"]
    step: BFloat16[Array, " n"]
    offset: BFloat16[Array, " n"]


def fill(channels: int, bits: int) -> None:
    """Raise where so many channels do not fill their bytes."""
    if channels * bits % 8:
        raise ValueError(
            f"bits={bits} needs channels that are a multiple of {8 // bits}, got {channels}"
        )


def empty(rows: int, channels: int, bits: int) -> Packed:
    """Rows of zeros."""
    fill(channels, bits)
    scale = jnp.zeros((rows,), jnp.bfloat16)
    return Packed(jnp.zeros((rows, channels * bits // 8), jnp.uint8), scale, scale)


def pack(x: Float[Array, "n d"], bits: int) -> Packed:
    """The nearest codes.

    8 and 4 bits span a row from its least to its greatest channel: no error beyond half a step and
    the rounding of step and offset, 2^-9 of the row's span and of its least channel.
    2 bits start from the four levels with the least mean square error for normally distributed
    channels, clip what lies beyond, and then fit step and offset to the codes by least squares.
    """
    fill(x.shape[-1], bits)
    most = 2**bits - 1
    mean = jnp.mean(x, -1)
    if bits == 2:
        step = GAUSSIAN_STEP * jnp.sqrt(jnp.mean((x - mean[:, None]) ** 2, -1))
        code = _codes(x, step, mean - 0.5 * most * step, most)
        middle = jnp.mean(code, -1)
        spread = code - middle[:, None]
        variance = jnp.mean(spread**2, -1)
        fitted = jnp.mean(x * spread, -1) / jnp.where(variance > 0, variance, 1)
        step = jnp.where(variance > 0, fitted, step).astype(jnp.bfloat16)
        offset = (mean - middle * step.astype(x.dtype)).astype(jnp.bfloat16)
    else:
        low = jnp.min(x, -1)
        offset = low.astype(jnp.bfloat16)
        step = ((jnp.max(x, -1) - offset.astype(x.dtype)) / most).astype(jnp.bfloat16)
        code = _codes(x, step.astype(x.dtype), offset.astype(x.dtype), most)
    code = jnp.where(jnp.isnan(code), 0, code).astype(jnp.uint8)
    parts = code.reshape(len(x), x.shape[-1] * bits // 8, 8 // bits) << _shifts(bits)
    return Packed(jnp.sum(parts, -1, dtype=jnp.uint8), step, offset)


def _codes(x: Array, step: Array, offset: Array, most: int) -> Array:
    code = (x - offset[:, None]) / jnp.where(step > 0, step, 1)[:, None]
    return jnp.clip(jnp.round(code), 0, most)


def unpack(packed: Packed, bits: int, dtype: Any) -> Float[Array, "n d"]:
    """The numbers for which the codes stand."""
    codes = (packed.codes[..., None] >> _shifts(bits)) & jnp.uint8(2**bits - 1)
    rows, size = packed.codes.shape
    codes = codes.reshape(rows, size * 8 // bits).astype(dtype)  # not -1: there may be no rows
    step, offset = (part.astype(dtype)[:, None] for part in packed[1:])
    return offset + step * codes


def rounded(x: Float[Array, "n d"], bits: int) -> Float[Array, "n d"]:
    """What packing makes of x, to the bit; the gradient passes as if it were x."""
    still = lax.stop_gradient(x)
    return unpack(pack(still, bits), bits, x.dtype) + (x - still)


def _shifts(bits: int) -> jax.Array:
    return jnp.arange(0, 8, bits, dtype=jnp.uint8)[None, None]
