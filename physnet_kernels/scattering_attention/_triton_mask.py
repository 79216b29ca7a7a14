"""Which pairs of a tile take part, and where the labels that decide it are read: device code."""

import triton
import triton.language as tl

_NO_TOKEN = tl.constexpr(2**31 - 1)
_LEAST = tl.constexpr(-(2**31))


@triton.jit
def load_labels(
    position,
    segment,
    score,
    first,
    COUNT: tl.constexpr,
    SEGMENTS: tl.constexpr,
    SCORES: tl.constexpr,
):
    """Labels of COUNT tokens from the `first`; the positions stand in for what is not there."""
    slots = tl.arange(0, COUNT)
    place = tl.load(position + first + slots)
    part = place
    if SEGMENTS:
        part = tl.load(segment + first + slots)
    strength = place.to(tl.float32)
    if SCORES:
        strength = tl.load(score + first + slots)
    return place, part, strength


@triton.jit
def pair_mask(
    like,
    query,
    query_segment,
    query_score,
    key,
    key_segment,
    key_score,
    threshold,
    BAND: tl.constexpr,
    WINDOW: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    SEGMENTS: tl.constexpr,
    SCORES: tl.constexpr,
):
    """Labels that broadcast against each other (queries against keys) -> booleans.

    `like` is a tile of logits: a zero made of it puts the labels where the logits are in the
    registers, one row or column each, and costs no instruction; without it whole tiles of booleans
    would travel through shared memory.
    """
    zero = (like.to(tl.int32, bitcast=True) & 1) >> 1
    empty = query == _NO_TOKEN
    if IS_CAUSAL and BAND == "near":  # 0 <= query - key < WINDOW
        distance = (query + zero) - (key + zero)
        mask = distance.to(tl.uint32, bitcast=True) < tl.where(empty, 0, WINDOW) + zero
    else:
        # one comparison says that both are tokens and that the key is early enough
        limit = tl.where(empty, _LEAST, _NO_TOKEN)
        if IS_CAUSAL:
            behind: tl.constexpr = WINDOW if BAND == "far" else 0
            if behind > 0:
                empty = empty | (query < _LEAST + behind)
            limit = tl.where(empty, _LEAST, query - behind + 1)
        mask = (key + zero) < (limit + zero)
        if BAND != "all" and not IS_CAUSAL:
            if WINDOW > 0:  # -WINDOW < query - key < WINDOW, moved to 0, 1, ...
                distance = (query + (WINDOW - 1) + zero) - (key + zero)
                near = distance.to(tl.uint32, bitcast=True) < 2 * WINDOW - 1
                mask = mask & (near if BAND == "near" else near == 0)
            elif BAND == "near":
                mask = mask & (zero != 0)
    if SEGMENTS:
        mask = mask & (query_segment + zero == key_segment + zero)
    if SCORES:
        query_score = (query_score.to(tl.int32, bitcast=True) + zero).to(tl.float32, bitcast=True)
        key_score = (key_score.to(tl.int32, bitcast=True) + zero).to(tl.float32, bitcast=True)
        mask = mask & (query_score * key_score > threshold)
    return mask
