"""The nearest centroids among the groups that may hold them: device code.

A bound on the scores of a group bounds its distances from below. Groups are visited in the order of
their bounds, until none that is left can be nearer than what was found.
"""

import triton
import triton.language as tl

from physnet_kernels.nearest_centroid._triton_polar import less_than_one, log_square

_TOLERANCE = tl.constexpr(1e-4)  # of the distance, by which another centroid may be nearer unseen
_NEVER = tl.constexpr(-1e29)  # scores below are of what fills the last tile, or of nothing
_LAST = tl.constexpr(0x7FFFFFFFFFFFFFFF)
_GROUP = tl.constexpr(16)


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
    N: tl.constexpr,
    E: tl.constexpr,
    D: tl.constexpr,
    ROWS: tl.constexpr,
    LANES: tl.constexpr,
    KEPT: tl.constexpr,
    BITS: tl.constexpr,
    TOP: tl.constexpr,
    ROUNDING: tl.constexpr,
):
    """Program i: the TOP nearest centroids (N, TOP) of ROWS tokens, and whether that is proven."""
    entries: tl.constexpr = LANES * KEPT
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there = row < N
    at = tl.where(there, row, 0).to(tl.int64)
    scale = tl.load(scale_)
    a = tl.load(token_length + at)
    r = scale * a
    entry = tl.arange(0, entries)
    score = tl.load(best + at[:, None] * entries + entry[None, :])
    bits = score.to(tl.int32, bitcast=True)
    group = (bits & ((1 << BITS) - 1)) * LANES + entry[None, :] // KEPT
    rest = tl.max(tl.load(others + at[:, None] * LANES + tl.arange(0, LANES)[None, :]), 1)
    square = _sinh_square(r) * (1 - ROUNDING)
    half = 0.5 + _sinh_square(r)  # cosh(r) / 2
    least = tl.where(
        score > _NEVER, square[:, None] - half[:, None] * _above(score, BITS), float("inf")
    )
    unseen = tl.where(rest > _NEVER, square - half * _above(rest, BITS), float("inf"))
    usable = there & (a < float("inf"))  # not NaN
    sound = usable & (half < float("inf")) & (tl.load(finite) != 0)
    least = tl.where(sound[:, None], least, float("inf"))

    places = tl.arange(0, _GROUP)
    chosen = tl.full((ROWS, _GROUP), _LAST, tl.int64)
    allowed = tl.where(usable, float("inf"), -1.0)
    most = tl.min(least, 1)
    while tl.max((most < allowed).to(tl.int32), 0) > 0:
        here = most < allowed
        first = tl.min(tl.where(least == most[:, None], entry[None, :], entries), 1)
        now = entry[None, :] == first[:, None]
        visited = tl.sum(tl.where(now, group, 0), 1)
        near = _visit(tokens, centroids, centroid_length, at, a, scale, visited, here, E, D)
        chosen = _merged(chosen, near, TOP)
        allowed = tl.where(usable, _allowed(chosen, TOP), -1.0)
        least = tl.where(now & here[:, None], float("inf"), least)
        most = tl.min(least, 1)

    proven = sound & (allowed <= unseen)
    if tl.max((usable & ~proven).to(tl.int32), 0) > 0:
        chosen = tl.full((ROWS, _GROUP), _LAST, tl.int64)
        for every in range((E + _GROUP - 1) // _GROUP):
            visited = tl.full((ROWS,), every, tl.int32)
            near = _visit(tokens, centroids, centroid_length, at, a, scale, visited, usable, E, D)
            chosen = _merged(chosen, near, TOP)

    found = (chosen & 0x7FFFFFFF).to(tl.int32)
    found = tl.where(usable[:, None], found, places[None, :])
    mask = there[:, None] & (places < TOP)[None, :]
    tl.store(index + at[:, None] * TOP + places[None, :], tl.minimum(found, E - 1), mask)
    tl.store(certified + at, proven.to(tl.int32), there)


@triton.jit
def _sinh_square(x):
    """sinh^2(x / 2) for x >= 0."""
    less = less_than_one(x)
    return 0.25 * less * less * tl.exp(x)


@triton.jit
def _above(score, BITS: tl.constexpr):
    """What a score was before its last bits were overwritten, at most."""
    return score + tl.abs(score) * (1.0 / (1 << (22 - BITS)))


@triton.jit
def _visit(
    tokens, centroids, centroid_length, at, a, scale, group, here, E: tl.constexpr, D: tl.constexpr
):
    """Distances and numbers of the centroids of a group each, as integers that sort (ROWS, 16)."""
    member = group[:, None] * _GROUP + tl.arange(0, _GROUP)[None, :]
    real = here[:, None] & (member < E)
    v = tl.broadcast_to(tokens + at[:, None] * D, member.shape)
    a = tl.broadcast_to(a[:, None], member.shape)
    b = tl.load(centroid_length + member, real, 1.0)
    far = log_square(v, centroids + member * D, a, b, scale, real, D)
    far = tl.where(far == far, far, float("-inf"))  # NaN shows, as it does in argmin
    bits = far.to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(real, (order.to(tl.int64) << 32) | member.to(tl.int64), _LAST)


@triton.jit
def _merged(chosen, near, TOP: tl.constexpr):
    """The TOP least of both (ROWS, 16), in order; copies of the least where TOP is 1."""
    if TOP == 1:
        least = tl.min(tl.minimum(chosen, near), 1)
        merged = tl.broadcast_to(least[:, None], chosen.shape)
    else:
        merged = tl.full(chosen.shape, _LAST, tl.int64)
        for place in range(TOP):
            least = tl.min(tl.minimum(chosen, near), 1)[:, None]
            merged = tl.where(tl.arange(0, _GROUP)[None, :] == place, least, merged)
            chosen = tl.where(chosen == least, _LAST, chosen)
            near = tl.where(near == least, _LAST, near)
    return merged


@triton.jit
def _allowed(chosen, TOP: tl.constexpr):
    """sinh^2(D / 2) that another centroid must have for the TOP to be the nearest."""
    place = tl.arange(0, _GROUP)[None, :] == TOP - 1
    order = (tl.max(tl.where(place, chosen, -_LAST - 1), 1) >> 32).to(tl.int32)
    far = (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    # nothing was found yet where the bits are those of no number
    allowed = tl.exp(far - _TOLERANCE * (2 + tl.maximum(far, 0.0)))
    return tl.where(far == far, allowed, float("inf"))
