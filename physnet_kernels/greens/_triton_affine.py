"""The linear recurrence y_i = A_i y_{i-1} + s_i of complex numbers in chunks: device code.

Runs of sites are known by the product of their factors and by y at their end with zero in front;
the cutting into runs and chunks is that of the continued fraction.
"""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_chunks import columns_in_front, load_rows4, store_last
from physnet_kernels.greens._triton_complex import last, load4, multiply, row_of, store4


@triton.jit
def join(a1r, a1i, y1r, y1i, a2r, a2i, y2r, y2i):
    """Run 1 in front of run 2."""
    ar, ai = multiply(a2r, a2i, a1r, a1i)
    yr, yi = multiply(a2r, a2i, y1r, y1i)
    return ar, ai, y2r + yr, y2i + yi


@triton.jit
def rows_of_lane(
    N: tl.constexpr,
    CHUNKS: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    FACTOR: tl.constexpr,
    SOURCE: tl.constexpr,
):
    """The program's lane and chunk, and where the lane's factors and sources begin."""
    lane = tl.program_id(0) // CHUNKS
    chunk = tl.program_id(0) % CHUNKS
    f = row_of(lane, D1, D2, FACTOR).to(tl.int64) * N
    s = row_of(lane, D1, D2, SOURCE).to(tl.int64) * N
    return lane, chunk, f, s


@triton.jit
def sites(system, first, N: tl.constexpr, T: tl.constexpr, START: tl.constexpr):
    """Factors and sources of four sites from `first` on, and which of them there are.

    The factor of site START is not used.
    """
    fr, fi, sr, si = system
    place = first[:, None] + tl.arange(0, 4)[None, :]
    there = (place >= 0) & (place < N)
    bound = there & (place != START)
    a0, a1, a2, a3 = load4(fr, first, bound, T, 0.0)
    b0, b1, b2, b3 = load4(fi, first, bound, T, 0.0)
    s0, s1, s2, s3 = load4(sr, first, there, T, 0.0)
    t0, t1, t2, t3 = load4(si, first, there, T, 0.0)
    return a0, b0, s0, t0, a1, b1, s1, t1, a2, b2, s2, t2, a3, b3, s3, t3, there


@triton.jit
def step(ar, ai, sr, si, yr, yi):
    yr, yi = multiply(ar, ai, yr, yi)
    return yr + sr, yi + si


@triton.jit
def runs_in_front(
    system, chunk, N: tl.constexpr, S: tl.constexpr, T: tl.constexpr, REVERSE: tl.constexpr
):
    """For each thread the run of all sites of the chunk in front of its own, (T,) each."""
    START: tl.constexpr = N - 1 if REVERSE else 0
    thread = tl.arange(0, T)
    base = (chunk * T + T - thread if REVERSE else chunk * T + thread - 1) * S
    yr, yi = tl.zeros((T,), tl.float32), tl.zeros((T,), tl.float32)
    pr, pi = tl.full((T,), 1.0, tl.float32), tl.zeros((T,), tl.float32)
    for s in range(0, S, 4):
        first = base + S - 4 - s if REVERSE else base + s
        a0, b0, s0, t0, a1, b1, s1, t1, a2, b2, s2, t2, a3, b3, s3, t3, _ = sites(
            system, first, N, T, START
        )
        if REVERSE:
            a0, b0, s0, t0, a3, b3, s3, t3 = a3, b3, s3, t3, a0, b0, s0, t0
            a1, b1, s1, t1, a2, b2, s2, t2 = a2, b2, s2, t2, a1, b1, s1, t1
        yr, yi = step(a0, b0, s0, t0, yr, yi)
        yr, yi = step(a1, b1, s1, t1, yr, yi)
        yr, yi = step(a2, b2, s2, t2, yr, yi)
        yr, yi = step(a3, b3, s3, t3, yr, yi)
        a0, b0 = multiply(a0, b0, a1, b1)
        a2, b2 = multiply(a2, b2, a3, b3)
        a0, b0 = multiply(a0, b0, a2, b2)
        pr, pi = multiply(a0, b0, pr, pi)
    return tl.associative_scan((pr, pi, yr, yi), 0, join)


@triton.jit
def store_chunk(
    system,
    runs,
    chunk,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """The whole chunk as one run, into column `chunk` of runs (4, CHUNKS)."""
    pr, pi, yr, yi = runs_in_front(system, chunk, N, S, T, REVERSE)
    store_last(runs, chunk, pr, pi, yr, yi, T, CHUNKS)


@triton.jit
def solve_chunk(
    system,
    runs,
    outr,
    outi,
    chunk,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    PADDED: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """y of the chunk's sites."""
    START: tl.constexpr = N - 1 if REVERSE else 0
    pr, pi, yr, yi = runs_in_front(system, chunk, N, S, T, REVERSE)
    if CHUNKS > 1:
        at, there = columns_in_front(runs, chunk, CHUNKS, PADDED, REVERSE)
        c0, c1, c2, c3 = load_rows4(at, there, CHUNKS)
        c0, c1, c2, c3 = tl.associative_scan((c0, c1, c2, c3), 0, join)
        br, bi = multiply(pr, pi, last(c2, PADDED), last(c3, PADDED))
        yr, yi = yr + br, yi + bi
    thread = tl.arange(0, T)
    base = (chunk * T + T - 1 - thread if REVERSE else chunk * T + thread) * S
    for s in range(0, S, 4):
        first = base + S - 4 - s if REVERSE else base + s
        a0, b0, s0, t0, a1, b1, s1, t1, a2, b2, s2, t2, a3, b3, s3, t3, mask = sites(
            system, first, N, T, START
        )
        if REVERSE:
            r3, i3 = step(a3, b3, s3, t3, yr, yi)
            r2, i2 = step(a2, b2, s2, t2, r3, i3)
            r1, i1 = step(a1, b1, s1, t1, r2, i2)
            r0, i0 = step(a0, b0, s0, t0, r1, i1)
            yr, yi = r0, i0
        else:
            r0, i0 = step(a0, b0, s0, t0, yr, yi)
            r1, i1 = step(a1, b1, s1, t1, r0, i0)
            r2, i2 = step(a2, b2, s2, t2, r1, i1)
            r3, i3 = step(a3, b3, s3, t3, r2, i2)
            yr, yi = r3, i3
        store4(outr, first, r0, r1, r2, r3, mask, T)
        store4(outi, first, i0, i1, i2, i3, mask, T)


@triton.jit
def reduce_kernel(
    fr,
    fi,
    sr,
    si,
    runs,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    FACTOR: tl.constexpr,
    SOURCE: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Program (lane and chunk): the chunk's run, into runs (lanes, 4, chunks)."""
    lane, chunk, f, s = rows_of_lane(N, CHUNKS, D1, D2, FACTOR, SOURCE)
    runs += lane.to(tl.int64) * 4 * CHUNKS
    system = fr + f, fi + f, sr + s, si + s
    store_chunk(system, runs, chunk, N, S, T, CHUNKS, REVERSE)


@triton.jit
def solve_kernel(
    fr,
    fi,
    sr,
    si,
    runs,
    yr,
    yi,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    PADDED: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    FACTOR: tl.constexpr,
    SOURCE: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """Program (lane and chunk): y of the chunk's sites."""
    lane, chunk, f, s = rows_of_lane(N, CHUNKS, D1, D2, FACTOR, SOURCE)
    y = lane.to(tl.int64) * N
    runs += lane.to(tl.int64) * 4 * CHUNKS
    system = fr + f, fi + f, sr + s, si + s
    solve_chunk(system, runs, yr + y, yi + y, chunk, N, S, T, CHUNKS, PADDED, REVERSE)


@triton.jit
def reduce_pair_kernel(
    f0r,
    f0i,
    s0r,
    s0i,
    f1r,
    f1i,
    s1r,
    s1i,
    runs,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    LANES: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    FACTOR: tl.constexpr,
    SOURCE: tl.constexpr,
    REVERSE0: tl.constexpr,
    REVERSE1: tl.constexpr,
):
    """Program (lane and chunk, system): the chunk's run, into runs (2, lanes, 4, chunks)."""
    lane, chunk, f, s = rows_of_lane(N, CHUNKS, D1, D2, FACTOR, SOURCE)
    if tl.program_id(1) == 0:
        runs += lane.to(tl.int64) * 4 * CHUNKS
        system = f0r + f, f0i + f, s0r + s, s0i + s
        store_chunk(system, runs, chunk, N, S, T, CHUNKS, REVERSE0)
    else:
        runs += (lane + LANES).to(tl.int64) * 4 * CHUNKS
        system = f1r + f, f1i + f, s1r + s, s1i + s
        store_chunk(system, runs, chunk, N, S, T, CHUNKS, REVERSE1)


@triton.jit
def solve_pair_kernel(
    f0r,
    f0i,
    s0r,
    s0i,
    f1r,
    f1i,
    s1r,
    s1i,
    runs,
    y0r,
    y0i,
    y1r,
    y1i,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    PADDED: tl.constexpr,
    LANES: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    FACTOR: tl.constexpr,
    SOURCE: tl.constexpr,
    REVERSE0: tl.constexpr,
    REVERSE1: tl.constexpr,
):
    """Program (lane and chunk, system): y of the chunk's sites."""
    lane, chunk, f, s = rows_of_lane(N, CHUNKS, D1, D2, FACTOR, SOURCE)
    y = lane.to(tl.int64) * N
    if tl.program_id(1) == 0:
        runs += lane.to(tl.int64) * 4 * CHUNKS
        system = f0r + f, f0i + f, s0r + s, s0i + s
        solve_chunk(system, runs, y0r + y, y0i + y, chunk, N, S, T, CHUNKS, PADDED, REVERSE0)
    else:
        runs += (lane + LANES).to(tl.int64) * 4 * CHUNKS
        system = f1r + f, f1i + f, s1r + s, s1i + s
        solve_chunk(system, runs, y1r + y, y1i + y, chunk, N, S, T, CHUNKS, PADDED, REVERSE1)
