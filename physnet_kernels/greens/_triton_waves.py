"""Many channels of y_i = F_i y_{i-1} + c_i x_i, and the transpose: device code.

Factors are those of a site, for all channels. A run of S sites is known by the product of its
factors and by y at its end with zero in front; one kernel finds those of all runs, a second one
goes from run to run, a third one goes through the sites again with the true y in front.

A tile has R runs and C channels; complex numbers in memory are pairs (real, imaginary).
"""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_complex import multiply, row_of


@triton.jit
def load(
    x, at, inside, block, D: tl.constexpr, R: tl.constexpr, C: tl.constexpr, PAIRS: tl.constexpr
):
    """Rows `at` and a block of C channels of x (..., d), complex if it holds pairs."""
    if PAIRS:
        place = block * 2 * C + tl.arange(0, 2 * C)
        mask = inside[:, None] & (place < 2 * D)[None, :]
        pairs = tl.load(x + at[:, None] * (2 * D) + place[None, :], mask=mask, other=0.0)
        real, imag = tl.split(tl.reshape(pairs, (R, C, 2)))
    else:
        place = block * C + tl.arange(0, C)
        mask = inside[:, None] & (place < D)[None, :]
        real = tl.load(x + at[:, None] * D + place[None, :], mask=mask, other=0.0)
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
    if PAIRS:
        place = block * 2 * C + tl.arange(0, 2 * C)
        mask = inside[:, None] & (place < 2 * D)[None, :]
        pairs = tl.reshape(tl.join(real, imag), (R, 2 * C))
        tl.store(x + at[:, None] * (2 * D) + place[None, :], pairs, mask=mask)
    else:
        place = block * C + tl.arange(0, C)
        mask = inside[:, None] & (place < D)[None, :]
        tl.store(x + at[:, None] * D + place[None, :], real, mask=mask)


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


@triton.jit
def reduce_kernel(
    factor,
    scale,
    source,
    products,
    ends,
    N: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    RUNS: tl.constexpr,
    BLOCKS: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    FACTOR: tl.constexpr,
    SCALE: tl.constexpr,
    SOURCE: tl.constexpr,
    SCALED: tl.constexpr,
    PAIRS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Program (lane and block of runs, block of channels).

    products (lanes, runs) and ends (lanes, runs, d), pairs; runs in the order of the recurrence.
    """
    lane = tl.program_id(0) // BLOCKS
    factor += row_of(lane, D1, D2, FACTOR).to(tl.int64) * N * 2
    scale += row_of(lane, D1, D2, SCALE).to(tl.int64) * N * 2
    source += row_of(lane, D1, D2, SOURCE).to(tl.int64) * N * D * (2 if PAIRS else 1)
    run = tl.program_id(0) % BLOCKS * R + tl.arange(0, R)
    block = tl.program_id(1)
    pr, pi = tl.full((R,), 1.0, tl.float32), tl.zeros((R,), tl.float32)
    yr, yi = tl.zeros((R, C), tl.float32), tl.zeros((R, C), tl.float32)
    x0, z0, x1, z1, x2, z2, x3, z3 = read4(source, run * S, block, N, D, R, C, PAIRS, REVERSE)
    for begin in range(0, S, 4):
        s = run * S + begin
        # what the next four steps read is on its way while these run
        ahead = tl.where(begin + 4 < S, s + 4, N)
        v0, u0, v1, u1, v2, u2, v3, u3 = read4(source, ahead, block, N, D, R, C, PAIRS, REVERSE)
        a0, b0, yr, yi = step(factor, scale, s + 0, x0, z0, yr, yi, N, SCALED, PAIRS, REVERSE)
        a1, b1, yr, yi = step(factor, scale, s + 1, x1, z1, yr, yi, N, SCALED, PAIRS, REVERSE)
        a2, b2, yr, yi = step(factor, scale, s + 2, x2, z2, yr, yi, N, SCALED, PAIRS, REVERSE)
        a3, b3, yr, yi = step(factor, scale, s + 3, x3, z3, yr, yi, N, SCALED, PAIRS, REVERSE)
        a0, b0 = multiply(a0, b0, a1, b1)
        a2, b2 = multiply(a2, b2, a3, b3)
        a0, b0 = multiply(a0, b0, a2, b2)
        pr, pi = multiply(a0, b0, pr, pi)
        x0, z0, x1, z1, x2, z2, x3, z3 = v0, u0, v1, u1, v2, u2, v3, u3
    at = lane.to(tl.int64) * RUNS + run
    there = run < RUNS
    if block == 0:
        tl.store(products + 2 * at, pr, mask=there)
        tl.store(products + 2 * at + 1, pi, mask=there)
    store(ends, at, there, block, yr, yi, D, R, C, True)


@triton.jit
def join(ar, ai, xr, xi, br, bi, yr, yi):
    """Run 1 in front of run 2: products and ends."""
    xr, xi = multiply(br, bi, xr, xi)
    ar, ai = multiply(br, bi, ar, ai)
    return ar, ai, yr + xr, yi + xi


@triton.jit
def entries_kernel(
    products,
    ends,
    start,
    entries,
    D: tl.constexpr,
    B: tl.constexpr,
    C: tl.constexpr,
    RUNS: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    START: tl.constexpr,
):
    """Program (lane, block of channels): y in front of each run, B runs at a time."""
    lane = tl.program_id(0)
    products += lane.to(tl.int64) * RUNS * 2
    ends += lane.to(tl.int64) * RUNS * D * 2
    entries += lane.to(tl.int64) * RUNS * D * 2
    start += row_of(lane, D1, D2, START).to(tl.int64) * D * 2
    place = tl.arange(0, B)
    channel = tl.program_id(1) * C + tl.arange(0, C)
    exists = channel < D
    yr = tl.load(start + 2 * channel, mask=exists, other=0.0)
    yi = tl.load(start + 2 * channel + 1, mask=exists, other=0.0)
    tl.store(entries + 2 * channel, yr, mask=exists)
    tl.store(entries + 2 * channel + 1, yi, mask=exists)
    for block in range(0, RUNS, B):
        run = block + place
        mask = (run < RUNS - 1)[:, None] & exists[None, :]
        at = 2 * (run[:, None] * D + channel[None, :])
        p = 2 * run[:, None] + tl.zeros((B, C), tl.int32)
        pr = tl.load(products + p, mask=mask, other=0.0)
        pi = tl.load(products + p + 1, mask=mask, other=0.0)
        er = tl.load(ends + at, mask=mask, other=0.0)
        ei = tl.load(ends + at + 1, mask=mask, other=0.0)
        pr, pi, er, ei = tl.associative_scan((pr, pi, er, ei), 0, join)
        zr, zi = multiply(pr, pi, yr[None, :], yi[None, :])
        er, ei = er + zr, ei + zi
        tl.store(entries + at + 2 * D, er, mask=mask)
        tl.store(entries + at + 2 * D + 1, ei, mask=mask)
        end = (place == B - 1)[:, None]
        yr = tl.sum(tl.where(end, er, 0.0), 0)
        yi = tl.sum(tl.where(end, ei, 0.0), 0)


@triton.jit
def replay_kernel(
    factor,
    scale,
    source,
    entries,
    out,
    N: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    RUNS: tl.constexpr,
    BLOCKS: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    FACTOR: tl.constexpr,
    SCALE: tl.constexpr,
    SOURCE: tl.constexpr,
    SCALED: tl.constexpr,
    PAIRS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Program (lane and block of runs, block of channels): y of the runs' sites."""
    lane = tl.program_id(0) // BLOCKS
    factor += row_of(lane, D1, D2, FACTOR).to(tl.int64) * N * 2
    scale += row_of(lane, D1, D2, SCALE).to(tl.int64) * N * 2
    source += row_of(lane, D1, D2, SOURCE).to(tl.int64) * N * D * (2 if PAIRS else 1)
    out += lane.to(tl.int64) * N * D * 2
    run = tl.program_id(0) % BLOCKS * R + tl.arange(0, R)
    block = tl.program_id(1)
    at = lane.to(tl.int64) * RUNS + run
    yr, yi = load(entries, at, run < RUNS, block, D, R, C, True)
    x0, z0, x1, z1, x2, z2, x3, z3 = read4(source, run * S, block, N, D, R, C, PAIRS, REVERSE)
    for begin in range(0, S, 4):
        s = run * S + begin
        # what the next four steps read is on its way while these run
        ahead = tl.where(begin + 4 < S, s + 4, N)
        v0, u0, v1, u1, v2, u2, v3, u3 = read4(source, ahead, block, N, D, R, C, PAIRS, REVERSE)
        i, d = (N - 1 - s, -1) if REVERSE else (s, 1)
        _, _, yr, yi = step(factor, scale, s + 0, x0, z0, yr, yi, N, SCALED, PAIRS, REVERSE)
        store(out, i + 0 * d, s + 0 < N, block, yr, yi, D, R, C, True)
        _, _, yr, yi = step(factor, scale, s + 1, x1, z1, yr, yi, N, SCALED, PAIRS, REVERSE)
        store(out, i + 1 * d, s + 1 < N, block, yr, yi, D, R, C, True)
        _, _, yr, yi = step(factor, scale, s + 2, x2, z2, yr, yi, N, SCALED, PAIRS, REVERSE)
        store(out, i + 2 * d, s + 2 < N, block, yr, yi, D, R, C, True)
        _, _, yr, yi = step(factor, scale, s + 3, x3, z3, yr, yi, N, SCALED, PAIRS, REVERSE)
        store(out, i + 3 * d, s + 3 < N, block, yr, yi, D, R, C, True)
        x0, z0, x1, z1, x2, z2, x3, z3 = v0, u0, v1, u1, v2, u2, v3, u3


@triton.jit
def started(start, yr, yi, first, block, D: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """y of the site before, which for the first site is the start."""
    sr, si = load(start, tl.zeros((R,), tl.int32), first, block, D, R, C, True)
    return yr + sr, yi + si


@triton.jit
def store_site(
    green,
    total,
    d_source,
    bonds,
    onsites,
    i,
    block,
    tr,
    ti,
    yr,
    yi,
    beforer,
    beforei,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """What `transpose_kernel` writes of a site: t, y and the y before it are given."""
    inside = i >= 0
    store(total, i, inside, block, tr, ti, D, R, C, True)
    gr, gi = number(green, i, inside)
    xr, xi = multiply(gr[:, None], gi[:, None], tr, ti)
    store(d_source, i, inside, block, xr, xi, D, R, C, PAIRS)
    to = 2 * (i * COLUMNS + block)
    zr, zi = multiply(yr, yi, tr, ti)
    tl.store(onsites + to, tl.sum(zr, 1), mask=inside)
    tl.store(onsites + to + 1, tl.sum(zi, 1), mask=inside)
    zr, zi = multiply(beforer, beforei, xr, xi)
    tl.store(bonds + to, tl.sum(zr, 1), mask=inside)
    tl.store(bonds + to + 1, tl.sum(zi, 1), mask=inside)


@triton.jit
def transpose_kernel(
    factor,
    green,
    cotangent,
    waves,
    start,
    entries,
    total,
    d_source,
    bonds,
    onsites,
    N: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    RUNS: tl.constexpr,
    BLOCKS: tl.constexpr,
    COLUMNS: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    FACTOR: tl.constexpr,
    GREEN: tl.constexpr,
    COTANGENT: tl.constexpr,
    WAVES: tl.constexpr,
    START: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """Program (lane and block of runs, block of channels): the runs' sites from behind.

    With t_i = (cotangent of y_i) + F_{i+1} t_{i+1}, the factors given as F_{i+1}: t; g_i t_i; and
    sums over the block of channels: of g_i y_{i-1} t_i and of y_i t_i, (lanes, n, columns) each.
    """
    lane = tl.program_id(0) // BLOCKS
    factor += row_of(lane, D1, D2, FACTOR).to(tl.int64) * N * 2
    green += row_of(lane, D1, D2, GREEN).to(tl.int64) * N * 2
    cotangent += row_of(lane, D1, D2, COTANGENT).to(tl.int64) * N * D * 2
    waves += row_of(lane, D1, D2, WAVES).to(tl.int64) * N * D * 2
    start += row_of(lane, D1, D2, START).to(tl.int64) * D * 2
    total += lane.to(tl.int64) * N * D * 2
    d_source += lane.to(tl.int64) * N * D * (2 if PAIRS else 1)
    onsites += lane.to(tl.int64) * N * COLUMNS * 2
    bonds += lane.to(tl.int64) * N * COLUMNS * 2
    run = tl.program_id(0) % BLOCKS * R + tl.arange(0, R)
    block = tl.program_id(1)
    at = lane.to(tl.int64) * RUNS + run
    tr, ti = load(entries, at, run < RUNS, block, D, R, C, True)
    y0, z0 = load(waves, N - 1 - run * S, run * S < N, block, D, R, C, True)
    x0, w0, x1, w1, x2, w2, x3, w3 = read4(cotangent, run * S, block, N, D, R, C, True, True)
    y1, z1, y2, z2, y3, z3, y4, z4 = read4(waves, run * S + 1, block, N, D, R, C, True, True)
    for begin in range(0, S, 4):
        s = run * S + begin
        i = N - 1 - s
        # what the next four steps read is on its way while these run
        ahead = tl.where(begin + 4 < S, s + 4, N)
        e0, f0, e1, f1, e2, f2, e3, f3 = read4(cotangent, ahead, block, N, D, R, C, True, True)
        g0, h0, g1, h1, g2, h2, g3, h3 = read4(waves, ahead + 1, block, N, D, R, C, True, True)
        y1, z1 = started(start, y1, z1, i == 0, block, D, R, C)
        y2, z2 = started(start, y2, z2, i == 1, block, D, R, C)
        y3, z3 = started(start, y3, z3, i == 2, block, D, R, C)
        y4, z4 = started(start, y4, z4, i == 3, block, D, R, C)
        _, _, tr, ti = step(factor, factor, s + 0, x0, w0, tr, ti, N, False, True, True)
        store_site(
            green, total, d_source, bonds, onsites, i - 0, block, tr, ti, y0, z0, y1, z1,
            D, R, C, COLUMNS, PAIRS,
        )  # fmt: skip
        _, _, tr, ti = step(factor, factor, s + 1, x1, w1, tr, ti, N, False, True, True)
        store_site(
            green, total, d_source, bonds, onsites, i - 1, block, tr, ti, y1, z1, y2, z2,
            D, R, C, COLUMNS, PAIRS,
        )  # fmt: skip
        _, _, tr, ti = step(factor, factor, s + 2, x2, w2, tr, ti, N, False, True, True)
        store_site(
            green, total, d_source, bonds, onsites, i - 2, block, tr, ti, y2, z2, y3, z3,
            D, R, C, COLUMNS, PAIRS,
        )  # fmt: skip
        _, _, tr, ti = step(factor, factor, s + 3, x3, w3, tr, ti, N, False, True, True)
        store_site(
            green, total, d_source, bonds, onsites, i - 3, block, tr, ti, y3, z3, y4, z4,
            D, R, C, COLUMNS, PAIRS,
        )  # fmt: skip
        y0, z0 = y4, z4
        x0, w0, x1, w1, x2, w2, x3, w3 = e0, f0, e1, f1, e2, f2, e3, f3
        y1, z1, y2, z2, y3, z3, y4, z4 = g0, h0, g1, h1, g2, h2, g3, h3
