"""The experts on the rows of a layout."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from physnet.moe import _layout

ExpertFn = Callable[[Any, Array], Array]


def run(
    tokens: Array,
    expert: Array,
    expert_fn: ExpertFn,
    params: Any,
    *,
    experts: int,
    capacity: int | None,
    loop: bool,
) -> tuple[Array, Array, Array]:
    """Outputs (n, k, o) of the experts (n, k) of tokens (n, d), 0 where there is none.

    Returns:
        The outputs, which assignments have one (n, k), and the load of each expert.
    """
    n, k = expert.shape
    flat = expert.reshape(-1)
    if capacity is None:
        size = _layout.block_size(n * k, experts, least=8 if loop else 16)
        layout = _layout.blocks(flat, experts, size)
        execute = _loop if loop else _gathered
    else:
        layout = _layout.slab(flat, experts, capacity)
        execute = _loop_in_place if loop else _in_place
    rows = tokens[layout.source // k]
    out = execute(expert_fn, params, layout, rows)
    out = out.reshape(-1, out.shape[-1])[layout.slot]
    out = jnp.where(layout.kept[:, None], out, jnp.zeros_like(out))
    return out.reshape(n, k, -1), layout.kept.reshape(n, k), layout.count


def _loop(expert_fn: ExpertFn, params: Any, layout: _layout.Layout, rows: Array) -> Array:
    """One block after another, those in use only, and no copy of the parameters.

    The slice of the parameters is taken outside of the branch and again in the backward pass:
    so its cotangent is a slice as well, and none is stored.
    """

    @jax.checkpoint
    def one(params, block):
        owner, full, x = block
        own = jax.tree.map(lambda p: lax.dynamic_index_in_dim(p, owner, 0, keepdims=False), params)
        return _if(full, expert_fn, own, x)

    return lax.map(lambda block: one(params, block), (layout.owner, layout.full, rows))


def _gathered(expert_fn: ExpertFn, params: Any, layout: _layout.Layout, rows: Array) -> Array:
    """All blocks at once, each with a copy of its expert's parameters."""
    own = jax.tree.map(lambda p: p.at[layout.owner].get(indices_are_sorted=True), params)
    return jax.vmap(expert_fn)(own, rows)


def _loop_in_place(expert_fn: ExpertFn, params: Any, layout: _layout.Layout, rows: Array) -> Array:
    """One expert after another, those with tokens only."""

    @jax.checkpoint
    def one(block):
        own, full, x = block
        return _if(full, expert_fn, own, x)

    return lax.map(one, (params, layout.full, rows))


def _in_place(expert_fn: ExpertFn, params: Any, layout: _layout.Layout, rows: Array) -> Array:
    """All experts at once, on a block each."""
    return jax.vmap(expert_fn)(params, rows)


def _if(full: Array, expert_fn: ExpertFn, own: Any, x: Array) -> Array:
    """expert_fn(own, x), or zeros at no cost."""

    def nothing(own: Any, x: Array) -> Array:
        # Never computed: inside shard_map the zeros must vary over the same axes as the output.
        return jnp.zeros_like(expert_fn(own, x))

    return lax.cond(full, expert_fn, nothing, own, x)
