"""The distance of points given by tangent vectors, compared without cancellation: device code."""

import triton
import triton.language as tl


@triton.jit
def log_square(v, w, a, b, scale):
    """log sinh^2(D / 2) of vectors v, w of lengths a, b, which broadcast to (m, n).

    sinh^2(D / 2) = sinh^2(rho / 2) + sinh r sinh q |turn|^2 / 4,  r = scale a, q = scale b,
    with rho = r - q and turn = v / a - w / b from v - w, whose digits count where both are far, and
    in units of e^{r + q}: no overflow. Coordinates come as (m, n, parts, 16), so that four threads
    share a pair.
    """
    both = a + b
    change = v - w
    closer = _sum(change * (v + w)) / tl.where(both > 0, both, 1.0)  # |v| - |w|
    turn = change - w * (closer / tl.where(b > 0, b, 1.0))[:, :, None, None]
    below = 1 / tl.where(a > 0, a, 1.0)
    chord = _sum(turn * turn) * (below * below)
    r, q, rho = scale * a, scale * b, scale * tl.abs(closer)
    less = less_than_one(rho)
    radial = tl.exp(-2 * tl.minimum(r, q)) * less * less
    across = less_than_one(2 * r) * less_than_one(2 * q) * chord
    return r + q + tl.log(0.25 * radial + 0.0625 * across)


@triton.jit
def _sum(x):
    return tl.sum(tl.sum(x, 2), 2)


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


@triton.jit
def half_sinh_square(x):
    """sinh^2(x / 2) for x >= 0."""
    less = less_than_one(x)
    return 0.25 * less * less * tl.exp(x)
