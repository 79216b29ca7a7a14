"""What enters a tile, from the tiles of its chain in front of it, in the same kernel: device code.

A chain is a lane and a block of channels, and its tiles come in groups of G. A tile is known by the
product of its factors and by y at its end with zero in front. It publishes those without waiting,
and then reads what the tiles of its group in front of it have published. The last tile of a group
publishes instead, once it knows what enters it, the true y at its end, which the next group begins
with. So a chain of T tiles has T / G waits that follow one another, and each is for sums of a fixed
order: no bit depends on the time when a tile comes.

There is no deadlock, in whatever order the device starts programs and however few run at once: a
program takes its tile from a counter, first those of all chains that come first, so that it waits
for programs alone that run already, and of those the first waits for none.

What is published lies behind flags, zero at the start: all threads write, a barrier, and one thread
raises the flag (release); readers poll flags, acquire them, and pass by the first-level cache.
"""

import triton
import triton.language as tl

from physnet_kernels.greens._triton_complex import multiply

COUNTERS = tl.constexpr(32)  # the counter of tiles has a line of its own in front of the flags


@triton.jit
def take(flags, CHAINS: tl.constexpr):
    """The next tile, and its chain."""
    ticket = tl.atomic_add(flags, 1, sem="relaxed", scope="gpu")
    return ticket // CHAINS, ticket % CHAINS


@triton.jit
def last_row(x, R: tl.constexpr):
    return tl.sum(tl.where((tl.arange(0, R) == R - 1)[:, None], x, 0.0), 0)


@triton.jit
def publish(board, where, yr, yi, D: tl.constexpr, C: tl.constexpr, TILES: tl.constexpr):
    """y (C,), after which others may read it and all that was written before."""
    flags, _, ends = board
    lane, block, chain, tile = where
    place = block * 2 * C + tl.arange(0, 2 * C)
    row = lane.to(tl.int64) * TILES + tile
    y = tl.reshape(tl.join(yr, yi), (2 * C,))
    tl.store(ends + row * (2 * D) + place, y, mask=place < 2 * D)
    tl.debug_barrier()
    tl.atomic_xchg(flags + COUNTERS + chain * TILES + tile, 1, sem="release", scope="gpu")


@triton.jit
def publish_tile(
    board,
    where,
    runs,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    G: tl.constexpr,
    TILES: tl.constexpr,
):
    """Product and end of a tile of these composites, unless it is the last of its group."""
    _, products, _ = board
    _, _, chain, tile = where
    ar, ai, br, bi = runs
    if tile % G != G - 1:
        product = products + 2 * (chain * TILES + tile) + tl.zeros((C,), tl.int32)
        tl.store(product, last_row(ar, R))
        tl.store(product + 1, last_row(ai, R))
        publish(board, where, last_row(br, R), last_row(bi, R), D, C, TILES)


@triton.jit
def wait(flag, need):
    """Until the flags that are needed are raised; those then, others as ones."""
    seen = tl.load(flag, mask=need, other=1, volatile=True)
    while tl.min(seen, 0) == 0:
        seen = tl.load(flag, mask=need, other=1, volatile=True)
    # those loads say nothing of the order of other loads; this one does
    seen = tl.atomic_add(flag, tl.zeros_like(seen), mask=need, sem="acquire", scope="gpu")
    tl.debug_barrier()
    return seen


@triton.jit
def look_back(
    start,
    board,
    where,
    D: tl.constexpr,
    C: tl.constexpr,
    G: tl.constexpr,
    TILES: tl.constexpr,
    STARTED: tl.constexpr,
):
    """y (C,) in front of a tile.

    Slot j of a group is what enters its tile j: at j = 0 all that came before the group, else what
    tile j - 1 ends in from zero.
    """
    flags, products, ends = board
    lane, block, chain, tile = where
    slot = tl.arange(0, G)
    first = tile // G * G
    before = first + slot - 1
    need = (before >= 0) & (before < tile)
    seen = wait(flags + COUNTERS + chain * TILES + before, need)
    place = block * 2 * C + tl.arange(0, 2 * C)
    exists = place < 2 * D
    rows = lane.to(tl.int64) * TILES + before
    e = tl.load(
        ends + rows[:, None] * (2 * D) + place[None, :],
        mask=(need & (seen > 0))[:, None] & exists[None, :],
        other=0.0,
        cache_modifier=".cg",
    )
    if STARTED:
        e0 = tl.load(start + place, mask=exists & (first == 0), other=0.0)
        e = tl.where((slot == 0)[:, None] & (first == 0), e0[None, :], e)
    er, ei = tl.split(tl.reshape(e, (G, C, 2)))
    product = products + 2 * (chain * TILES + first + slot)
    there = first + slot < tile
    pr = tl.load(product, mask=there, other=1.0, cache_modifier=".cg")
    pi = tl.load(product + 1, mask=there, other=0.0, cache_modifier=".cg")
    pr, pi = tl.associative_scan((pr, pi), 0, multiply, reverse=True)
    er, ei = multiply(pr[:, None], pi[:, None], er, ei)
    return tl.sum(er, 0), tl.sum(ei, 0)


@triton.jit
def enter(
    start,
    board,
    where,
    runs,
    D: tl.constexpr,
    R: tl.constexpr,
    C: tl.constexpr,
    G: tl.constexpr,
    TILES: tl.constexpr,
    STARTED: tl.constexpr,
):
    """y (R, C) in front of each run of a tile; a group's last tile publishes its end."""
    ar, ai, br, bi = runs
    yr, yi = look_back(start, board, where, D, C, G, TILES, STARTED)
    zr, zi = multiply(ar, ai, yr[None, :], yi[None, :])
    zr, zi = zr + br, zi + bi
    if where[3] % G == G - 1:
        publish(board, where, last_row(zr, R), last_row(zi, R), D, C, TILES)
    row = tl.arange(0, R)[:, None] + tl.zeros((R, C), tl.int32)
    behind = tl.maximum(row - 1, 0)
    zr, zi = tl.gather(zr, behind, 0), tl.gather(zi, behind, 0)
    return tl.where(row == 0, yr[None, :], zr), tl.where(row == 0, yi[None, :], zi)
