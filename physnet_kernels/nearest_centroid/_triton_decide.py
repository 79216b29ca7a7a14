"""The nearest centroids among the groups that may hold them: device code.

A bound on the scores of a group bounds its distances from below. Groups are visited in the order of
their bounds, until none that is left can be nearer than what was found. Tokens that their lists do
not settle queue for the sweep.
"""

import triton
import triton.language as tl

from physnet_kernels.nearest_centroid import _triton_found
from physnet_kernels.nearest_centroid._triton_polar import half_sinh_square

_NEVER = tl.constexpr(-1e29)  # scores below are of what fills the last tile, or of nothing


@triton.jit
def decide_kernel(
    tokens,
    token_length,
    centroids,
    centroid_length,
    best,
    others,
    scale_,
    finite,
    index,
    certified,
    queue,
    waiting,
    N: tl.constexpr,
    E: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    GROUP: tl.constexpr,
    KEPT: tl.constexpr,
    BITS: tl.constexpr,
    TOP: tl.constexpr,
    WIDTH: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """Program i: the TOP nearest centroids (N, TOP) of ROWS tokens, and whether they are proven."""
    entries: tl.constexpr = LANES * KEPT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < N
    at = tl.where(there, row, 0).to(tl.int64)
    scale = tl.load(scale_)
    v = _triton_found.coordinates(tokens, at[:, None], there[:, None], D, WIDE)
    a = tl.load(token_length + at)
    r = scale * a
    entry = tl.arange(0, entries)
    score = tl.load(best + at[:, None] * entries + entry[None, :])
    bits = score.to(tl.int32, bitcast=True)
    group = (bits & ((1 << BITS) - 1)) * LANES + entry[None, :] // KEPT
    rest = tl.max(tl.load(others + at[:, None] * LANES + tl.arange(0, LANES)[None, :]), 1)
    sinh = half_sinh_square(r)
    square, half = sinh * (1 - ROUNDING), 0.5 + sinh  # cosh(r) / 2
    usable = there & (a < float("inf"))  # not NaN
    sound = usable & (half < float("inf")) & (tl.load(finite) != 0)
    least = square[:, None] - half[:, None] * _above(score, BITS)
    least = tl.where(sound[:, None] & (score > _NEVER), least, float("inf"))
    unseen = tl.where(rest > _NEVER, square - half * _above(rest, BITS), float("inf"))

    chosen = _triton_found.nothing(ROWS, WIDTH)
    allowed = tl.where(usable, float("inf"), -1.0)
    most = tl.min(least, 1)
    here = most < allowed
    visits = 0
    while tl.max(here.to(tl.int32), 0) > 0:
        first = tl.min(tl.where(least == most[:, None], entry[None, :], entries), 1)
        now = entry[None, :] == first[:, None]
        member = tl.sum(tl.where(now, group, 0), 1) * GROUP
        near = _triton_found.visit(
            v, a, centroids, centroid_length, scale, member, here, E, D, WIDE, GROUP
        )
        chosen = _triton_found.merged(chosen, near, TOP)
        allowed = tl.where(usable, _triton_found.allowed(chosen, TOP), -1.0)
        least = tl.where(now & here[:, None], float("inf"), least)
        most = tl.min(least, 1)
        visits += 1
        # A token that would need the sweep in any case leaves the rest of its list to it.
        here = (most < allowed) & ((visits <= TOP) | (allowed <= unseen))

    proven = sound & (allowed <= unseen)
    _triton_found.store(index, at, chosen, usable, there, E, TOP)
    tl.store(certified + at, sound.to(tl.int32), there)
    left = (usable & ~proven).to(tl.int32)
    count = tl.sum(left, 0)
    if count > 0:
        place = tl.atomic_add(waiting, count) + tl.cumsum(left, 0) - 1
        tl.store(queue + place, at.to(tl.int32), left != 0)


@triton.jit
def _above(score, BITS: tl.constexpr):
    """What a score was before its last bits were overwritten, at most."""
    return score + tl.abs(score) * (1.0 / (1 << (22 - BITS)))
