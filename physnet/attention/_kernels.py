"""One pass over blocks by a GPU kernel: tokens into slots, lists of blocks, and back.

Rows R are what shares an order of tokens, as in `_layout`; a pass in the order of the sequence has
no order and moves nothing.
"""

import functools
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from physnet import _dispatch
from physnet.attention import _layout, _visits
from physnet.attention._arguments import NO_TOKEN, Labels, Pairs, Tensors
from physnet.attention._loops import Rule, rows_by_vmap

_BLOCK = 128
_HEAD_DIMS = (64, 128, 256)


class Slots(NamedTuple):
    """What a kernel reads, tokens in slots."""

    tensors: Tensors  # (R, slots, N, D), (R, slots, K, D)
    lists: _visits.Lists
    labels: _visits.Labels
    marks: tuple[Any, ...] = ()  # what the forward kernel has to tell the backward one


def forward(
    name: _dispatch.Implementation,
    rule: Rule,
    x: Tensors,
    pairs: Pairs,
    plan: _layout.Plan,
) -> tuple[jax.Array, jax.Array, Slots]:
    """Output (B, T, N, D) and lse (B, T, N) of a pass, and what its backward needs again."""
    slots = _slots(rule, x, pairs, plan)
    kernel = _kernel(_load(name), "forward", rule, _flags())
    output, lse, *marks = kernel(*slots.tensors, slots.lists, slots.labels)
    batch, time, _, width = x.query.shape
    output = _tokens(output, plan.query_order, batch, time)[..., :width]
    lse = _tokens(jnp.swapaxes(lse, 1, 2), plan.query_order, batch, time)
    if not isinstance(pairs.position.query, np.ndarray):  # kernels do not mind what is no token
        none = (pairs.position.query == NO_TOKEN)[..., None]
        output, lse = jnp.where(none[..., None], 0, output), jnp.where(none, -jnp.inf, lse)
    return output, lse, slots._replace(marks=tuple(marks))


def backward(
    name: _dispatch.Implementation,
    rule: Rule,
    x: Tensors,
    slots: Slots,
    plan: _layout.Plan,
    d_output: jax.Array,
    lse: jax.Array,
    shift: jax.Array,
) -> Tensors:
    """Cotangents of a pass; lse is inf where there is nothing to descend, shift = dO O - dlse.

    Rows that are NaN, or whose cotangent is, get NaN and give nothing; what is not finite gets 0.
    """
    batch, time, _, width = x.query.shape
    span, key_heads = x.key.shape[1:3]
    d_output = _wide(d_output.astype(x.query.dtype))
    d_output = _in_slots(d_output, plan.query_order, key_heads)
    lse, shift = (
        jnp.swapaxes(_in_slots(array, plan.query_order, key_heads, fill), 1, 2)
        for array, fill in ((lse, jnp.inf), (shift, 0.0))
    )
    d_query, *rest = _kernel(_load(name), "backward", rule, _flags())(
        *slots.tensors, d_output, lse, shift, *slots.marks, slots.lists, slots.labels
    )
    d_query = _tokens(d_query, plan.query_order, batch, time)[..., :width]
    d_key, d_value = (_tokens(d, plan.key_order, batch, span)[..., :width] for d in rest)
    return Tensors(d_query, d_key, d_value)


def _load(name: _dispatch.Implementation) -> Any:
    return _dispatch.load("scattering_attention", name)


def _flags() -> str:
    return os.environ.get("XLA_FLAGS", "")


@functools.cache
def _kernel(kernels: Any, function: str, rule: Rule, flags: str) -> Callable[..., Any]:
    """A raw kernel, such that vmap makes more rows of it.

    It may look at XLA's flags, and JAX traces one function once: with other flags it is another.
    """

    def run(*args):
        *arrays, lists, labels = args
        lists, labels = kernels.Lists(*lists), kernels.Labels(*labels)
        return getattr(kernels, function)(*arrays, lists, labels, rule=kernels.Rule(*rule))

    folded = rows_by_vmap(run)

    def varying(*args):
        # Kernels lose the type that says over which mesh axes of a shard_map an array varies.
        # XLA drops a selection that a constant decides.
        zero = jnp.zeros_like(args[0], shape=())
        always = np.ones((), bool)
        return jax.tree.map(lambda a: jnp.where(always, a, zero.astype(a.dtype)), folded(*args))

    return varying


def _slots(rule: Rule, x: Tensors, pairs: Pairs, plan: _layout.Plan) -> Slots:
    batch, key_heads = len(x.query), x.key.shape[2]
    split = plan.query_order is not None and len(plan.query_order) != batch
    rows = batch * key_heads if split else batch
    orders = (plan.query_order, plan.key_order)
    tensors = Tensors(
        _in_slots(_wide(x.query), plan.query_order, key_heads),
        _in_slots(_wide(x.key), plan.key_order, key_heads),
        _in_slots(_wide(x.value), plan.key_order, key_heads),
    )

    def labels(both: Labels | None, empty: int) -> Any:
        if both is None:
            return None, None
        in_rows = (_layout.row_labels(label, batch, rows) for label in both)
        return tuple(_take(*pair, empty) for pair in zip(in_rows, orders, strict=True))

    scores = (None, None, None)
    if pairs.scores is not None:
        both = (_layout.row_scores(score, key_heads, split) for score in pairs.scores[:2])
        query, key = (
            jnp.swapaxes(_take(score.astype(jnp.float32), order, 0.0), 1, 2)
            for score, order in zip(both, orders, strict=True)
        )
        tau = _layout.row_threshold(pairs.scores.threshold, batch, key_heads, split)
        many = max(query.shape[1], key.shape[1], tau.shape[1])
        query, key = (jnp.broadcast_to(s, (rows, many, s.shape[2])) for s in (query, key))
        scores = (query, key, jnp.broadcast_to(tau.astype(jnp.float32), (rows, many)))
    positions = labels(pairs.position, int(NO_TOKEN))
    segments = labels(pairs.segment, 0)
    every: Any = (*positions, *segments, *scores)
    label = _visits.Labels(*every)
    return Slots(tensors, _visits.lists(rule, label, plan.kept, _BLOCK), label)


def _wide(array: jax.Array) -> jax.Array:
    """The last axis padded by zeros to a head dimension that the kernels serve."""
    width = array.shape[-1]
    missing = next(size for size in _HEAD_DIMS if size >= width) - width
    return jnp.pad(array, ((0, 0),) * (array.ndim - 1) + ((0, missing),)) if missing else array


def _in_slots(array: jax.Array, order: jax.Array | None, key_heads: int, fill: float | int = 0.0):
    """(B, T, N, ...) as (R, slots, N of a row, ...); empty slots hold `fill` or a copy."""
    batch, _, _, *rest = array.shape
    if order is None:
        return _take(array, None, fill)
    rows = _layout.rows(array, key_heads, order.shape[0] != batch)
    rows = rows.reshape(*rows.shape[:2], -1, *rest)
    return _take(rows, order, fill)


def _take(array: Any, order: jax.Array | None, fill: float | int) -> jax.Array:
    """(R, T, ...) as (R, slots, ...), slots a multiple of the block; `fill` in empty ones."""
    if order is None:
        missing = -array.shape[1] % _BLOCK
        edge = ((0, 0), (0, missing)) + ((0, 0),) * (array.ndim - 2)
        return jnp.pad(array, edge, constant_values=fill) if missing else jnp.asarray(array)
    pick = jax.vmap(lambda x, i: x.at[i].get(mode="fill", fill_value=fill))
    return pick(array, _padded(order, array.shape[1]))


def _padded(order: jax.Array, length: int) -> jax.Array:
    missing = -order.shape[1] % _BLOCK
    return jnp.pad(order, ((0, 0), (0, missing)), constant_values=length)


def _tokens(array: jax.Array, order: jax.Array | None, batch: int, length: int) -> jax.Array:
    """(R, slots, N of a row, ...) back as (B, T, N, ...)."""
    if order is None:
        return array[:, :length]
    slot = _layout.place(order, length)
    picked = jax.vmap(lambda x, i: x.at[i].get(mode="promise_in_bounds"))(array, slot)
    return _layout.unrows(picked[:, :, None], batch)
