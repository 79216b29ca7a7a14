"""Attention as one or two passes over blocks, with one reverse rule around them.

Two passes partition the pairs: their outputs merge by the log-sum-exps, and the backward of each
takes the merged log-sum-exp and D.
"""

import functools

import jax
import jax.numpy as jnp

from physnet import _dispatch
from physnet.attention import _kernels, _layout, _loops
from physnet.attention._arguments import Pairs, Spoil, Tensors, accumulator

Rules = tuple[_loops.Rule, ...]
Plans = tuple[_layout.Plan, ...]


def sparse(
    name: _dispatch.Implementation,
    rules: Rules,
    size: int,
    x: Tensors,
    spoil: Spoil | None,
    pairs: Pairs,
    plans: Plans,
) -> tuple[jax.Array, jax.Array]:
    """Attention over the pairs that `rules` take, a pass each.

    Args:
        name: What runs a pass: "xla" or a kernel. Static.
        rules: one a pass; no pair may belong to two of them. Static.
        size: slots of a block, for "xla". Static.
        x: tensors, finite for "xla"; in a shard_map they vary over every axis that anything here
            varies over.
        spoil: which tokens are non-finite, for "xla"; kernels find out by themselves. A key makes
            NaN of every query that sees it.
        pairs: scores, positions and segments.
        plans: orders of tokens, one a pass.

    Returns:
        Output (B, T, N, D) in the dtype of the query and lse (B, T, N) in that of the accumulator.
    """
    return _sparse(name, rules, size, x, spoil, pairs, plans)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _sparse(name, rules, size, x, spoil, pairs, plans) -> tuple[jax.Array, jax.Array]:
    return _run(name, rules, size, x, spoil, pairs, plans)[0]


def _run(name, rules, size, x, spoil, pairs, plans):
    """Output and lse, and what kernels keep of each pass."""
    batch, length = x.query.shape[:2]

    def one(rule, plan):
        if name != "xla":
            return _kernels.forward(name, rule, x, pairs, plan)
        blocks = _loops.forward(rule)(_layout.operands(x, spoil.key, pairs, plan, size))
        output, lse = (_layout.tokens_of(a, plan.query_order, batch, length) for a in blocks)
        return output, lse, None

    output, lse, slots = zip(*(one(*each) for each in zip(rules, plans, strict=True)), strict=True)
    total = functools.reduce(_merge, zip(output, lse, strict=True))
    return (total[0].astype(x.query.dtype), total[1]), slots


def _merge(one, other):
    """Attention over the union of two disjoint sets of pairs."""
    lse = jnp.logaddexp(one[1], other[1])
    base = jnp.where(lse == -jnp.inf, 0, lse)
    weight, other_weight = (jnp.exp(part[1] - base)[..., None] for part in (one, other))
    first, second = (part[0].astype(lse.dtype) for part in (one, other))
    return weight * first + other_weight * second, lse


def _sum(one, other):
    """In float32 at least."""
    dtype = accumulator(one.dtype)
    return one.astype(dtype) + other.astype(dtype)


def _forward(name, rules, size, x, spoil, pairs, plans):
    x = _first_order_only(x)
    (output, lse), slots = _run(name, rules, size, x, spoil, pairs, plans)
    return (output, lse), (x, spoil, pairs, plans, slots, output, lse)


def _backward(name, rules, size, residuals, cotangents):
    x, spoil, pairs, plans, slots, output, lse = _first_order_only(residuals)
    d_output, d_lse = cotangents
    dtype = accumulator(x.query.dtype)
    shift = jnp.sum(d_output.astype(dtype) * output.astype(dtype), axis=-1) - d_lse
    base = jnp.where(lse == -jnp.inf, jnp.inf, lse)  # exp(logit - inf) = 0: nothing to descend
    lost = None
    if spoil is not None:
        bad = jnp.isnan(spoil.query)
        base, shift = jnp.where(bad, jnp.inf, base), jnp.where(bad, 0, shift)
        # A row that is NaN, or whose cotangent is: zero times NaN must not reach keys it does not
        # see.
        lost = jnp.isnan(base) | ~jnp.isfinite(shift)
        base, shift = jnp.where(lost, jnp.inf, base), jnp.where(lost, 0, shift)
        d_output = jnp.where(lost[..., None], 0, d_output)
    batch, length = x.query.shape[:2]
    span, key_heads = x.key.shape[1:3]

    def one(rule, plan, kept):
        if spoil is None:  # a kernel, which finds out by itself
            return _kernels.backward(name, rule, x, kept, plan, d_output, base, shift)
        in_blocks = (
            _layout.query_blocks(array, key_heads, plan, size)
            for array in (d_output.astype(dtype), base, shift)
        )
        operands = _layout.operands(x, spoil.key, pairs, plan, size)
        d_query, d_key, d_value = _loops.backward(rule)(operands, *in_blocks)
        return Tensors(
            _layout.tokens_of(d_query, plan.query_order, batch, length),
            *(
                _layout.tokens_of(d[:, :, :, None], plan.key_order, batch, span)
                for d in (d_key, d_value)
            ),
        )

    parts = [one(*each) for each in zip(rules, plans, slots, strict=True)]
    total = functools.reduce(functools.partial(jax.tree.map, _sum), parts)
    if lost is not None:
        total = total._replace(query=jnp.where(lost[..., None], jnp.nan, total.query))
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
        "use implementation='xla' and at most 256 x 256 pairs, which are computed densely"
    )
