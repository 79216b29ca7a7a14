"""Argument checks that every public function shares: they name the argument and what came."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def real(name: str, value: Any) -> jax.Array:
    """`value` as a real floating array, or a TypeError that names it."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"{name} must be a real floating-point array, got dtype {array.dtype}")
    return array


def inexact(name: str, value: Any) -> jax.Array:
    """`value` as a real or complex floating array, or a TypeError that names it."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.inexact):
        raise TypeError(
            f"{name} must be a real or complex floating-point array, got dtype {array.dtype}"
        )
    return array


def at_least_1d(name: str, array: jax.Array) -> jax.Array:
    """`array` if it has a site axis, or a ValueError that names it."""
    if array.ndim < 1:
        raise ValueError(f"{name} must have at least one axis, got a scalar")
    return array


def positive_int(name: str, value: Any, *, minimum: int = 1) -> int:
    """`value` as a Python int >= `minimum`; static arguments only."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be a static Python int, got {value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be >= {minimum}, got {value}")
    return int(value)


def one_of(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    """`value` if it is one of `options`, or a ValueError that lists them."""
    if value not in options:
        raise ValueError(f"{name} must be one of {options}, got {value!r}")
    return value


def concrete(value: Any) -> np.ndarray | None:
    """`value` as a NumPy array where it is known at trace time, else None (a tracer)."""
    if isinstance(value, jax.core.Tracer):
        return None
    return np.asarray(value)


def one_positive(name: str, value: Any, dtype: Any) -> jax.Array:
    """`value` as a scalar of this dtype; an error where it is known not to be positive, finite."""
    known = concrete(value)  # of the value itself: under jit an array of it is a tracer
    known = None if known is None else known.astype(dtype)
    array = jnp.asarray(value, dtype)
    if array.size != 1:
        raise ValueError(f"{name} must be one number, got shape {array.shape}")
    if known is not None and not np.all((known > 0) & (known < np.inf)):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return array.reshape(())


def broadcast(**shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Common broadcast shape of named shapes, or a ValueError that lists them."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes do not broadcast: {listed}") from None


def stacked(name: str, tree: Any, what: str, *, least: int = 1) -> int:
    """The length of the first axis, that of `what`, which all arrays of a tree share."""
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(tree)]
    counts = {shape[0] if shape else -1 for shape in shapes}
    if len(counts) != 1 or min(counts) < least:
        raise ValueError(
            f"{name} must hold arrays with one common first axis, {what}, of length >= {least}, "
            f"got shapes {shapes}"
        )
    return counts.pop()
