"""The experts on the rows of a layout."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from physnet.moe import _layout, _loops
from physnet.moe._loops import ExpertFn


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
    if capacity is None and loop:
        out = _loops.dropless(tokens, expert, expert_fn, params, experts)
        kept, count = _layout.loads(flat, experts)
    else:
        if capacity is None:
            size = _layout.block_size(n * k, experts, least=16)
            layout = _layout.blocks(flat, experts, size)
            execute = _gathered
        else:
            layout = _layout.slab(flat, experts, capacity)
            execute = _loops.in_place if loop else _in_place
        out = execute(expert_fn, params, layout, tokens[layout.source // k])
        out = out.reshape(-1, out.shape[-1])[layout.slot]
        kept, count = layout.kept, layout.count
    out = jnp.where(kept[:, None], out, jnp.zeros_like(out))
    return out.reshape(n, k, -1), kept.reshape(n, k), count


def _gathered(expert_fn: ExpertFn, params: Any, layout: _layout.Layout, rows: Array) -> Array:
    """All blocks at once, each with a copy of its expert's parameters."""
    own = jax.tree.map(lambda p: p.at[layout.owner].get(indices_are_sorted=True), params)
    return jax.vmap(expert_fn)(own, rows)


def _in_place(expert_fn: ExpertFn, params: Any, layout: _layout.Layout, rows: Array) -> Array:
    """All experts at once, on a block each."""
    return jax.vmap(expert_fn)(params, rows)
