"""The transpose of y_i = g_i (x_i + l_i y_{i-1}), for many channels, in one kernel.

With u the cotangent of y, t_i = u_i + l_{i+1} p_{i+1} and p_i = g_i t_i: p, the cotangent of x, is
itself a wave from behind, with sources u. What enters its tiles is found as for those of the waves.
"""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_complex import multiply, row_of
from physnet_kernels.greens._triton_look_back import enter, publish_tile, take
from physnet_kernels.greens._triton_tiles import composites, load, number, read4, store


@triton.jit
def started(start, yr, yi, first, block, D: tl.constexpr, R: tl.constexpr, C: tl.constexpr):
    """y of the site before, which for the first site is the start."""
    sr, si = load(start, tl.zeros((R, 1), tl.int32), first, block, D, R, C, True, "")
    return yr + sr, yi + si


@triton.jit
def site(
    link,
    green,
    sinks,
    i,
    block,
    u,
    y,
    before,
    p,
    N: tl.constexpr,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    COLUMNS: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """p of a site from that of the site behind, and all that `transpose_kernel` writes of it."""
    total, d_source, bonds, onsites = sinks
    inside = i >= 0
    lr, li = number(link, i + 1, inside & (i < N - 1))
    tr, ti = multiply(lr, li, p[0], p[1])
    tr, ti = u[0] + tr, u[1] + ti
    store(total, i, inside, block, tr, ti, D, R, C, True)
    gr, gi = number(green, i, inside)
    pr, pi = multiply(gr, gi, tr, ti)
    store(d_source, i, inside, block, pr, pi, D, R, C, PAIRS)
    to = 2 * (i * COLUMNS + block)
    zr, zi = multiply(y[0], y[1], tr, ti)
    tl.store(onsites + to, tl.sum(zr, 1, keep_dims=True), mask=inside)
    tl.store(onsites + to + 1, tl.sum(zi, 1, keep_dims=True), mask=inside)
    zr, zi = multiply(before[0], before[1], pr, pi)
    tl.store(bonds + to, tl.sum(zr, 1, keep_dims=True), mask=inside)
    tl.store(bonds + to + 1, tl.sum(zi, 1, keep_dims=True), mask=inside)
    return pr, pi


@triton.jit
def transpose_kernel(
    link,
    green,
    cotangent,
    waves,
    start,
    flags,
    products,
    ends,
    total,
    d_source,
    bonds,
    onsites,
    N: tl.constexpr,
    D: tl.constexpr,
    S: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    G: tl.constexpr,
    TILES: tl.constexpr,
    COLUMNS: tl.constexpr,
    CHAINS: tl.constexpr,
    D1: tl.constexpr,
    D2: tl.constexpr,
    LINK: tl.constexpr,
    GREEN: tl.constexpr,
    COTANGENT: tl.constexpr,
    WAVES: tl.constexpr,
    START: tl.constexpr,
    PAIRS: tl.constexpr,
):
    """The next tile's sites, from behind: t; p; and sums over the block of channels.

    Those of y_{i-1} p_i and of y_i t_i, (lanes, n, columns) each.
    """
    tile, chain = take(flags, CHAINS)
    lane, block = chain // COLUMNS, chain % COLUMNS
    where, board = (lane, block, chain, tile), (flags, products, ends)
    link += row_of(lane, D1, D2, LINK).to(tl.int64) * N * 2
    green += row_of(lane, D1, D2, GREEN).to(tl.int64) * N * 2
    cotangent += row_of(lane, D1, D2, COTANGENT).to(tl.int64) * N * D * 2
    waves += row_of(lane, D1, D2, WAVES).to(tl.int64) * N * D * 2
    start += row_of(lane, D1, D2, START).to(tl.int64) * D * 2
    total += lane.to(tl.int64) * N * D * 2
    d_source += lane.to(tl.int64) * N * D * (2 if PAIRS else 1)
    onsites += lane.to(tl.int64) * N * COLUMNS * 2
    bonds += lane.to(tl.int64) * N * COLUMNS * 2
    sinks = total, d_source, bonds, onsites
    base = (tile * R + tl.arange(0, R)[:, None]) * S
    # one site on, so that links are those to the site behind
    runs = composites(
        link + 2, green, cotangent, base, block, N, D, S, R, C, True, True, True, False
    )
    publish_tile(board, where, runs, D, R, C, G, TILES)
    # the first numbers are on their way while others are waited for
    y0, z0 = load(waves, N - 1 - base, base < N, block, D, R, C, True, "evict_first")
    x0, w0, x1, w1, x2, w2, x3, w3 = read4(
        cotangent, base, block, N, D, R, C, True, True, "evict_first"
    )
    y1, z1, y2, z2, y3, z3, y4, z4 = read4(
        waves, base + 1, block, N, D, R, C, True, True, "evict_first"
    )
    p = enter(start, board, where, runs, D, R, C, G, TILES, False)
    for begin in range(0, S, 4):
        s = base + begin
        i = N - 1 - s
        # what the next four steps read is on its way while these run
        ahead = tl.where(begin + 4 < S, s + 4, N)
        e0, f0, e1, f1, e2, f2, e3, f3 = read4(
            cotangent, ahead, block, N, D, R, C, True, True, "evict_first"
        )
        g0, h0, g1, h1, g2, h2, g3, h3 = read4(
            waves, ahead + 1, block, N, D, R, C, True, True, "evict_first"
        )
        a0, a1 = (y0, z0), started(start, y1, z1, i == 0, block, D, R, C)
        a2 = started(start, y2, z2, i == 1, block, D, R, C)
        a3 = started(start, y3, z3, i == 2, block, D, R, C)
        a4 = started(start, y4, z4, i == 3, block, D, R, C)
        p = site(link, green, sinks, i - 0, block, (x0, w0), a0, a1, p, N, D, R, C, COLUMNS, PAIRS)
        p = site(link, green, sinks, i - 1, block, (x1, w1), a1, a2, p, N, D, R, C, COLUMNS, PAIRS)
        p = site(link, green, sinks, i - 2, block, (x2, w2), a2, a3, p, N, D, R, C, COLUMNS, PAIRS)
        p = site(link, green, sinks, i - 3, block, (x3, w3), a3, a4, p, N, D, R, C, COLUMNS, PAIRS)
        y0, z0 = a4
        x0, w0, x1, w1, x2, w2, x3, w3 = e0, f0, e1, f1, e2, f2, e3, f3
        y1, z1, y2, z2, y3, z3, y4, z4 = g0, h0, g1, h1, g2, h2, g3, h3
