"""Argument checks that every public function shares: they name the argument and what came."""

from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def array(name: str, value: Any, dtype: Any = None) -> jax.Array:
    """`value` as an array, of this dtype if one is given; or a TypeError that names it."""
    text = isinstance(value, str | bytes)  # which NumPy would read as a number
    given = getattr(value, "dtype", None)
    lossy = dtype is not None and not jnp.issubdtype(dtype, jnp.complexfloating)
    if text or (lossy and given is not None and jnp.issubdtype(given, jnp.complexfloating)):
        raise TypeError(f"{name} must be an array of numbers, got {_shown(value)}")
    try:
        return jnp.asarray(value, dtype)
    except (TypeError, ValueError) as error:  # None, text, an object, a complex number for a real
        raise TypeError(f"{name} must be an array of numbers, got {_shown(value)}") from error


def real(name: str, value: Any) -> jax.Array:
    """`value` as a real floating array, or a TypeError that names it."""
    found = array(name, value)
    if not jnp.issubdtype(found.dtype, jnp.floating):
        raise TypeError(f"{name} must be a real floating-point array, got dtype {found.dtype}")
    return found


def inexact(name: str, value: Any) -> jax.Array:
    """`value` as a real or complex floating array, or a TypeError that names it."""
    found = array(name, value)
    if not jnp.issubdtype(found.dtype, jnp.inexact):
        raise TypeError(
            f"{name} must be a real or complex floating-point array, got dtype {found.dtype}"
        )
    return found


def boolean(name: str, value: Any) -> jax.Array:
    """`value` as an array of booleans, or a TypeError that names it."""
    found = array(name, value)
    if found.dtype != jnp.bool_:
        raise TypeError(f"{name} must be boolean, got dtype {found.dtype}")
    return found


def integer(name: str, value: Any) -> jax.Array:
    """`value` as an array of integers, or a TypeError that names it."""
    found = array(name, value)
    if not jnp.issubdtype(found.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got dtype {found.dtype}")
    return found


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


def number(name: str, value: Any) -> float:
    """`value` as a Python float: for options that are fixed when a program is made."""
    if isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, np.ndarray | jax.Array) and not isinstance(value, jax.core.Tracer):
        known_ = known(name, value)
        if known_ is not None and known_.size == 1:
            return float(known_.reshape(()))
    raise TypeError(f"{name} must be a static number, got {_shown(value)}")


def one_of(name: str, value: Any, options: tuple[Any, ...]) -> Any:
    """`value` if it is one of `options`, or a ValueError that lists them."""
    try:
        fits = value in options
    except ValueError:  # an array, compared entry by entry
        fits = False
    if not fits:
        raise ValueError(f"{name} must be one of {options}, got {value!r}")
    return value


def instance(name: str, value: Any, kind: type) -> Any:
    """`value` if it is of this class, or a TypeError that names it."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, got {_shown(value)}")
    return value


def sequence(name: str, value: Any, kind: type | None = None) -> tuple[Any, ...]:
    """The members of a list or tuple, each of this class; or a TypeError that names it."""
    if not isinstance(value, list | tuple):
        raise TypeError(f"{name} must be a list or a tuple, got {_shown(value)}")
    return tuple(value if kind is None else (instance(name, each, kind) for each in value))


def function(name: str, value: Any) -> Any:
    """`value` if it can be called, or a TypeError that names it."""
    if not callable(value):
        raise TypeError(f"{name} must be a function, got {_shown(value)}")
    return value


def key(name: str, value: Any) -> Any:
    """`value` if it is one JAX random key, of the new style or the old; or an error that names it.

    Raises:
        TypeError: It is no key.
        ValueError: It is an array of keys.
    """
    if isinstance(value, jax.Array | np.ndarray):
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            if value.ndim:
                raise ValueError(f"{name} must be one random key, got keys of shape {value.shape}")
            return value
        if value.dtype == np.uint32 and value.ndim == 1:
            return value
    raise TypeError(f"{name} must be a random key of jax.random.key, got {_shown(value)}")


def known(name: str, value: Any) -> np.ndarray | None:
    """`concrete` of what must be real numbers, or a TypeError that names it."""
    found = value if isinstance(value, jax.core.Tracer) else np.asarray(value)
    if not (jnp.issubdtype(found.dtype, jnp.bool_) or jnp.issubdtype(found.dtype, jnp.number)):
        raise TypeError(f"{name} must be a real number, got {_shown(value)}")
    if jnp.issubdtype(found.dtype, jnp.complexfloating):
        raise TypeError(f"{name} must be a real number, got {_shown(value)}")
    return concrete(value)


def concrete(value: Any) -> np.ndarray | None:
    """`value` as a NumPy array where it is known at trace time, else None (a tracer)."""
    if isinstance(value, jax.core.Tracer):
        return None
    return np.asarray(value)


def one_number(name: str, value: Any, dtype: Any) -> jax.Array:
    """`value` as a scalar of this dtype, whatever number it is; or an error that names it."""
    known(name, value)
    found = array(name, value, dtype)
    if found.size != 1:
        raise ValueError(f"{name} must be one number, got shape {found.shape}")
    return found.reshape(())


def one_positive(name: str, value: Any, dtype: Any) -> jax.Array:
    """`value` as a scalar of this dtype; an error where it is known not to be positive, finite."""
    there = known(name, value)  # of the value itself: under jit an array of it is a tracer
    there = None if there is None else there.astype(dtype)
    found = one_number(name, value, dtype)
    if there is not None and not np.all((there > 0) & (there < np.inf)):
        raise ValueError(f"{name} must be positive and finite, got {value!r}")
    return found


def broadcast(**shapes: tuple[int, ...]) -> tuple[int, ...]:
    """Common broadcast shape of named shapes, or a ValueError that lists them."""
    try:
        return np.broadcast_shapes(*shapes.values())
    except ValueError:
        listed = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        raise ValueError(f"shapes do not broadcast: {listed}") from None


def stacked(name: str, tree: Any, what: str, *, least: int = 1) -> int:
    """The length of the first axis, that of `what`, which all arrays of a tree share."""
    leaves = jax.tree.leaves(tree)
    shapes = [getattr(x, "shape", None) or array(name, x).shape for x in leaves]
    counts = {shape[0] if shape else -1 for shape in shapes}
    if len(counts) != 1 or min(counts) < least:
        raise ValueError(
            f"{name} must hold arrays with one common first axis, {what}, of length >= {least}, "
            f"got shapes {shapes}"
        )
    return counts.pop()


def _shown(value: Any) -> str:
    """A value in an error: short, whatever it is."""
    text = repr(value)
    return text if len(text) <= 60 else f"an object of type {type(value).__name__}"
