"""Many channels of a recurrence in tiles of R runs and C channels: device code.

The recurrence is y_i = g_i (x_i + l_i y_{i-1}), or from behind, or that without g. Numbers g and l
are those of a site, for all channels; a run has S sites. Complex numbers in memory are pairs (real,
imaginary). Indices of sites are columns (R, 1).
"""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_complex import multiply


@triton.jit
def places(x, at, inside, block, D: tl.constexpr, C: tl.constexpr, PAIRS: tl.constexpr):
    """Where rows `at` and a block of C channels of x (..., d) lie, and which there are."""
    WIDTH: tl.constexpr = 2 if PAIRS else 1
    place = (block * WIDTH * C + tl.arange(0, WIDTH * C))[None, :]
    at = x + at * (WIDTH * D) + place
    if C > 1 and not PAIRS:
        # a thread has two channels, so that it has four numbers of pairs: no exchange of threads
        at = tl.max_contiguous(at, [1, 2])
    return at, inside & (place < WIDTH * D)


@triton.jit
def load(
    x,
    at,
    inside,
    block,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    PAIRS: tl.constexpr,
    POLICY: tl.constexpr,
):
    """Rows `at` and a block of C channels of x (..., d), complex if it holds pairs."""
    place, mask = places(x, at, inside, block, D, C, PAIRS)
    real = tl.load(place, mask=mask, other=0.0, eviction_policy=POLICY)
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
    """Writes what nobody reads soon."""
    place, mask = places(x, at, inside, block, D, C, PAIRS)
    if PAIRS:
        real = tl.reshape(tl.join(real, imag), (R, 2 * C))
    tl.store(place, real, mask=mask, eviction_policy="evict_first")


@triton.jit
def number(x, i, inside):
    """Complex numbers i of x, each in one go."""
    pair = tl.load(x.to(tl.pointer_type(tl.int64)) + i, mask=inside, other=0)
    real, imag = pair.to(tl.int32), (pair >> 32).to(tl.int32)
    return real.to(tl.float32, bitcast=True), imag.to(tl.float32, bitcast=True)


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
    POLICY: tl.constexpr,
):
    """Sources (R, C) of the sites that the recurrence comes to in four steps from s on."""
    i, d = (N - 1 - s, -1) if REVERSE else (s, 1)
    x0, z0 = load(source, i, s < N, block, D, R, C, PAIRS, POLICY)
    x1, z1 = load(source, i + d, s + 1 < N, block, D, R, C, PAIRS, POLICY)
    x2, z2 = load(source, i + 2 * d, s + 2 < N, block, D, R, C, PAIRS, POLICY)
    x3, z3 = load(source, i + 3 * d, s + 3 < N, block, D, R, C, PAIRS, POLICY)
    return x0, z0, x1, z1, x2, z2, x3, z3


@triton.jit
def step(
    link,
    green,
    s,
    xr,
    xi,
    yr,
    yi,
    N: tl.constexpr,
    SCALED: tl.constexpr,
    PAIRS: tl.constexpr,
    REVERSE: tl.constexpr,
    STARTED: tl.constexpr,
):
    """The factor g l of step s, and y after it; the first l is not read where nothing starts."""
    i = N - 1 - s if REVERSE else s
    inside = s < N
    if STARTED:
        ar, ai = number(link, i, inside)
    else:
        ar, ai = number(link, i, inside & (s > 0))
    if SCALED:
        gr, gi = number(green, i, inside)
        ar, ai = multiply(gr, gi, ar, ai)
        if PAIRS:
            xr, xi = multiply(gr, gi, xr, xi)
        else:
            xr, xi = gr * xr, gi * xr
    yr, yi = multiply(ar, ai, yr, yi)
    return ar, ai, yr + xr, yi + xi


@triton.jit
def join(ar, ai, xr, xi, br, bi, yr, yi):
    """Run 1 in front of run 2: products of factors, and y at the ends, from zero."""
    xr, xi = multiply(br, bi, xr, xi)
    ar, ai = multiply(br, bi, ar, ai)
    return ar, ai, yr + xr, yi + xi


@triton.jit
def composites(
    link,
    green,
    source,
    base,
    block,
    N: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    SCALED: tl.constexpr,
    PAIRS: tl.constexpr,
    REVERSE: tl.constexpr,
    STARTED: tl.constexpr,
):
    """Of runs 0..r of a tile: product of the factors, and y at the end with zero in front.

    Runs begin with steps `base`. The sources stay in the cache.
    """
    zero = tl.zeros((R, C), tl.float32)
    pr, pi = tl.full((R, 1), 1.0, tl.float32), tl.zeros((R, 1), tl.float32)
    yr, yi = zero, zero
    x0, z0, x1, z1, x2, z2, x3, z3 = read4(
        source, base, block, N, D, R, C, PAIRS, REVERSE, "evict_last"
    )
    for begin in range(0, S, 4):
        s = base + begin
        # what the next four steps read is on its way while these run
        v0, u0, v1, u1, v2, u2, v3, u3 = read4(
            source,
            tl.where(begin + 4 < S, s + 4, N),
            block,
            N,
            D,
            R,
            C,
            PAIRS,
            REVERSE,
            "evict_last",
        )
        a0, b0, yr, yi = step(
            link, green, s + 0, x0, z0, yr, yi, N, SCALED, PAIRS, REVERSE, STARTED
        )
        a1, b1, yr, yi = step(
            link, green, s + 1, x1, z1, yr, yi, N, SCALED, PAIRS, REVERSE, STARTED
        )
        a2, b2, yr, yi = step(
            link, green, s + 2, x2, z2, yr, yi, N, SCALED, PAIRS, REVERSE, STARTED
        )
        a3, b3, yr, yi = step(
            link, green, s + 3, x3, z3, yr, yi, N, SCALED, PAIRS, REVERSE, STARTED
        )
        a0, b0 = multiply(a0, b0, a1, b1)
        a2, b2 = multiply(a2, b2, a3, b3)
        a0, b0 = multiply(a0, b0, a2, b2)
        pr, pi = multiply(a0, b0, pr, pi)
        x0, z0, x1, z1, x2, z2, x3, z3 = v0, u0, v1, u1, v2, u2, v3, u3
    return tl.associative_scan((pr + zero, pi + zero, yr, yi), 0, join)
