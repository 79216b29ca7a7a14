"""Upper bounds on all scores, of which the best groups of centroids stay: device code.

A product of tiles leaves a row of scores in the registers of four threads, each with two of eight
neighbouring columns. Groups are the columns that a thread has of a tile, or of a half or a quarter
of it. A lane is a thread, or its half or quarter, with a list of the best groups so far: of each
group the best score, with the number of the tile in its last bits.
"""

import triton
import triton.language as tl

_LOWEST = tl.constexpr(-3.0e38)


@triton.jit
def propose_kernel(
    tokens,
    token_tails,
    table,
    table_tails,
    best,
    others,
    N: tl.constexpr,
    TILES: tl.constexpr,
    D: tl.constexpr,
    TAIL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    KEPT: tl.constexpr,
    BITS: tl.constexpr,
):
    """Program i: ROWS tokens against all centroids.

    best (N, LANES, KEPT): scores, the last BITS of which are a tile; others (N, LANES), the
    largest of the scores that are not among them.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < N
    wide, narrow = tl.arange(0, D), tl.arange(0, TAIL)
    at = tl.where(there, row, 0).to(tl.int64)
    x = tl.load(tokens + at[:, None] * D + wide[None, :])
    x_tail = tl.load(token_tails + at[:, None] * TAIL + narrow[None, :])
    parts: tl.constexpr = LANES // 4
    lists = tl.full((ROWS, parts, 4), _LOWEST, tl.float32)
    first, second, third, fourth, rest = lists, lists, lists, lists, lists
    column = tl.arange(0, COLUMNS)
    for tile in range(TILES):
        w = tl.load(table + (tile * COLUMNS + column)[None, :] * D + wide[:, None])
        w_tail = tl.load(table_tails + (tile * COLUMNS + column)[None, :] * TAIL + narrow[:, None])
        score = tl.dot(x, w)
        score = tl.dot(x_tail, w_tail, score)
        score = tl.max(tl.reshape(score, (ROWS, parts, COLUMNS // (2 * LANES), 4, 2)), 4)
        bits = tl.max(score, 2).to(tl.int32, bitcast=True)
        score = ((bits & (-1 << BITS)) | tile).to(tl.float32, bitcast=True)
        first, score = tl.maximum(first, score), tl.minimum(first, score)
        if KEPT > 1:
            second, score = tl.maximum(second, score), tl.minimum(second, score)
        if KEPT > 2:
            third, score = tl.maximum(third, score), tl.minimum(third, score)
        if KEPT > 3:
            fourth, score = tl.maximum(fourth, score), tl.minimum(fourth, score)
        rest = tl.maximum(rest, score)
    part, four = tl.arange(0, parts)[None, :, None], tl.arange(0, 4)[None, None, :]
    lane = at[:, None, None] * LANES + part * 4 + four
    mask = there[:, None, None]
    tl.store(best + lane * KEPT, first, mask)
    if KEPT > 1:
        tl.store(best + lane * KEPT + 1, second, mask)
    if KEPT > 2:
        tl.store(best + lane * KEPT + 2, third, mask)
    if KEPT > 3:
        tl.store(best + lane * KEPT + 3, fourth, mask)
    tl.store(others + lane, rest, mask)
