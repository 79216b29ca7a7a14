"""The continued fraction g_i = 1 / (z - a_i - w_i g_{i-1}) by runs of sites: device code.

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

from physnet_kernels.greens._triton_chunks import columns_in_front, load_rows4, store_last
from physnet_kernels.greens._triton_complex import last, load4, multiply, reciprocal, row_of

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
def chain_of_lane(
    onsite,
    weight,
    energy_real,
    energy_imag,
    N: tl.constexpr,
    CHUNKS: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    ONSITE: tl.constexpr,
    WEIGHT: tl.constexpr,
    ENERGY: tl.constexpr,
):
    """The program's lane and chunk, and its chain: pointers to the sites' numbers, and z."""
    lane = tl.program_id(0) // CHUNKS
    chunk = tl.program_id(0) % CHUNKS
    onsite += row_of(lane, D1, D2, ONSITE).to(tl.int64) * N
    weight += row_of(lane, D1, D2, WEIGHT).to(tl.int64) * N
    zr = tl.load(energy_real + row_of(lane, D1, D2, ENERGY))
    zi = tl.load(energy_imag + row_of(lane, D1, D2, ENERGY))
    return lane, chunk, (onsite, weight, zr, zi)


@triton.jit
def sites(chain, first, N: tl.constexpr, T: tl.constexpr):
    """On-site energies of four sites from `first` on, the weights in front of them, and which
    of them there are."""
    onsite, weight, _, _ = chain
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
    chain, base, N: tl.constexpr, S: tl.constexpr, T: tl.constexpr, REVERSE: tl.constexpr
):
    """The run of the S sites from `base` on, or from behind."""
    _, weight, zr, zi = chain
    if REVERSE:
        next_w = base + S
        next_w = tl.load(weight + next_w, mask=(next_w >= 0) & (next_w < N), other=0.0)
        a3, a2, a1, a0, after, w3, w2, w1, _ = sites(chain, base + S - 4, N, T)
        w0 = next_w
    else:
        a0, a1, a2, a3, w0, w1, w2, w3, _ = sites(chain, base, N, T)
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
            a3, a2, a1, a0, after, w3, w2, w1, _ = sites(chain, base + S - 4 - s, N, T)
            w0 = next_w
        else:
            a0, a1, a2, a3, w0, w1, w2, w3, _ = sites(chain, base + s, N, T)
        gr, gi, fr, fi, tr, ti = grow(zr, zi, a0, w0, gr, gi, fr, fi, tr, ti)
        gr, gi, fr, fi, tr, ti = grow(zr, zi, a1, w1, gr, gi, fr, fi, tr, ti)
        gr, gi, fr, fi, tr, ti = grow(zr, zi, a2, w2, gr, gi, fr, fi, tr, ti)
        gr, gi, fr, fi, tr, ti = grow(zr, zi, a3, w3, gr, gi, fr, fi, tr, ti)
    return gr, gi, fr, fi, tr, ti, first_w, k


@triton.jit
def runs_in_front(
    chain, start, chunk, N: tl.constexpr, S: tl.constexpr, T: tl.constexpr, REVERSE: tl.constexpr
):
    """For each thread the run of all sites of the chunk in front of its own, (T,) each.

    A chunk's runs are those of the threads shifted by one: they begin with the last run of the
    chunk in front and leave out the last of its own. In front of the first one is the start.
    """
    thread = tl.arange(0, T)
    before = chunk * T + T - thread if REVERSE else chunk * T + thread - 1
    gr, gi, fr, fi, tr, ti, w, k = run_of_sites(chain, before * S, N, S, T, REVERSE)
    if not REVERSE:
        first = before < 0
        gr, gi = tl.where(first, start[0], gr), tl.where(first, start[1], gi)
        fr, fi = tl.where(first, 0.0, fr), tl.where(first, 0.0, fi)
        tr, ti = tl.where(first, 0.0, tr), tl.where(first, 0.0, ti)
        w, k = tl.where(first, 0.0, w), tl.where(first, 0.0, k)
    return tl.associative_scan((gr, gi, fr, fi, tr, ti, w, k), 0, join)


@triton.jit
def store_chunk(
    chain,
    start,
    runs,
    chunk,
    N: tl.constexpr,
    S: tl.constexpr,
    T: tl.constexpr,
    CHUNKS: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """The whole chunk as one run, into column `chunk` of runs (8, CHUNKS)."""
    gr, gi, fr, fi, tr, ti, w, k = runs_in_front(chain, start, chunk, N, S, T, REVERSE)
    store_last(runs, chunk, gr, gi, fr, fi, T, CHUNKS)
    store_last(runs + 4 * CHUNKS, chunk, tr, ti, w, k, T, CHUNKS)


@triton.jit
def entries(
    chain,
    start,
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
    gr, gi, fr, fi, tr, ti, w, k = runs_in_front(chain, start, chunk, N, S, T, REVERSE)
    if CHUNKS > 1:
        at, there = columns_in_front(runs, chunk, CHUNKS, PADDED, REVERSE)
        c0, c1, c2, c3 = load_rows4(at, there, CHUNKS)
        c4, c5, c6, c7 = load_rows4(at + 4 * CHUNKS, there, CHUNKS)
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
    wrong = tl.where(chain[3] < 0, gi < 0, gi > 0)
    return gr, tl.where(wrong, 0.0, gi)
