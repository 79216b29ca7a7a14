"""Online softmax over the kept pairs of blocks, forward and backward, one block pair at a time.

Only blocks that can hold a pair are visited: the number of steps follows from the data. `vmap`
would run such loops in lockstep and copy all they carry, so it folds into the rows instead.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from physnet.attention._arguments import NO_TOKEN, Pairs, Scores, accumulator
from physnet.attention._layout import Operands


class Rule(NamedTuple):
    """Which pairs a pass takes; static."""

    band: Literal["all", "far", "near"]  # of the local band: no matter, left out, alone
    window: int
    is_causal: bool
    scale: float


class _Bounds(NamedTuple):
    """What the blocks hold at most; pairs of (smallest, largest), NO_TOKEN and less where empty."""

    query_position: tuple[jax.Array, jax.Array]  # (R, P)
    key_position: tuple[jax.Array, jax.Array]  # (R, Q)
    segment: tuple[tuple[jax.Array, jax.Array], ...] | None  # of queries and keys
    scores: Scores | None  # largest scores (R, P, H) and (R, Q, H), threshold (R, H)


def _bounds(pairs: Pairs) -> _Bounds:
    def extremes(label: jax.Array, position: jax.Array):
        token = position != NO_TOKEN
        low = jnp.min(jnp.where(token, label, NO_TOKEN), axis=-1)
        return low, jnp.max(jnp.where(token, label, -NO_TOKEN), axis=-1)

    segment = scores = None
    if pairs.segment is not None:
        segment = tuple(map(extremes, pairs.segment, pairs.position))
    if pairs.scores is not None:
        query, key, threshold = pairs.scores
        scores = Scores(jnp.max(query, axis=-1), jnp.max(key, axis=-1), threshold)
    query, key = map(extremes, pairs.position, pairs.position)
    return _Bounds(query, key, segment, scores)


def _visits(rule: Rule, x: Operands, bounds: _Bounds, r, i):
    """The key blocks that query block i of row r visits, in order, and their number."""
    begin, end = (bound[r, i] for bound in bounds.query_position)
    key_begin, key_end = (bound[r] for bound in bounds.key_position)
    visit = (begin != NO_TOKEN) & (key_begin != NO_TOKEN)
    if rule.is_causal:
        visit = visit & (key_begin <= end)
    if rule.band == "near":
        # No sums: they overflow for a large window.
        visit = visit & (key_begin - end < rule.window) & (begin - key_end < rule.window)
    elif bounds.scores is not None:
        query, key, threshold = bounds.scores
        visit = visit & jnp.any(query[r, i][None] * key[r] > threshold[r][None], axis=-1)
    if bounds.segment is not None:
        (low, high), (key_low, key_high) = bounds.segment
        visit = visit & (key_low[r] <= high[r, i]) & (key_high[r] >= low[r, i])
    if x.kept is not None:
        visit = visit & jnp.any(x.kept[r, i], axis=0)
    return jnp.nonzero(visit, size=visit.shape[0], fill_value=0)[0], jnp.sum(visit)


def _mask(rule: Rule, x: Operands, r, i, j):
    """Which pairs of query block i and key block j take part: (1, H, b, b)."""
    scores, position, segment = x.pairs
    query, key = position.query[r, i][:, None], position.key[r, j][None, :]
    mask = (query != NO_TOKEN) & (key != NO_TOKEN)
    if rule.is_causal:
        mask = mask & (key <= query)
    if rule.band != "all":
        near = (query - key < rule.window) & (query - key > -rule.window)
        mask = mask & (near if rule.band == "near" else ~near)
    if segment is not None:
        mask = mask & (segment.query[r, i][:, None] == segment.key[r, j][None, :])
    mask = mask[None]
    if rule.band != "near" and scores is not None:
        product = scores.query[r, i][:, :, None] * scores.key[r, j][:, None, :]
        mask = mask & (product > scores.threshold[r][:, None, None])
    if x.kept is not None:
        mask = mask & x.kept[r, i, :, j][:, None, None]
    return mask[None]


def _logits(rule: Rule, x: Operands, query, r, i, j):
    """Logits (K, G, b, b), -inf where no pair is, with the block's key, value and mask."""
    key, value = (a[r, j].astype(query.dtype) for a in (x.key, x.value))  # (K, b, D)
    heads, group, size, width = query.shape
    flat = query.reshape(heads, group * size, width)
    logits = rule.scale * jnp.einsum("kmd,ksd->kms", flat, key)
    logits = logits.reshape(heads, group, size, -1) + x.spoil[r, j][:, None, None, :]
    mask = _mask(rule, x, r, i, j)
    return jnp.where(mask, logits, -jnp.inf), key, value, mask


def _items(x: Operands):
    """Every (row, query block)."""
    count = x.query.shape[1]
    item = jnp.arange(x.query.shape[0] * count, dtype=jnp.int32)
    return item // count, item % count


def _forward(rule: Rule, x: Operands):
    dtype = accumulator(x.query.dtype)
    bounds = _bounds(x.pairs)

    def query_block(item):
        r, i = item
        query = x.query[r, i].astype(dtype)
        visits, count = _visits(rule, x, bounds, r, i)

        def step(t, carry):
            top, total, output = carry
            logits, _, value, _ = _logits(rule, x, query, r, i, visits[t])
            new = jnp.maximum(top, jnp.max(logits, axis=-1))
            base = jnp.where(new == -jnp.inf, 0, new)
            weight = jnp.exp(logits - base[..., None])
            decay = jnp.exp(top - base)
            flat = weight.reshape(weight.shape[0], -1, weight.shape[3])
            part = jnp.einsum("kms,ksd->kmd", flat, value).reshape(output.shape)
            total = total * decay + jnp.sum(weight, axis=-1)
            return new, total, output * decay[..., None] + part

        none = jnp.zeros_like(query[..., 0])
        start = (none - jnp.inf, none, jnp.zeros_like(query))
        top, total, output = lax.fori_loop(0, count, step, start)
        empty = total == 0
        total = jnp.where(empty, 1, total)
        return output / total[..., None], jnp.where(empty, -jnp.inf, top + jnp.log(total))

    output, lse = lax.map(query_block, _items(x))
    blocks = x.query.shape[:2]
    return output.reshape(*blocks, *output.shape[1:]), lse.reshape(*blocks, *lse.shape[1:])


def _backward(rule: Rule, x: Operands, cotangent, lse, shift):
    """Cotangents of query, key and value, from dO, log-sum-exp and D = sum dO O - dlse."""
    dtype = accumulator(x.query.dtype)
    bounds = _bounds(x.pairs)

    def query_block(carry, item):
        r, i = item
        query = x.query[r, i].astype(dtype)
        flat = (query.shape[0], query.shape[1] * query.shape[2], -1)
        visits, count = _visits(rule, x, bounds, r, i)
        d_output = cotangent[r, i].reshape(flat)
        base, offset = lse[r, i][..., None], shift[r, i][..., None]

        def step(t, carry):
            d_query, d_key, d_value = carry
            j = visits[t]
            logits, key, value, mask = _logits(rule, x, query, r, i, j)
            weight = jnp.where(mask, jnp.exp(logits - base), 0)
            d_weight = jnp.einsum("kmd,ksd->kms", d_output, value).reshape(weight.shape)
            d_logits = jnp.where(mask, weight * (d_weight - offset), 0) * rule.scale
            weight, d_logits = weight.reshape(flat), d_logits.reshape(flat)
            d_query = d_query + jnp.einsum("kms,ksd->kmd", d_logits, key)
            here = jnp.einsum("kms,kmd->ksd", d_logits, query.reshape(flat))
            d_key = d_key.at[r, j].add(here)
            d_value = d_value.at[r, j].add(jnp.einsum("kms,kmd->ksd", weight, d_output))
            return d_query, d_key, d_value

        start = (jnp.zeros_like(d_output), *carry)
        d_query, *carry = lax.fori_loop(0, count, step, start)
        return tuple(carry), d_query.reshape(query.shape)

    zero = jnp.zeros_like(x.key, dtype)
    (d_key, d_value), d_query = lax.scan(query_block, (zero, zero), _items(x))
    return d_query.reshape(x.query.shape), d_key, d_value


def rows_by_vmap(function: Callable[..., Any]) -> Callable[..., Any]:
    """`function` of arrays with a row axis in front, such that vmap makes more rows of it."""
    batched = custom_vmap(function)

    @batched.def_vmap
    def fold(size, is_batched, *args):
        def into_rows(array, mapped):
            if not mapped:
                array = jnp.broadcast_to(array[None], (size, *array.shape))
            return array.reshape(-1, *array.shape[2:])

        result = batched(*jax.tree.map(into_rows, args, tuple(is_batched)))
        result = jax.tree.map(lambda a: a.reshape(size, -1, *a.shape[1:]), result)
        return result, jax.tree.map(lambda _: True, result)

    return batched


@functools.cache
def forward(rule: Rule) -> Callable[..., Any]:
    """operands -> output (R, P, K, G, b, D) and lse (R, P, K, G, b); -inf without a pair."""
    return rows_by_vmap(functools.partial(_forward, rule))


@functools.cache
def backward(rule: Rule) -> Callable[..., Any]:
    """operands, dO, lse, shift in query blocks -> cotangents in query and key blocks."""
    return rows_by_vmap(functools.partial(_backward, rule))
