"""Attention as one or two passes over blocks, with one reverse rule around them.

Two passes partition the pairs: their outputs merge by the log-sum-exps, and the backward of each
takes the merged log-sum-exp and D.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from physnet.attention import _layout, _loops
from physnet.attention._arguments import Pairs, Tensors, accumulator

Rules = tuple[_loops.Rule, ...]
Plans = tuple[_layout.Plan, ...]


def sparse(
    rules: Rules, size: int, x: Tensors, spoil: jax.Array, pairs: Pairs, plans: Plans
) -> tuple[jax.Array, jax.Array]:
    """Attention over the pairs that `rules` take, a pass each.

    Args:
        rules: one a pass; no pair may belong to two of them. Static.
        size: slots of a block. Static.
        x: finite tensors; in a shard_map they vary over every axis that anything here varies over.
        spoil: (B, S, K): NaN at a key that makes NaN of every query that sees it, else 0.
        pairs: scores, positions and segments.
        plans: orders of tokens, one a pass.

    Returns:
        Output (B, T, N, D) in the dtype of the query and lse (B, T, N) in that of the accumulator.
    """
    return _sparse(rules, size, x, spoil, pairs, plans)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sparse(rules, size, x, spoil, pairs, plans) -> tuple[jax.Array, jax.Array]:
    batch, length = x.query.shape[:2]

    def one(rule, plan):
        blocks = _loops.forward(rule)(_layout.operands(x, spoil, pairs, plan, size))
        output, lse = (_layout.tokens_of(a, plan.query_order, batch, length) for a in blocks)
        return output, lse

    parts = [one(*each) for each in zip(rules, plans, strict=True)]
    output, lse = parts[0]
    for other in parts[1:]:
        output, lse = _merge((output, lse), other)
    return output.astype(x.query.dtype), lse


def _merge(one, other):
    """Attention over the union of two disjoint sets of pairs."""
    lse = jnp.logaddexp(one[1], other[1])
    base = jnp.where(lse == -jnp.inf, 0, lse)
    weight, other_weight = (jnp.exp(part[1] - base)[..., None] for part in (one, other))
    return weight * one[0] + other_weight * other[0], lse


def _forward(rules, size, x, spoil, pairs, plans):
    result: Any = _sparse(rules, size, x, spoil, pairs, plans)
    output, lse = result
    return result, (x, spoil, pairs, plans, output, lse)


def _backward(rules, size, residuals, cotangents):
    x, spoil, pairs, plans, output, lse = _first_order_only(residuals)
    d_output, d_lse = cotangents
    dtype = accumulator(x.query.dtype)
    d_output = d_output.astype(dtype)
    shift = jnp.sum(d_output * output.astype(dtype), axis=-1) - d_lse
    base = jnp.where(lse == -jnp.inf, jnp.inf, lse)  # exp(logit - inf) = 0: nothing to descend
    batch, length = x.query.shape[:2]
    span, key_heads = x.key.shape[1:3]

    def one(rule, plan):
        in_blocks = (
            _layout.query_blocks(array, key_heads, plan, size) for array in (d_output, base, shift)
        )
        operands = _layout.operands(x, spoil, pairs, plan, size)
        d_query, d_key, d_value = _loops.backward(rule)(operands, *in_blocks)
        return Tensors(
            _layout.tokens_of(d_query, plan.query_order, batch, length),
            *(
                _layout.tokens_of(d[:, :, :, None], plan.key_order, batch, span)
                for d in (d_key, d_value)
            ),
        )

    parts = [one(*each) for each in zip(rules, plans, strict=True)]
    total = functools.reduce(lambda one, other: jax.tree.map(jnp.add, one, other), parts)
    total = jax.tree.map(lambda d, like: d.astype(like.dtype), total, x)
    return total, None, None, None


_sparse.defvjp(_forward, _backward)


@jax.custom_jvp
def _first_order_only(residuals):
    return residuals


@_first_order_only.defjvp
def _first_order_only_jvp(primals, tangents):
    raise NotImplementedError(
        "attention over blocks has first-order reverse-mode derivatives only; for higher orders "
        "use at most 256 x 256 pairs, which are computed densely"
    )
