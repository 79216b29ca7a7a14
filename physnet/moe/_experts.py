"""The experts on the rows of a layout."""

import math
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from physnet.moe import _layout, _loops, _slabs
from physnet.moe._loops import ExpertFn
from physnet.moe._rows import weighted


def run(
    tokens: Array,
    expert: Array,
    gate: Array,
    expert_fn: ExpertFn,
    params: Any,
    *,
    experts: int,
    capacity: int | None,
    loop: bool,
) -> tuple[Array, Array, Array]:
    """Outputs (n, o) of the experts (n, k) of tokens (n, d), summed with gates (n, k).

    Returns:
        The outputs, which assignments are in there (n, k), and the load of each expert.
    """
    n, k = expert.shape
    flat = expert.reshape(-1)
    few = capacity is None and 3 * n * k < experts  # then copies of parameters are fewer
    if not loop and not few:
        return _slabs.run(
            tokens, expert, gate, expert_fn, params, experts=experts, capacity=capacity
        )
    if capacity is None and loop:
        out = _loops.dropless(tokens, expert, expert_fn, params, experts)
        kept, count = _layout.loads(flat, experts)
    else:
        if capacity is None:
            size = _layout.block_size(n * k, experts, least=16)
            layout = _layout.blocks(flat, experts, size)
            execute = _slabs.gathered
        else:
            layout = _layout.slab(flat, experts, capacity)
            execute = _loops.in_place
        out = execute(expert_fn, params, layout, tokens[layout.source // k])
        out = out.reshape(math.prod(out.shape[:-1]), out.shape[-1])[layout.slot]
        kept, count = layout.kept, layout.count
    out = jnp.where(kept[:, None], out, jnp.zeros_like(out))
    return weighted(gate, out), kept.reshape(n, k), count
