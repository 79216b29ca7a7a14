"""Sums over gates, and rows of slabs: what belongs to which assignment."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from physnet.moe import _plan


def weighted(gate: Array, out: Array, *more: tuple[Array, Array]) -> Array:
    """sum_j gate_ij out_ij for gates (n, k) and outputs (n k, o), and the same of more pairs."""
    dtype = wide(out)
    terms = [
        g.astype(dtype)[..., None] * o.reshape(*g.shape, o.shape[-1]).astype(dtype)
        for g, o in ((gate, out), *more)
    ]
    return jnp.sum(sum(terms[1:], terms[0]), axis=1).astype(out.dtype)


def wide(x: Array) -> Any:
    """The dtype of sums."""
    return x.dtype if x.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def picked(slab: Array, plan: _plan.Plan) -> Array:
    """What belongs to each assignment (M, ...) of rows (E C, ...); 0 for those without."""
    found = slab.at[jnp.maximum(plan.slot, 0)].get(mode="promise_in_bounds")
    inside = (plan.slot >= 0).reshape(-1, *[1] * (slab.ndim - 1))
    return jnp.where(inside, found, jnp.zeros_like(found))


def put(out: Array, place: Array, rows: Array) -> Array:
    """Rows at their places, which differ; those beyond the end are left out."""
    return out.at[place].set(rows, mode="drop", unique_indices=True)
