"""Gradients of one block of queries, and of one block of keys: device code.

    p = exp(scale q.k - lse),  ds = p (dO.v - shift)
    dq = scale ds k,  dk = scale ds^T q,  dv = p^T dO

The weights are masked, not the logits. The CAREFUL forms write the results of key heads that
`again` names, over the old ones, with zeros for tokens that are not finite: a query that sees such
a key has lost its lse, and has no gradient to give.
"""

import triton
import triton.language as tl

from physnet_kernels.scattering_attention._triton_finite import doubt, quiet, without
from physnet_kernels.scattering_attention._triton_mask import load_labels, pair_mask

_BLOCK = tl.constexpr(128)
_LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def query_kernel(
    query,
    key,
    value,
    d_output,
    lse,
    shift,
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
    old_d_query,
    query_blocks,
    key_blocks,
    width,
    d_query,
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
    """Program (head, place in the order): dq of ROWS queries."""
    FACTOR: tl.constexpr = SCALE * _LOG2_E
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
    cotangent = tl.load(d_output + here + tile)
    row = batch_head.to(tl.int64) * query_length + tokens
    base = tl.load(lse + row)
    offset = tl.load(shift + row)
    if CAREFUL:
        odd, lost, base, offset = quiet(q, base, offset)
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

    result = tl.zeros([ROWS, D], tl.float32)
    following = tl.load(steps, mask=visits > 0, other=0)
    for t in range(visits * per_block):
        step = following
        following = tl.load(steps + tl.minimum((t + 1) // per_block, width - 1))
        key_first = (step >> 1) * _BLOCK + (t - t // per_block * per_block) * COLUMNS
        there = key_first.to(tl.int64) * key_stride
        k = tl.load(key + there + key_tile)
        v = tl.load(value + there + key_tile)
        if CAREFUL:
            k, v = without(k, doubt(k) != 0.0), without(v, doubt(v) != 0.0)
        logits = tl.dot(q, tl.trans(k), input_precision=PRECISION)
        d_weight = tl.dot(cotangent, tl.trans(v), input_precision=PRECISION)
        weight = tl.exp2(logits * FACTOR - base[:, None])
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
            weight = tl.where(mask, weight, 0.0)
        d_logits = weight * (d_weight - offset[:, None])
        result = tl.dot(d_logits.to(k.dtype), k, result, input_precision=PRECISION)

    if CAREFUL:
        result = tl.where(odd[:, None], 0.0, tl.where(lost[:, None], float("nan"), result))
    tl.store(d_query + here + tile, (result * SCALE).to(d_query.dtype.element_ty))


@triton.jit
def key_kernel(
    query,
    key,
    value,
    d_output,
    lse,
    shift,
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
    old_d_key,
    old_d_value,
    query_blocks,
    key_blocks,
    width,
    d_key,
    d_value,
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
    """Program (key head, place in the order): dk and dv of COLUMNS keys, over the group's heads."""
    FACTOR: tl.constexpr = SCALE * _LOG2_E
    parts: tl.constexpr = _BLOCK // COLUMNS
    per_block: tl.constexpr = _BLOCK // ROWS
    program = tl.program_id(0)
    per_head = key_blocks * parts
    batch_key_head = program // per_head
    rank = program % per_head
    batch = (batch_key_head // KEY_HEADS).to(tl.int64)
    key_head = batch_key_head % KEY_HEADS
    group = HEADS // KEY_HEADS
    list_row = batch * HEADS + key_head * group if OWN_LISTS else batch
    if CAREFUL:
        wanted = tl.load(again + batch * KEY_HEADS + key_head)
        if wanted == 0:
            return

    block = tl.load(order + list_row * key_blocks + rank // parts)
    first = block * _BLOCK + (rank % parts) * COLUMNS
    features = tl.arange(0, D)
    query_length = query_blocks * _BLOCK
    key_length = key_blocks * _BLOCK
    stride = HEADS * D
    key_stride = KEY_HEADS * D
    here = (batch * key_length + first) * key_stride + key_head * D
    key_tile = tl.arange(0, COLUMNS)[:, None] * key_stride + features[None, :]
    k = tl.load(key + here + key_tile)
    v = tl.load(value + here + key_tile)
    if CAREFUL:
        k, v = without(k, doubt(k) != 0.0), without(v, doubt(v) != 0.0)
    query += batch * query_length * stride
    d_output += batch * query_length * stride
    tile = tl.arange(0, ROWS)[:, None] * stride + features[None, :]
    slots = tl.arange(0, ROWS)

    query_position += batch * query_length
    key_position += batch * key_length
    query_segment += batch * query_length
    key_segment += batch * key_length

    key_result = tl.zeros([COLUMNS, D], tl.float32)
    value_result = tl.zeros([COLUMNS, D], tl.float32)
    for member in range(group):
        head = key_head * group + member
        list_row = batch * HEADS + head if OWN_LISTS else batch
        score_row = batch * HEADS + head if OWN_SCORES else batch
        visits = tl.load(count + list_row * key_blocks + block)
        visited = steps + (list_row * key_blocks + block) * width
        row = (batch * HEADS + head) * query_length
        bound = 0.0
        if SCORES:
            bound = tl.load(threshold + score_row)
        place, part, strength = load_labels(
            key_position,
            key_segment,
            key_score + score_row * key_length,
            first,
            COLUMNS,
            SEGMENTS,
            SCORES,
        )
        following = tl.load(visited, mask=visits > 0, other=0)
        for t in range(visits * per_block):
            step = following
            following = tl.load(visited + tl.minimum((t + 1) // per_block, width - 1))
            query_first = (step >> 1) * _BLOCK + (t - t // per_block * per_block) * ROWS
            there = query_first.to(tl.int64) * stride + head * D
            q = tl.load(query + there + tile)
            cotangent = tl.load(d_output + there + tile)
            base = tl.load(lse + row + query_first + slots)
            offset = tl.load(shift + row + query_first + slots)
            if CAREFUL:
                odd, lost, base, offset = quiet(q, base, offset)
                q = without(q, odd | lost)
                cotangent = without(cotangent, odd | lost)
            logits = tl.dot(k, tl.trans(q), input_precision=PRECISION)
            d_weight = tl.dot(v, tl.trans(cotangent), input_precision=PRECISION)
            weight = tl.exp2(logits * FACTOR - base[None, :])
            if step & 1:
                query_place, query_part, query_strength = load_labels(
                    query_position,
                    query_segment,
                    query_score + score_row * query_length,
                    query_first,
                    ROWS,
                    SEGMENTS,
                    SCORES,
                )
                mask = pair_mask(
                    logits,
                    query_place[None, :],
                    query_part[None, :],
                    query_strength[None, :],
                    place[:, None],
                    part[:, None],
                    strength[:, None],
                    bound,
                    BAND,
                    WINDOW,
                    IS_CAUSAL,
                    SEGMENTS,
                    SCORES,
                )
                weight = tl.where(mask, weight, 0.0)
            d_logits = weight * (d_weight - offset[None, :])
            value_result = tl.dot(
                weight.to(v.dtype), cotangent, value_result, input_precision=PRECISION
            )
            key_result = tl.dot(d_logits.to(q.dtype), q, key_result, input_precision=PRECISION)

    tl.store(d_key + here + key_tile, (key_result * SCALE).to(d_key.dtype.element_ty))
    tl.store(d_value + here + key_tile, value_result.to(d_value.dtype.element_ty))
