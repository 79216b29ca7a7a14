"""Radii and angles of the pairs of a tile: device code.

Two ways to the angle: a product of matrices gives its cosine, right where no pair of the tile is
close in angle; else Gram and Schmidt, twice and with products rounded once, find what v has across
w, however small it is.
"""

import triton
import triton.language as tl

from physnet_kernels.nearest_centroid._triton_polar import less_than_one

_WIDE_ANGLE = tl.constexpr(0.06)  # of 1 - cosine, from which on the product's rounding is small
_STEP = tl.constexpr(4)  # coordinates at a time


@triton.jit
def rows(points, row, there, D: tl.constexpr, WIDE: tl.constexpr):
    feature = tl.arange(0, WIDE)[None, :]
    return tl.load(points + row[:, None] * D + feature, there[:, None] & (feature < D), 0.0)


@triton.jit
def some(points, row, there, start, D: tl.constexpr):
    feature = start + tl.arange(0, _STEP)[None, :]
    return tl.load(points + row[:, None] * D + feature, there[:, None] & (feature < D), 0.0)


@triton.jit
def or_one(x):
    return tl.where(x > 0, x, 1.0)


@triton.jit
def cosine(x, y, a, b):
    product = tl.dot(x, tl.trans(y), input_precision="tf32x3")
    return product / (or_one(a)[:, None] * or_one(b)[None, :])


@triton.jit
def narrow(cosine, a, b):
    """Whether a pair of the tile needs the careful way."""
    both = (a > 0)[:, None] & (b > 0)[None, :]
    return tl.min(tl.min(tl.where(both, 1 - cosine, 2.0), 1), 0) < _WIDE_ANGLE


@triton.jit
def careful(v, w, row, column, here, there, a, b, D: tl.constexpr):
    """|v| - |w| and sin^2(theta / 2) (rows, columns), and the two steps along w that v loses."""
    zero = tl.zeros((a.shape[0], b.shape[0]), tl.float32)
    inner, product, apart = zero, zero, zero
    for start in range(0, D, _STEP):
        x = some(v, row, here, start, D)[:, None, :]
        y = some(w, column, there, start, D)[None, :, :]
        inner += tl.sum((x - y) * (x + y), 2)
        product += tl.sum(x * y, 2)
        apart += tl.sum(tl.abs(x - y), 2)
    below = (1 / or_one(b))[None, :]
    first = product * below * below
    rest = zero
    for start in range(0, D, _STEP):
        x = some(v, row, here, start, D)[:, None, :]
        y = some(w, column, there, start, D)[None, :, :]
        rest += tl.sum(_less(x, first, y) * y, 2)
    second = rest * below * below
    across = zero
    for start in range(0, D, _STEP):
        x = some(v, row, here, start, D)[:, None, :]
        y = some(w, column, there, start, D)[None, :, :]
        part = _less(_less(x, first, y), second, y)
        across += tl.sum(part * part, 2)
    cosine = product / (or_one(a)[:, None] * or_one(b)[None, :])
    sine = across / (or_one(a) * or_one(a))[:, None]
    half = tl.where(cosine > 0, sine / (2 * (1 + cosine)), 0.5 * (1 - cosine))
    half = tl.where(apart == 0, 0.0, half)
    return inner / or_one(a[:, None] + b[None, :]), half, first, second


@triton.jit
def _less(x, t, y):
    """x - t y, rounded once."""
    y, t = tl.broadcast_to(y, (t.shape[0], t.shape[1], _STEP)), t[:, :, None]
    return tl.fma(tl.broadcast_to(-t, y.shape), y, tl.broadcast_to(x, y.shape))


@triton.jit
def separation(closer, half, a, b, s):
    """D = s d of |v| - |w| and sin^2(theta / 2), for lengths a (rows, 1) and b (1, columns)."""
    r, q = 2 * s * a, 2 * s * b
    mean = 0.5 * (r + q)
    less = less_than_one(2 * s * tl.abs(closer))
    radial = tl.exp(-2 * tl.minimum(r, q)) * less * less
    size = 0.5 * tl.sqrt(radial + less_than_one(2 * r) * less_than_one(2 * q) * half)
    sinh = tl.exp(tl.minimum(mean, 80.0)) * size
    near = sinh < 1
    square = sinh * sinh
    more = sinh + square / (1 + tl.sqrt(1 + square))
    one = 1 + more
    asinh = tl.where(one == 1, more, tl.log(one) * (more / or_one(one - 1)))
    size = tl.where(near, 1.0, size)
    small = tl.exp(-mean) / size
    far = mean + tl.log(size) + tl.log(1 + tl.sqrt(1 + small * small))
    return 2 * tl.where(near, asinh, far)
