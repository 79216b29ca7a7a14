"""Vectors that are trees of arrays."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array


def size(tree: Any) -> int:
    """How many numbers a tree holds."""
    return sum(jnp.size(leaf) for leaf in jax.tree.leaves(tree))


def wide(tree: Any) -> Any:
    """Zeros in the shapes of a tree: float64 where a leaf is, float32 elsewhere."""

    def zeros(leaf):
        dtype = jnp.float64 if leaf.dtype == jnp.float64 else jnp.float32
        return jnp.zeros_like(leaf, dtype=dtype)

    return jax.tree.map(zeros, tree)


def dtype(tree: Any) -> Any:
    """float64 if a leaf has it, else float32: of what is one number for a whole tree."""
    double = any(leaf.dtype == jnp.float64 for leaf in jax.tree.leaves(tree))
    return jnp.float64 if double else jnp.float32


def squared_norm(tree: Any) -> Array:
    parts = [jnp.sum(x * x).astype(dtype(tree)) for x in jax.tree.leaves(tree)]
    return jnp.sum(jnp.stack(parts))


def combine(a: Any, x: Any, b: Any, y: Any) -> Any:
    """a x + b y of trees x and y, in the dtypes of x."""

    def one(x, y):
        return jnp.asarray(a, x.dtype) * x + jnp.asarray(b, x.dtype) * y.astype(x.dtype)

    return jax.tree.map(one, x, y)
