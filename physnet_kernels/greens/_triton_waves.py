"""Many channels of y_i = F_i y_{i-1} + c_i x_i, or from behind: kernels.

A run of S sites is known by the product of its factors and by y at its end with zero in front; one
kernel finds those of all runs, a second one goes from run to run, a third one goes through the
sites again with the true y in front.
"""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_complex import multiply, row_of
from physnet_kernels.greens._triton_tiles import load, read4, step, store


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
