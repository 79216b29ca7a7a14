"""The distance of points given by tangent vectors, compared without cancellation: device code."""

import triton
import triton.language as tl


@triton.jit
def log_square(v, w, a, b, scale, there, WIDTH: tl.constexpr):
    """log sinh^2(D / 2) of vectors at pointers v, w, of lengths a, b; all of one shape (m, n).

    sinh^2(D / 2) = sinh^2(rho / 2) + sinh r sinh q |turn|^2 / 4,  r = scale a, q = scale b,
    with rho = r - q and turn = v / a - w / b from v - w, whose digits count where both are far, and
    in units of e^{r + q}: no overflow. A lane adds up a pair's coordinates, four at a time.
    """
    both = a + b
    inner = tl.zeros_like(a)
    for start in range(0, WIDTH, 16):
        for part in tl.static_range(0, 16, 4):
            x, y = _four(v, w, there, start + part, WIDTH)
            inner += tl.sum((x - y) * (x + y), 2)
    closer = inner / tl.where(both > 0, both, 1.0)  # |v| - |w|
    share = (closer / tl.where(b > 0, b, 1.0))[:, :, None]
    chord = tl.zeros_like(a)
    for start in range(0, WIDTH, 16):
        for part in tl.static_range(0, 16, 4):
            x, y = _four(v, w, there, start + part, WIDTH)
            turn = (x - y) - y * share
            chord += tl.sum(turn * turn, 2)
    below = 1 / tl.where(a > 0, a, 1.0)
    r, q, rho = scale * a, scale * b, scale * tl.abs(closer)
    less = less_than_one(rho)
    radial = tl.exp(-2 * tl.minimum(r, q)) * less * less
    across = less_than_one(2 * r) * less_than_one(2 * q) * (chord * below * below)
    return r + q + tl.log(0.25 * radial + 0.0625 * across)


@triton.jit
def _four(v, w, there, start, WIDTH: tl.constexpr):
    feature = start + tl.arange(0, 4)
    mask = there[:, :, None]
    if WIDTH % 16 != 0:
        mask = mask & (feature < WIDTH)[None, None, :]
    at = feature[None, None, :]
    return tl.load(v[:, :, None] + at, mask, 0.0), tl.load(w[:, :, None] + at, mask, 0.0)


@triton.jit
def less_than_one(x):
    """1 - e^{-x} for x >= 0, right also where it is small."""
    series = 1 - x * (1.0 / 7)
    series = 1 - x * (1.0 / 6) * series
    series = 1 - x * (1.0 / 5) * series
    series = 1 - x * (1.0 / 4) * series
    series = 1 - x * (1.0 / 3) * series
    series = 1 - x * (1.0 / 2) * series
    return tl.where(x < 0.5, x * series, 1 - tl.exp(-x))
