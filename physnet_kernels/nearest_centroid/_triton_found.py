"""What was found so far of the nearest centroids: device code.

A pair's distance and the centroid's number are one integer that sorts: the bits of log
sinh^2(D / 2), then the number. `chosen` (ROWS, WIDTH) holds the TOP least in any order.
"""

import triton
import triton.language as tl

from physnet_kernels.nearest_centroid._triton_polar import log_square

_TOLERANCE = tl.constexpr(1e-4)  # of the distance, by which another centroid may be nearer unseen
_LAST = tl.constexpr(0x7FFFFFFFFFFFFFFF)
_FIRST = tl.constexpr(-0x7FFFFFFFFFFFFFFF)


@triton.jit
def coordinates(points, row, mask, D: tl.constexpr, WIDE: tl.constexpr):
    """Vectors of these rows (m, n), in parts (m, n, WIDE / 16, 16); 0 behind the D coordinates."""
    part = tl.arange(0, WIDE // 16)[None, None, :, None] * 16
    feature = part + tl.arange(0, 16)[None, None, None, :]
    mask = mask[:, :, None, None]
    if D != WIDE:
        mask = mask & (feature < D)
    return tl.load(points + row[:, :, None, None] * D + feature, mask, 0.0)


@triton.jit
def nothing(ROWS: tl.constexpr, WIDTH: tl.constexpr):
    """What is found before anything is: integers of no distance, all different."""
    return tl.full((ROWS, WIDTH), _LAST, tl.int64) - tl.arange(0, WIDTH)[None, :]


@triton.jit
def visit(
    v,
    a,
    centroids,
    centroid_length,
    scale,
    first,
    here,
    E: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    GROUP: tl.constexpr,
):
    """The integers of tokens v of lengths a and of GROUP centroids each, from `first` on."""
    member = first[:, None] + tl.arange(0, GROUP)[None, :]
    real = here[:, None] & (member < E)
    w = coordinates(centroids, member, real, D, WIDE)
    b = tl.load(centroid_length + member, real, 1.0)
    far = log_square(v, w, a[:, None], b, scale)
    far = tl.where(far == far, far, float("-inf"))  # NaN shows, as it does in argmin
    bits = far.to(tl.int32, bitcast=True)
    order = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return tl.where(real, (order.to(tl.int64) << 32) | member.to(tl.int64), _LAST)


@triton.jit
def merged(chosen, near, TOP: tl.constexpr):
    """The TOP least of both; none of `near` (ROWS, n) was seen before."""
    if TOP == 1:
        chosen = tl.minimum(chosen, tl.min(near, 1)[:, None])
    else:
        least = tl.min(near, 1)
        while tl.max((least < worst(chosen, TOP)).to(tl.int32), 0) > 0:
            chosen = inserted(chosen, least, TOP)
            near = tl.where(near == least[:, None], _LAST, near)
            least = tl.min(near, 1)
    return chosen


@triton.jit
def inserted(chosen, new, TOP: tl.constexpr):
    """With `new` (ROWS) in the place of the worst, if it is better and not there."""
    last = worst(chosen, TOP)
    known = (chosen & 0x7FFFFFFF) == (new & 0x7FFFFFFF)[:, None]
    fresh = (tl.max(known.to(tl.int32), 1) == 0) & (new < last)
    return tl.where(fresh[:, None] & (chosen == last[:, None]), new[:, None], chosen)


@triton.jit
def worst(chosen, TOP: tl.constexpr):
    used = tl.arange(0, chosen.shape[1])[None, :] < TOP
    return tl.max(tl.where(used, chosen, _FIRST), 1)


@triton.jit
def allowed(chosen, TOP: tl.constexpr):
    """sinh^2(D / 2) that another centroid must have for the TOP to be the nearest."""
    order = (worst(chosen, TOP) >> 32).to(tl.int32)
    far = (order ^ ((order >> 31) & 0x7FFFFFFF)).to(tl.float32, bitcast=True)
    # nothing was found yet where the bits are those of no number
    less = tl.exp(far - _TOLERANCE * (2 + tl.maximum(far, 0.0)))
    return tl.where(far == far, less, float("inf"))


@triton.jit
def store(index, at, chosen, usable, mask, E: tl.constexpr, TOP: tl.constexpr):
    """The numbers of the centroids, the nearest first; of a token that is not usable, any."""
    places = tl.arange(0, chosen.shape[1])[None, :]
    chosen = tl.where(places < TOP, chosen, _LAST)
    found = chosen
    if TOP > 1:
        for place in range(TOP):
            least = tl.min(chosen, 1)[:, None]
            found = tl.where(places == place, least, found)
            chosen = tl.where(chosen == least, _LAST, chosen)
    number = tl.where(usable[:, None], (found & 0x7FFFFFFF).to(tl.int32), places)
    mask = mask[:, None] & (places < TOP)
    tl.store(index + at[:, None] * TOP + places, tl.minimum(number, E - 1), mask)
