"""The transpose of y_i = g_i (x_i + l_i y_{i-1}), for many channels: the last kernel.

The waves' own first two kernels find what enters each run from behind.
"""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_complex import multiply, row_of
from physnet_kernels.greens._triton_tiles import load, number, read4, step, store


@triton.jit
def started(start, yr, yi, first, block, D: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """y of the site before, which for the first site is the start."""
    sr, si = load(start, tl.zeros((R,), tl.int32), first, block, D, R, C, True)
    return yr + sr, yi + si


@triton.jit
def store_site(
    green,
    sinks,
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
    total, d_source, bonds, onsites = sinks
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
    sinks = total, d_source, bonds, onsites
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
        store_site(green, sinks, i - 0, block, tr, ti, y0, z0, y1, z1, D, R, C, COLUMNS, PAIRS)
        _, _, tr, ti = step(factor, factor, s + 1, x1, w1, tr, ti, N, False, True, True)
        store_site(green, sinks, i - 1, block, tr, ti, y1, z1, y2, z2, D, R, C, COLUMNS, PAIRS)
        _, _, tr, ti = step(factor, factor, s + 2, x2, w2, tr, ti, N, False, True, True)
        store_site(green, sinks, i - 2, block, tr, ti, y2, z2, y3, z3, D, R, C, COLUMNS, PAIRS)
        _, _, tr, ti = step(factor, factor, s + 3, x3, w3, tr, ti, N, False, True, True)
        store_site(green, sinks, i - 3, block, tr, ti, y3, z3, y4, z4, D, R, C, COLUMNS, PAIRS)
        y0, z0 = y4, z4
        x0, w0, x1, w1, x2, w2, x3, w3 = e0, f0, e1, f1, e2, f2, e3, f3
        y1, z1, y2, z2, y3, z3, y4, z4 = g0, h0, g1, h1, g2, h2, g3, h3
