"""The distance of points given by tangent vectors, compared without cancellation: device code."""

import triton
import triton.language as tl


@triton.jit
def log_square(v, w, a, b, scale):
    """log sinh^2(D / 2) of v, w (..., d) of lengths a, b (...), radii r = scale a.

    sinh^2(D / 2) = sinh^2(rho / 2) + sinh r sinh q |turn|^2 / 4,  rho = r - q,
    with rho and turn = v / |v| - w / |w| from v - w, whose digits count where both are far, and in
    units of e^{r + q}: no overflow.
    """
    axis: tl.constexpr = len(v.shape) - 1
    both = a + b
    change = v - w
    closer = tl.sum(change * (v + w), axis) / tl.where(both > 0, both, 1.0)  # |v| - |w|
    share = closer / tl.where(b > 0, b, 1.0)
    turn = change - w * tl.expand_dims(share, axis)
    below = tl.where(a > 0, a, 1.0)
    chord = tl.sum(turn * turn, axis) / below / below
    r, q, rho = scale * a, scale * b, scale * tl.abs(closer)
    less = less_than_one(rho)
    radial = tl.exp(-2 * tl.minimum(r, q)) * less * less
    across = less_than_one(2 * r) * less_than_one(2 * q) * chord
    return r + q + tl.log((radial + 0.25 * across) / 4)


@triton.jit
def less_than_one(x):
    """1 - e^{-x} for x >= 0, right also where it is small."""
    series = 1 - x / 7
    series = 1 - x / 6 * series
    series = 1 - x / 5 * series
    series = 1 - x / 4 * series
    series = 1 - x / 3 * series
    series = 1 - x / 2 * series
    return tl.where(x < 0.5, x * series, 1 - tl.exp(-x))
