"""Vectors that are trees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array

from physnet import _checks


def size(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(tree))


def checked(params: Any) -> Any:
    """`params` as real floating-point arrays, or an error that names them."""
    params = jax.tree.map(lambda leaf: _checks.real("params", leaf), params)
    if not size(params):
        raise ValueError("params must hold at least one number, got an empty tree")
    return params


def wide(tree: Any) -> Any:
    """Zeros in the shapes of a tree: float64 where a leaf is, float32 elsewhere."""

    return jax.tree.map(
        lambda leaf: jnp.zeros_like(leaf, dtype=np.promote_types(leaf.dtype, np.float32)), tree
    )


def dtype(tree: Any) -> Any:
    """float64 if a leaf has it, else float32: of what is one number for a whole tree."""
    double = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(tree))
    return jnp.float64 if double else jnp.float32


def flat(tree: Any, dtype: Any) -> tuple[Array, Any]:
    """All numbers of a tree in one vector, and the way back."""
    return ravel_pytree(jax.tree.map(lambda x: x.astype(dtype), tree))


def squared_norm(tree: Any) -> Array:
    parts = [jnp.sum(x * x).astype(dtype(tree)) for x in jax.tree.leaves(tree)]
    return jnp.sum(jnp.stack(parts))


def combine(a: Any, x: Any, b: Any, y: Any) -> Any:
    """a x + b y of trees x and y, in the dtypes of x."""

    def one(x, y):
        return jnp.asarray(a, x.dtype) * x + jnp.asarray(b, x.dtype) * y.astype(x.dtype)

    return jax.tree.map(one, x, y)
