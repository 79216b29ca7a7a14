"""Many channels of y_i = g_i (x_i + l_i y_{i-1}), or from behind, in one kernel.

A tile of R runs of S sites is read twice: once for what it publishes (see `_triton_look_back`),
then, from the cache, for y with what enters it.
"""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_complex import row_of
from physnet_kernels.greens._triton_look_back import enter, publish_tile, take
from physnet_kernels.greens._triton_tiles import composites, read4, step, store


@triton.jit
def waves_kernel(
    link,
    green,
    source,
    start,
    flags,
    products,
    ends,
    out,
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
    SOURCE: tl.constexpr,
    START: tl.constexpr,
    SCALED: tl.constexpr,
    PAIRS: tl.constexpr,
    REVERSE: tl.constexpr,
    STARTED: tl.constexpr,
):
    """y of the next tile's sites; tiles are counted in the order of the recurrence."""
    tile, chain = take(flags, CHAINS)
    lane, block = chain // COLUMNS, chain % COLUMNS
    where, board = (lane, block, chain, tile), (flags, products, ends)
    link += row_of(lane, D1, D2, LINK).to(tl.int64) * N * 2
    green += row_of(lane, D1, D2, GREEN).to(tl.int64) * N * 2
    source += row_of(lane, D1, D2, SOURCE).to(tl.int64) * N * D * (2 if PAIRS else 1)
    start += row_of(lane, D1, D2, START).to(tl.int64) * D * 2
    out += lane.to(tl.int64) * N * D * 2
    base = (tile * R + tl.arange(0, R)[:, None]) * S
    runs = composites(
        link, green, source, base, block, N, D, S, R, C, SCALED, PAIRS, REVERSE, STARTED
    )
    publish_tile(board, where, runs, D, R, C, G, TILES)
    # the next sources are on their way while others are waited for
    x0, z0, x1, z1, x2, z2, x3, z3 = read4(
        source, base, block, N, D, R, C, PAIRS, REVERSE, "evict_first"
    )
    yr, yi = enter(start, board, where, runs, D, R, C, G, TILES, STARTED)
    for begin in range(0, S, 4):
        s = base + begin
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
            "evict_first",
        )
        i, d = (N - 1 - s, -1) if REVERSE else (s, 1)
        _, _, yr, yi = step(link, green, s + 0, x0, z0, yr, yi, N, SCALED, PAIRS, REVERSE, STARTED)
        store(out, i + 0 * d, s + 0 < N, block, yr, yi, D, R, C, True)
        _, _, yr, yi = step(link, green, s + 1, x1, z1, yr, yi, N, SCALED, PAIRS, REVERSE, STARTED)
        store(out, i + 1 * d, s + 1 < N, block, yr, yi, D, R, C, True)
        _, _, yr, yi = step(link, green, s + 2, x2, z2, yr, yi, N, SCALED, PAIRS, REVERSE, STARTED)
        store(out, i + 2 * d, s + 2 < N, block, yr, yi, D, R, C, True)
        _, _, yr, yi = step(link, green, s + 3, x3, z3, yr, yi, N, SCALED, PAIRS, REVERSE, STARTED)
        store(out, i + 3 * d, s + 3 < N, block, yr, yi, D, R, C, True)
        x0, z0, x1, z1, x2, z2, x3, z3 = v0, u0, v1, u1, v2, u2, v3, u3
