"""Over which axes of a `shard_map` arrays vary."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def axes(arrays: Any) -> frozenset[Any]:
    """Those over which one of the arrays varies."""
    each = (jax.typeof(x).manual_axis_type.varying for x in jax.tree.leaves(arrays))
    return frozenset().union(*each)


def alike(arrays: Any, *others: Any) -> Any:
    """The arrays, varying over all axes over which one of them or of others does.

    JAX sums the cotangents of what is the same on all devices over them. That sum then stands here,
    and not within a solve, a branch or a loop, which may differ between devices; of planes, since
    XLA fails to compile a sum of complex numbers within a solve on a GPU.
    """
    every = axes((arrays, others))

    def vary(x):
        missing = tuple(every - axes(x))
        if not missing:
            return x
        if jnp.iscomplexobj(x):
            return lax.complex(vary(x.real), vary(x.imag))
        return lax.pcast(x, missing, to="varying")

    return jax.tree.map(vary, arrays)
