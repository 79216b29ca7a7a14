"""Online softmax of one block of queries over the key blocks of its list: device code.

Values that are not finite show in the result, queries and keys are looked at on the side.
"""

import triton
import triton.language as tl

from physnet_kernels.scattering_attention._triton_finite import doubt, without
from physnet_kernels.scattering_attention._triton_mask import load_labels, pair_mask

_BLOCK = tl.constexpr(128)
_LOG2_E = tl.constexpr(1.4426950408889634)
_LN_2 = tl.constexpr(0.6931471805599453)


@triton.jit
def forward_kernel(
    query,
    key,
    value,
    steps,
    count,
    order,
    query_position,
    key_position,
    query_segment,
    key_segment,
    query_score,
    key_score,
    threshold,
    again,
    old_output,
    old_lse,
    old_found,
    query_blocks,
    key_blocks,
    width,
    output,
    lse,
    found,
    SCALE: tl.constexpr,
    BAND: tl.constexpr,
    WINDOW: tl.constexpr,
    IS_CAUSAL: tl.constexpr,
    SEGMENTS: tl.constexpr,
    SCORES: tl.constexpr,
    OWN_LISTS: tl.constexpr,
    OWN_SCORES: tl.constexpr,
    PRECISION: tl.constexpr,
    D: tl.constexpr,
    HEADS: tl.constexpr,
    KEY_HEADS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    CAREFUL: tl.constexpr,
):
    """Program (head, place in the order): ROWS queries against all that they see.

    `found` tells of each program whether it met something that is not finite. The CAREFUL form
    writes the results of key heads that `again` names, over the old ones.

    Logits are kept in units of 1 / SCALE and turned into powers of two inside the exponent; a
    SCALE that is not positive goes into the query instead, so that the largest stays the largest.
    """
    FACTOR: tl.constexpr = (SCALE if SCALE > 0 else -SCALE if SCALE < 0 else 1.0) * _LOG2_E
    parts: tl.constexpr = _BLOCK // ROWS
    per_block: tl.constexpr = _BLOCK // COLUMNS
    program = tl.program_id(0)
    per_head = query_blocks * parts
    batch_head = program // per_head
    rank = program % per_head
    batch = (batch_head // HEADS).to(tl.int64)
    head = batch_head % HEADS
    key_head = head // (HEADS // KEY_HEADS)
    list_row = batch * HEADS + head if OWN_LISTS else batch
    score_row = batch * HEADS + head if OWN_SCORES else batch
    if CAREFUL:
        wanted = tl.load(again + batch * KEY_HEADS + key_head)
        if wanted == 0:
            return

    block = tl.load(order + list_row * query_blocks + rank // parts)
    visits = tl.load(count + list_row * query_blocks + block)
    steps += (list_row * query_blocks + block) * width
    first = block * _BLOCK + (rank % parts) * ROWS
    tokens = first + tl.arange(0, ROWS)
    features = tl.arange(0, D)
    query_length = query_blocks * _BLOCK
    key_length = key_blocks * _BLOCK
    stride = HEADS * D
    key_stride = KEY_HEADS * D
    here = (batch * query_length + first) * stride + head * D
    tile = tl.arange(0, ROWS)[:, None] * stride + features[None, :]
    q = tl.load(query + here + tile)
    if SCALE < 0:
        q = -q
    if SCALE == 0:
        q = tl.zeros_like(q)
    key += batch * key_length * key_stride + key_head * D
    value += batch * key_length * key_stride + key_head * D
    key_tile = tl.arange(0, COLUMNS)[:, None] * key_stride + features[None, :]

    query_position += batch * query_length
    key_position += batch * key_length
    query_segment += batch * query_length
    key_segment += batch * key_length
    query_score += score_row * query_length
    key_score += score_row * key_length
    bound = 0.0
    if SCORES:
        bound = tl.load(threshold + score_row)
    place, part, strength = load_labels(
        query_position, query_segment, query_score, first, ROWS, SEGMENTS, SCORES
    )

    top = tl.full([ROWS], float("-inf"), tl.float32)
    total = tl.zeros([ROWS], tl.float32)
    result = tl.zeros([ROWS, D], tl.float32)
    following = tl.load(steps, mask=visits > 0, other=0)
    for t in range(visits * per_block):
        step = following
        following = tl.load(steps + tl.minimum((t + 1) // per_block, width - 1))
        key_first = (step >> 1) * _BLOCK + (t - t // per_block * per_block) * COLUMNS
        there = key_first.to(tl.int64) * key_stride
        k = tl.load(key + there + key_tile)
        v = tl.load(value + there + key_tile)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        if CAREFUL:
            spoil = doubt(k) + doubt(v)  # 0 or NaN: who sees such a key becomes NaN
            logits = tl.where(spoil[None, :] != 0.0, float("nan"), logits)
            v = without(v, doubt(v) != 0.0)
        if step & 1:
            key_place, key_part, key_strength = load_labels(
                key_position, key_segment, key_score, key_first, COLUMNS, SEGMENTS, SCORES
            )
            mask = pair_mask(
                logits,
                place[:, None],
                part[:, None],
                strength[:, None],
                key_place[None, :],
                key_part[None, :],
                key_strength[None, :],
                bound,
                BAND,
                WINDOW,
                IS_CAUSAL,
                SEGMENTS,
                SCORES,
            )
            logits = tl.where(mask, logits, float("-inf"))
        larger = tl.maximum(top, tl.max(logits, axis=1) * FACTOR)
        base = tl.where(larger == float("-inf"), 0.0, larger)
        weight = tl.exp2(logits * FACTOR - base[:, None])
        decay = tl.exp2(top - base)
        total = total * decay + tl.sum(weight, axis=1)
        result = result * decay[:, None]
        result = tl.dot(weight.to(v.dtype), v, result, input_precision=PRECISION)
        top = larger

    if CAREFUL:
        odd = doubt(tl.load(query + here + tile)) != 0.0
        total = tl.where(odd, float("nan"), total)
    divisor = tl.where(total == 0.0, 1.0, total)
    result = result / divisor[:, None]
    tl.store(output + here + tile, result.to(output.dtype.element_ty))
    # without a pair top is -inf and so is the sum
    tl.store(
        lse + batch_head.to(tl.int64) * query_length + tokens, (top + tl.log2(divisor)) * _LN_2
    )
    if not CAREFUL:
        # a tile of keys is looked at by one program of the heads that share it
        group: tl.constexpr = HEADS // KEY_HEADS
        at = (head % group) * per_head + block * parts + rank % parts
        looked = tl.zeros([COLUMNS], tl.float32)
        for _ in range(at, key_blocks * per_block, group * per_head):
            looked += doubt(tl.load(key + at.to(tl.int64) * (COLUMNS * key_stride) + key_tile))
            at += group * per_head
        # a load of its own: a sum over q in the registers makes float32 spill
        met = doubt(tl.load(query + here + tile)) + doubt(result)
        met = tl.sum(met) + tl.sum(looked)
        tl.store(found + program, (met != 0.0).to(tl.int32))
