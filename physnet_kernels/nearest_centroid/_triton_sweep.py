"""All centroids that the bound does not exclude, for the tokens that queue: device code.

The product that bounds the scores is formed again. A centroid whose score says that it may be
nearer than what was found is compared in the polar form, one of each token at a time. Where the
bound is worth nothing that is every centroid.
"""

import triton
import triton.language as tl

from physnet_kernels.nearest_centroid import _triton_found
from physnet_kernels.nearest_centroid._triton_polar import half_sinh_square


@triton.jit
def sweep_kernel(
    tokens,
    token_length,
    centroids,
    centroid_length,
    short,
    token_tails,
    table,
    table_tails,
    scale_,
    certified,
    queue,
    waiting,
    decided,
    index,
    E: tl.constexpr,
    TILES: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    SHORT: tl.constexpr,
    TAIL: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    GROUP: tl.constexpr,
    TOP: tl.constexpr,
    WIDTH: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """Program i: ROWS of the tokens that queue. `index` (N, TOP) is `decided`, changed in place."""
    count = tl.load(waiting)
    start = tl.program_id(0) * ROWS
    if start < count:
        there = start + tl.arange(0, ROWS) < count
        at = tl.load(queue + start + tl.arange(0, ROWS), there, 0).to(tl.int64)
        scale = tl.load(scale_)
        v = _triton_found.coordinates(tokens, at[:, None], there[:, None], D, WIDE)
        a = tl.load(token_length + at)
        sinh = half_sinh_square(scale * a)
        sound = tl.load(certified + at) != 0
        square, half = sinh * (1 - ROUNDING), 0.5 + sinh

        chosen = _triton_found.nothing(ROWS, WIDTH)
        for place in range(TOP):
            member = tl.load(decided + at * TOP + place)
            near = _triton_found.visit(
                v, a, centroids, centroid_length, scale, member, there, E, D, WIDE, 1
            )
            chosen = _triton_found.inserted(chosen, tl.min(near, 1), TOP)
        allowed = _triton_found.allowed(chosen, TOP)

        wide, narrow, column = tl.arange(0, SHORT), tl.arange(0, TAIL), tl.arange(0, COLUMNS)
        x = tl.load(short + at[:, None] * SHORT + wide[None, :])
        x_tail = tl.load(token_tails + at[:, None] * TAIL + narrow[None, :])
        for tile in range(TILES):
            each = (tile * COLUMNS + column)[None, :]
            score = tl.dot(x, tl.load(table + each * SHORT + wide[:, None]))
            score = tl.dot(x_tail, tl.load(table_tails + each * TAIL + narrow[:, None]), score)
            least = square[:, None] - half[:, None] * score
            least = tl.where(sound[:, None], least, float("-inf"))
            real = there[:, None] & (tile * COLUMNS + _place(column, LANES, GROUP) < E)[None, :]
            near = real & (least < allowed[:, None])
            next = tl.min(tl.where(near, column[None, :], COLUMNS), 1)
            while tl.min(next, 0) < COLUMNS:
                here = next < COLUMNS
                member = tile * COLUMNS + _place(next, LANES, GROUP)
                key = _triton_found.visit(
                    v, a, centroids, centroid_length, scale, member, here, E, D, WIDE, 1
                )
                chosen = _triton_found.inserted(chosen, tl.min(key, 1), TOP)
                allowed = _triton_found.allowed(chosen, TOP)
                near = near & (column[None, :] > next[:, None]) & (least < allowed[:, None])
                next = tl.min(tl.where(near, column[None, :], COLUMNS), 1)
        _triton_found.store(index, at, chosen, there, there, E, TOP)


@triton.jit
def _place(column, LANES: tl.constexpr, GROUP: tl.constexpr):
    """Which centroid of its tile stands in a column of the table."""
    half: tl.constexpr = GROUP // 2
    lane = column // (8 * half) * 4 + column % 8 // 2
    return lane * GROUP + column // 8 % half * 2 + column % 2
