"""The continued fraction g_i = 1 / (z - a_i - w_i g_{i-1}) in chunks: device code.

A run of sites with an absorbing lead of self-energy -ik, k = sqrt(w), in front of its first site
is known by its end's Green's function g, its first site's f and t = G_{end,first} G_{first,end}.
What really lies in front differs from the lead by d = w g_before + ik, and Dyson's equation puts
it in its place:

    g + t d E,   E = 1 / (1 - f d).

Two runs join the same way: f_1 + w t_1 f_2 E and w t_1 t_2 E^2 are those of the joint run. All
numbers stay tame however sharp the levels of the closed runs are. A run whose t, f, w and k are 0
is one that nothing in front of it can change: it carries the initial state.

Each thread takes S sites one after the other; the threads' runs join in a tree, and so do those
of the programs. With the Green's function in front of its sites known, a thread goes through them
once more. There its errors die out as those of the recursion itself do.
"""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_complex import (
    last,
    load4,
    multiply,
    reciprocal,
    row_of,
    store4,
)

_FAR = tl.constexpr(1e30)  # on-site energy of what lies beyond the chain


@triton.jit
def join(g1r, g1i, f1r, f1i, t1r, t1i, w1, k1, g2r, g2i, f2r, f2i, t2r, t2i, w2, k2):
    """Run 1 in front of run 2."""
    dr, di = w2 * g1r, w2 * g1i + k2
    er, ei = multiply(f2r, f2i, dr, di)
    er, ei = reciprocal(1.0 - er, -ei)
    t1r, t1i = multiply(w2 * t1r, w2 * t1i, er, ei)
    dr, di = multiply(dr, di, er, ei)
    gr, gi = multiply(t2r, t2i, dr, di)
    fr, fi = multiply(t1r, t1i, f2r, f2i)
    er, ei = multiply(t2r, t2i, er, ei)
    tr, ti = multiply(t1r, t1i, er, ei)
    return g2r + gr, g2i + gi, f1r + fr, f1i + fi, tr, ti, w1, k1


@triton.jit
def sites(onsite, weight, first, N: tl.constexpr, T: tl.constexpr):
    """On-site energies of four sites from `first` on, the weights in front of them, and which
    of them there are."""
    place = first[:, None] + tl.arange(0, 4)[None, :]
    there = (place >= 0) & (place < N)
    a0, a1, a2, a3 = load4(onsite, first, there, T, _FAR)
    w0, w1, w2, w3 = load4(weight, first, there, T, 0.0)
    return a0, a1, a2, a3, w0, w1, w2, w3, there


@triton.jit
def step(zr, zi, a, w, gr, gi):
    return reciprocal(zr - a - w * gr, zi - w * gi)


@triton.jit
def grow(zr, zi, a, w, gr, gi, fr, fi, tr, ti):
    """A run with one more site behind it."""
    gr, gi = step(zr, zi, a, w, gr, gi)
    pr, pi = multiply(tr, ti, w * gr, w * gi)
    tr, ti = multiply(pr, pi, gr, gi)
    return gr, gi, fr + pr, fi + pi, tr, ti


@triton.jit
def run_of_sites(
    onsite,
    weight,
    zr,
    zi,
    base,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """The run of the S sites from `base` on, or from behind."""
    if REVERSE:
        next_w = base + S
        next_w = tl.load(weight + next_w, mask=(next_w >= 0) & (next_w < N), other=0.0)
        a3, a2, a1, a0, after, w3, w2, w1, _ = sites(onsite, weight, base + S - 4, N, T)
        w0 = next_w
    else:
        a0, a1, a2, a3, w0, w1, w2, w3, _ = sites(onsite, weight, base, N, T)
        after = w0
    first_w = w0
    k = tl.sqrt(w0)
    k = tl.where(zi < 0, -k, k)
    gr, gi = reciprocal(zr - a0, zi + k)
    fr, fi = gr, gi
    tr, ti = multiply(gr, gi, gr, gi)
    gr, gi, fr, fi, tr, ti = grow(zr, zi, a1, w1, gr, gi, fr, fi, tr, ti)
    gr, gi, fr, fi, tr, ti = grow(zr, zi, a2, w2, gr, gi, fr, fi, tr, ti)
    gr, gi, fr, fi, tr, ti = grow(zr, zi, a3, w3, gr, gi, fr, fi, tr, ti)
    for s in range(4, S, 4):
        if REVERSE:
            next_w = after
            a3, a2, a1, a0, after, w3, w2, w1, _ = sites(onsite, weight, base + S - 4 - s, N, T)
            w0 = next_w
        else:
            a0, a1, a2, a3, w0, w1, w2, w3, _ = sites(onsite, weight, base + s, N, T)
        gr, gi, fr, fi, tr, ti = grow(zr, zi, a0, w0, gr, gi, fr, fi, tr, ti)
        gr, gi, fr, fi, tr, ti = grow(zr, zi, a1, w1, gr, gi, fr, fi, tr, ti)
        gr, gi, fr, fi, tr, ti = grow(zr, zi, a2, w2, gr, gi, fr, fi, tr, ti)
        gr, gi, fr, fi, tr, ti = grow(zr, zi, a3, w3, gr, gi, fr, fi, tr, ti)
    return gr, gi, fr, fi, tr, ti, first_w, k


@triton.jit
def runs_in_front(
    onsite,
    weight,
    zr,
    zi,
    startr,
    starti,
    chunk,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """For each thread the run of all sites of the chunk in front of its own, (T,) each.

    A chunk's runs are those of the threads shifted by one: they begin with the last run of the
    chunk in front and leave out the last of its own. In front of the first one is the start.
    """
    thread = tl.arange(0, T)
    before = chunk * T + T - thread if REVERSE else chunk * T + thread - 1
    gr, gi, fr, fi, tr, ti, w, k = run_of_sites(
        onsite, weight, zr, zi, before * S, N, S, T, REVERSE
    )
    if not REVERSE:
        start = before < 0
        gr, gi = tl.where(start, startr, gr), tl.where(start, starti, gi)
        fr, fi = tl.where(start, 0.0, fr), tl.where(start, 0.0, fi)
        tr, ti = tl.where(start, 0.0, tr), tl.where(start, 0.0, ti)
        w, k = tl.where(start, 0.0, w), tl.where(start, 0.0, k)
    return tl.associative_scan((gr, gi, fr, fi, tr, ti, w, k), 0, join)


@triton.jit
def store_chunk(
    onsite,
    weight,
    zr,
    zi,
    startr,
    starti,
    runs,
    chunk,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """The whole chunk as one run, into column `chunk` of runs (8, CHUNKS)."""
    gr, gi, fr, fi, tr, ti, w, k = runs_in_front(
        onsite, weight, zr, zi, startr, starti, chunk, N, S, T, REVERSE
    )
    end = tl.arange(0, T) == T - 1
    at = runs + chunk + tl.zeros((T,), tl.int32)
    tl.store(at, gr, mask=end)
    tl.store(at + CHUNKS, gi, mask=end)
    tl.store(at + 2 * CHUNKS, fr, mask=end)
    tl.store(at + 3 * CHUNKS, fi, mask=end)
    tl.store(at + 4 * CHUNKS, tr, mask=end)
    tl.store(at + 5 * CHUNKS, ti, mask=end)
    tl.store(at + 6 * CHUNKS, w, mask=end)
    tl.store(at + 7 * CHUNKS, k, mask=end)


@triton.jit
def entries(
    onsite,
    weight,
    zr,
    zi,
    startr,
    starti,
    runs,
    chunk,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    PADDED: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """The Green's function in front of each thread's sites, (T,)."""
    gr, gi, fr, fi, tr, ti, w, k = runs_in_front(
        onsite, weight, zr, zi, startr, starti, chunk, N, S, T, REVERSE
    )
    if CHUNKS > 1:
        place = tl.arange(0, PADDED)
        if REVERSE:
            other = chunk + PADDED - place
            there = other < CHUNKS
        else:
            other = chunk - PADDED + place
            there = other >= 0
        at = runs + other
        c0 = tl.load(at, mask=there, other=0.0)
        c1 = tl.load(at + CHUNKS, mask=there, other=0.0)
        c2 = tl.load(at + 2 * CHUNKS, mask=there, other=0.0)
        c3 = tl.load(at + 3 * CHUNKS, mask=there, other=0.0)
        c4 = tl.load(at + 4 * CHUNKS, mask=there, other=0.0)
        c5 = tl.load(at + 5 * CHUNKS, mask=there, other=0.0)
        c6 = tl.load(at + 6 * CHUNKS, mask=there, other=0.0)
        c7 = tl.load(at + 7 * CHUNKS, mask=there, other=0.0)
        c0, c1, c2, c3, c4, c5, c6, c7 = tl.associative_scan(
            (c0, c1, c2, c3, c4, c5, c6, c7), 0, join
        )
        br, bi = last(c0, PADDED), last(c1, PADDED)
        dr, di = w * br, w * bi + k
        er, ei = multiply(fr, fi, dr, di)
        er, ei = reciprocal(1.0 - er, -ei)
        dr, di = multiply(dr, di, er, ei)
        dr, di = multiply(tr, ti, dr, di)
        gr, gi = gr + dr, gi + di
    # Rounding may put Im g on the wrong side of the axis, where no later site would bring it back.
    wrong = tl.where(zi < 0, gi < 0, gi > 0)
    return gr, tl.where(wrong, 0.0, gi)


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
    lane = tl.program_id(0) // CHUNKS
    chunk = tl.program_id(0) % CHUNKS
    onsite += row_of(lane, D1, D2, ONSITE).to(tl.int64) * N
    weight += row_of(lane, D1, D2, WEIGHT).to(tl.int64) * N
    zr = tl.load(energy_real + row_of(lane, D1, D2, ENERGY))
    zi = tl.load(energy_imag + row_of(lane, D1, D2, ENERGY))
    if tl.program_id(1) == 0:
        startr = tl.load(start_real + row_of(lane, D1, D2, START))
        starti = tl.load(start_imag + row_of(lane, D1, D2, START))
        runs += lane.to(tl.int64) * 8 * CHUNKS
        store_chunk(onsite, weight, zr, zi, startr, starti, runs, chunk, N, S, T, CHUNKS, False)
    else:
        runs += (lane + LANES).to(tl.int64) * 8 * CHUNKS
        store_chunk(onsite, weight, zr, zi, 0.0, 0.0, runs, chunk, N, S, T, CHUNKS, True)


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
    lane = tl.program_id(0) // CHUNKS
    chunk = tl.program_id(0) % CHUNKS
    onsite += row_of(lane, D1, D2, ONSITE).to(tl.int64) * N
    weight += row_of(lane, D1, D2, WEIGHT).to(tl.int64) * N
    zr = tl.load(energy_real + row_of(lane, D1, D2, ENERGY))
    zi = tl.load(energy_imag + row_of(lane, D1, D2, ENERGY))
    startr = tl.load(start_real + row_of(lane, D1, D2, START))
    starti = tl.load(start_imag + row_of(lane, D1, D2, START))
    runs += lane.to(tl.int64) * 8 * CHUNKS
    green_real += lane.to(tl.int64) * N
    green_imag += lane.to(tl.int64) * N
    gr, gi = entries(
        onsite, weight, zr, zi, startr, starti, runs, chunk, N, S, T, CHUNKS, PADDED, False
    )
    for s in range(0, S, 4):
        first = (chunk * T + tl.arange(0, T)) * S + s
        a0, a1, a2, a3, w0, w1, w2, w3, there = sites(onsite, weight, first, N, T)
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
    lane = tl.program_id(0) // CHUNKS
    chunk = tl.program_id(0) % CHUNKS
    onsite += row_of(lane, D1, D2, ONSITE).to(tl.int64) * N
    weight += row_of(lane, D1, D2, WEIGHT).to(tl.int64) * N
    zr = tl.load(energy_real + row_of(lane, D1, D2, ENERGY))
    zi = tl.load(energy_imag + row_of(lane, D1, D2, ENERGY))
    green += lane.to(tl.int64) * 2 * N
    left_real += lane.to(tl.int64) * N
    left_imag += lane.to(tl.int64) * N
    right_real += lane.to(tl.int64) * N
    right_imag += lane.to(tl.int64) * N
    lefts = runs + lane.to(tl.int64) * 8 * CHUNKS
    rights = runs + (lane + LANES).to(tl.int64) * 8 * CHUNKS
    thread = tl.arange(0, T)

    gr, gi = entries(onsite, weight, zr, zi, 0.0, 0.0, lefts, chunk, N, S, T, CHUNKS, PADDED, False)
    for s in range(0, S, 4):
        first = (chunk * T + thread) * S + s
        a0, a1, a2, a3, w0, w1, w2, w3, there = sites(onsite, weight, first, N, T)
        r1, i1 = step(zr, zi, a0, w0, gr, gi)
        r2, i2 = step(zr, zi, a1, w1, r1, i1)
        r3, i3 = step(zr, zi, a2, w2, r2, i2)
        store4(left_real, first, gr, r1, r2, r3, there, T)
        store4(left_imag, first, gi, i1, i2, i3, there, T)
        gr, gi = step(zr, zi, a3, w3, r3, i3)

    gr, gi = entries(onsite, weight, zr, zi, 0.0, 0.0, rights, chunk, N, S, T, CHUNKS, PADDED, True)
    tl.debug_barrier()  # what follows reads what other threads have written above
    base = (chunk * T + T - 1 - thread) * S
    after = tl.load(weight + base + S, mask=base + S < N, other=0.0)
    for s in range(0, S, 4):
        first = base + S - 4 - s
        a0, a1, a2, a3, w0, w1, w2, w3, there = sites(onsite, weight, first, N, T)
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
