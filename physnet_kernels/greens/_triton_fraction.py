"""Kernels of the continued fraction: from the first site, and from both ends of the chain."""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_complex import load4, reciprocal, row_of, store4
from physnet_kernels.greens._triton_fraction_runs import (
    chain_of_lane,
    entries,
    sites,
    step,
    store_chunk,
)


@triton.jit
def reduce_kernel(
    onsite,
    weight,
    energy_real,
    energy_imag,
    start_real,
    start_imag,
    runs,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    ONSITE: tl.constexpr,
    WEIGHT: tl.constexpr,
    ENERGY: tl.constexpr,
    START: tl.constexpr,
):
    """Program (lane and chunk, direction): the chunk's run, into runs (2, lanes, 8, chunks)."""
    lane, chunk, chain = chain_of_lane(
        onsite, weight, energy_real, energy_imag, N, CHUNKS, D1, D2, ONSITE, WEIGHT, ENERGY
    )
    if tl.program_id(1) == 0:
        row = row_of(lane, D1, D2, START)
        start = tl.load(start_real + row), tl.load(start_imag + row)
        runs += lane.to(tl.int64) * 8 * CHUNKS
        store_chunk(chain, start, runs, chunk, N, S, T, CHUNKS, False)
    else:
        runs += (lane + LANES).to(tl.int64) * 8 * CHUNKS
        store_chunk(chain, (0.0, 0.0), runs, chunk, N, S, T, CHUNKS, True)


@triton.jit
def left_kernel(
    onsite,
    weight,
    energy_real,
    energy_imag,
    start_real,
    start_imag,
    runs,
    green_real,
    green_imag,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    PADDED: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    ONSITE: tl.constexpr,
    WEIGHT: tl.constexpr,
    ENERGY: tl.constexpr,
    START: tl.constexpr,
):
    """Program (lane and chunk): g of the chunk's sites."""
    lane, chunk, chain = chain_of_lane(
        onsite, weight, energy_real, energy_imag, N, CHUNKS, D1, D2, ONSITE, WEIGHT, ENERGY
    )
    row = row_of(lane, D1, D2, START)
    start = tl.load(start_real + row), tl.load(start_imag + row)
    runs += lane.to(tl.int64) * 8 * CHUNKS
    green_real += lane.to(tl.int64) * N
    green_imag += lane.to(tl.int64) * N
    _, _, zr, zi = chain
    gr, gi = entries(chain, start, runs, chunk, N, S, T, CHUNKS, PADDED, False)
    for s in range(0, S, 4):
        first = (chunk * T + tl.arange(0, T)) * S + s
        a0, a1, a2, a3, w0, w1, w2, w3, there = sites(chain, first, N, T)
        r0, i0 = step(zr, zi, a0, w0, gr, gi)
        r1, i1 = step(zr, zi, a1, w1, r0, i0)
        r2, i2 = step(zr, zi, a2, w2, r1, i1)
        gr, gi = step(zr, zi, a3, w3, r2, i2)
        store4(green_real, first, r0, r1, r2, gr, there, T)
        store4(green_imag, first, i0, i1, i2, gi, there, T)


@triton.jit
def both(zr, zi, a, w, leftr, lefti, after, rightr, righti):
    """gR of a site, and G, from the half lines in front of it and behind."""
    xr, xi = zr - a - after * rightr, zi - after * righti
    gr, gi = reciprocal(xr, xi)
    cr, ci = reciprocal(xr - w * leftr, xi - w * lefti)
    return gr, gi, cr, ci


@triton.jit
def two_sided_kernel(
    onsite,
    weight,
    energy_real,
    energy_imag,
    runs,
    green,
    left_real,
    left_imag,
    right_real,
    right_imag,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    PADDED: tl.constexpr,
    LANES: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    ONSITE: tl.constexpr,
    WEIGHT: tl.constexpr,
    ENERGY: tl.constexpr,
):
    """Program (lane and chunk): gL in front of each site, gR behind it, and G of the whole chain.

    G is written as pairs (real, imaginary).
    """
    lane, chunk, chain = chain_of_lane(
        onsite, weight, energy_real, energy_imag, N, CHUNKS, D1, D2, ONSITE, WEIGHT, ENERGY
    )
    green += lane.to(tl.int64) * 2 * N
    row = lane.to(tl.int64) * N
    left_real, left_imag = left_real + row, left_imag + row
    right_real, right_imag = right_real + row, right_imag + row
    lefts = runs + lane.to(tl.int64) * 8 * CHUNKS
    rights = runs + (lane + LANES).to(tl.int64) * 8 * CHUNKS
    thread = tl.arange(0, T)
    _, weight, zr, zi = chain

    gr, gi = entries(chain, (0.0, 0.0), lefts, chunk, N, S, T, CHUNKS, PADDED, False)
    for s in range(0, S, 4):
        first = (chunk * T + thread) * S + s
        a0, a1, a2, a3, w0, w1, w2, w3, there = sites(chain, first, N, T)
        r1, i1 = step(zr, zi, a0, w0, gr, gi)
        r2, i2 = step(zr, zi, a1, w1, r1, i1)
        r3, i3 = step(zr, zi, a2, w2, r2, i2)
        store4(left_real, first, gr, r1, r2, r3, there, T)
        store4(left_imag, first, gi, i1, i2, i3, there, T)
        gr, gi = step(zr, zi, a3, w3, r3, i3)

    gr, gi = entries(chain, (0.0, 0.0), rights, chunk, N, S, T, CHUNKS, PADDED, True)
    tl.debug_barrier()  # what follows reads what other threads have written above
    base = (chunk * T + T - 1 - thread) * S
    after = tl.load(weight + base + S, mask=base + S < N, other=0.0)
    for s in range(0, S, 4):
        first = base + S - 4 - s
        a0, a1, a2, a3, w0, w1, w2, w3, there = sites(chain, first, N, T)
        l0, l1, l2, l3 = load4(left_real, first, there, T, 0.0)
        m0, m1, m2, m3 = load4(left_imag, first, there, T, 0.0)
        r2, i2, c3, d3 = both(zr, zi, a3, w3, l3, m3, after, gr, gi)
        r1, i1, c2, d2 = both(zr, zi, a2, w2, l2, m2, w3, r2, i2)
        r0, i0, c1, d1 = both(zr, zi, a1, w1, l1, m1, w2, r1, i1)
        store4(right_real, first, r0, r1, r2, gr, there, T)
        store4(right_imag, first, i0, i1, i2, gi, there, T)
        gr, gi, c0, d0 = both(zr, zi, a0, w0, l0, m0, w1, r0, i0)
        place = 2 * first[:, None] + tl.arange(0, 4)[None, :]
        store4(green, 2 * first, c0, d0, c1, d1, place < 2 * N, T)
        store4(green, 2 * first + 4, c2, d2, c3, d3, place + 4 < 2 * N, T)
        after = w0
