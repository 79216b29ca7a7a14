"""Complex arithmetic on pairs of real numbers, and where the rows of a batch lie: device code."""

import triton
import triton.language as tl


@triton.jit
def multiply(xr, xi, yr, yi):
    return xr * yr - xi * yi, xr * yi + xi * yr


@triton.jit
def reciprocal(x, y):
    """1 / (x + iy), scaled by a power of two: it neither overflows nor loses digits on the way.

    The sign of the imaginary part is minus that of y to the last bit.
    """
    larger = tl.maximum(tl.abs(x), tl.abs(y)).to(tl.int32, bitcast=True)
    power = tl.maximum((254 << 23) - (larger & 0x7F800000), 1 << 23)
    scale = power.to(tl.float32, bitcast=True)
    x, y = x * scale, y * scale
    factor = scale * (1.0 / (x * x + y * y))
    return x * factor, -y * factor


@triton.jit
def row_of(lane, D1: tl.constexpr, D2: tl.constexpr, HAS: tl.constexpr):
    """Row of an operand that a lane reads.

    Lanes are counted over three axes, the last two of sizes D1 and D2; the bits of HAS say which
    of them (4, 2, 1) the operand has. It has one row for all of the others.
    """
    row = lane * 0
    if HAS & 4:
        row = lane // (D1 * D2)
    if HAS & 2:
        row = row * D1 + lane // D2 % D1
    if HAS & 1:
        row = row * D2 + lane % D2
    return row


@triton.jit
def last(x, SIZE: tl.constexpr):
    """The last element; no other takes part, NaNs included."""
    return tl.sum(tl.where(tl.arange(0, SIZE) == SIZE - 1, x, 0.0), 0)


@triton.jit
def load4(x, first, mask, T: tl.constexpr, OTHER: tl.constexpr):
    """x at four places each, from `first` (T,) on, in one go where they are aligned."""
    tile = tl.load(x + first[:, None] + tl.arange(0, 4)[None, :], mask=mask, other=OTHER)
    even, odd = tl.split(tl.reshape(tile, (T, 2, 2)))
    x0, x2 = tl.split(even)
    x1, x3 = tl.split(odd)
    return x0, x1, x2, x3


@triton.jit
def store4(x, first, x0, x1, x2, x3, mask, T: tl.constexpr):
    """Four numbers each to x, from `first` on."""
    tile = tl.reshape(tl.join(tl.join(x0, x2), tl.join(x1, x3)), (T, 4))
    tl.store(x + first[:, None] + tl.arange(0, 4)[None, :], tile, mask=mask)
