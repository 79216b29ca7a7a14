"""Many channels of a recurrence in tiles of R runs and C channels: device code.

The recurrence is y_i = F_i y_{i-1} + c_i x_i, or from behind. Factors are those of a site, for all
channels; a run has S sites. Complex numbers in memory are pairs (real, imaginary).
"""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_complex import multiply


@triton.jit
def places(x, at, inside, block, D: tl.constexpr, C: tl.constexpr, PAIRS: tl.constexpr):
    """Where rows `at` and a block of C channels of x (..., d) lie, and which there are."""
    WIDTH: tl.constexpr = 2 if PAIRS else 1
    place = block * WIDTH * C + tl.arange(0, WIDTH * C)
    mask = inside[:, None] & (place < WIDTH * D)[None, :]
    return x + at[:, None] * (WIDTH * D) + place[None, :], mask


@triton.jit
def load(
    x, at, inside, block, D: tl.constexpr, R: tl.constexpr, C: tl.constexpr, PAIRS: tl.constexpr
):
    """Rows `at` and a block of C channels of x (..., d), complex if it holds pairs."""
    place, mask = places(x, at, inside, block, D, C, PAIRS)
    real = tl.load(place, mask=mask, other=0.0)
    if PAIRS:
        real, imag = tl.split(tl.reshape(real, (R, C, 2)))
    else:
        imag = tl.zeros_like(real)
    return real, imag


@triton.jit
def store(
    x,
    at,
    inside,
    block,
    real,
    imag,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    PAIRS: tl.constexpr,
):
    place, mask = places(x, at, inside, block, D, C, PAIRS)
    if PAIRS:
        real = tl.reshape(tl.join(real, imag), (R, 2 * C))
    tl.store(place, real, mask=mask)


@triton.jit
def number(x, i, inside):
    """Complex numbers i of x."""
    real = tl.load(x + 2 * i, mask=inside, other=0.0)
    return real, tl.load(x + 2 * i + 1, mask=inside, other=0.0)


@triton.jit
def read4(
    source,
    s,
    block,
    N: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    PAIRS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Sources (R, C) of the sites that the recurrence comes to in four steps from s (R,) on."""
    i, d = (N - 1 - s, -1) if REVERSE else (s, 1)
    x0, z0 = load(source, i, s < N, block, D, R, C, PAIRS)
    x1, z1 = load(source, i + d, s + 1 < N, block, D, R, C, PAIRS)
    x2, z2 = load(source, i + 2 * d, s + 2 < N, block, D, R, C, PAIRS)
    x3, z3 = load(source, i + 3 * d, s + 3 < N, block, D, R, C, PAIRS)
    return x0, z0, x1, z1, x2, z2, x3, z3


@triton.jit
def step(
    factor,
    scale,
    s,
    xr,
    xi,
    yr,
    yi,
    N: tl.constexpr,
    SCALED: tl.constexpr,
    PAIRS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """The factor of step s, and y after it."""
    i = N - 1 - s if REVERSE else s
    ar, ai = number(factor, i, s < N)
    yr, yi = multiply(ar[:, None], ai[:, None], yr, yi)
    if SCALED:
        cr, ci = number(scale, i, s < N)
        if PAIRS:
            xr, xi = multiply(cr[:, None], ci[:, None], xr, xi)
        else:
            xr, xi = cr[:, None] * xr, ci[:, None] * xr
    return ar, ai, yr + xr, yi + xi
