"""Checks and common forms of the arguments of a trajectory."""

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnet import _checks
from physnet.symplectic import _lattice

Force: TypeAlias = Callable[[Any, Any, Any], Any]
State: TypeAlias = tuple[Any, Any]


def shapes(tree: Any) -> str:
    """A tree's arrays in words: float32[3,4], ..."""
    return ", ".join(
        f"{jnp.result_type(x)}[{','.join(map(str, jnp.shape(x)))}]" for x in jax.tree.leaves(tree)
    )


def like(name: str, tree: Any, other: str, wanted: Any, *, dtype: bool = True) -> None:
    """An error unless `tree` has the structure, shapes and dtypes of `wanted`."""
    if jax.tree.structure(tree) != jax.tree.structure(wanted):
        raise TypeError(
            f"{name} must be like {other}, {jax.tree.structure(wanted)}, "
            f"got {jax.tree.structure(tree)}"
        )
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(wanted), strict=True))
    if any(jnp.shape(x) != jnp.shape(y) for x, y in pairs):
        raise ValueError(f"{name} must have the shapes of {other}, {shapes(wanted)}, got "
                         f"{shapes(tree)}")  # fmt: skip
    if dtype and any(jnp.result_type(x) != jnp.result_type(y) for x, y in pairs):
        raise TypeError(f"{name} must have the dtypes of {other}, {shapes(wanted)}, got "
                        f"{shapes(tree)}")  # fmt: skip


def state(value: Any) -> State:
    """(position, momentum) as real floating arrays, each like the other."""
    if any(isinstance(x, _lattice.LatticeState) for x in (value, *_parts(value))):
        raise TypeError(
            "state must be floating arrays, got a LatticeState: pass its lattice, or its value"
        )
    if not isinstance(value, (tuple, list)) or len(value) != 2:
        raise TypeError(f"state must be a pair (position, momentum), got {type(value).__name__}")
    position, momentum = (
        jax.tree.map(lambda x, n=n: strong(_checks.real(n, x)), part)
        for n, part in zip(("position", "momentum"), value, strict=True)
    )
    if not jax.tree.leaves(position):
        raise ValueError("position must hold at least one array, got none")
    like("momentum", momentum, "position", position)
    return position, momentum


def _parts(value: Any) -> tuple[Any, ...]:
    return tuple(value) if isinstance(value, (tuple, list)) else ()


def strong(x: Any) -> Array:
    """As an array whose dtype is its own, and not that of a Python number."""
    x = jnp.asarray(x)
    return x.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.number) else x


def number(name: str, value: Any, like: Any) -> Float[Array, ""]:
    """A finite real scalar; a Python number takes the widest dtype of `like`, float32 at least."""
    known = _checks.known(name, value)
    if known is not None and known.dtype.kind in "iu":
        value = float(known) if known.shape == () else value
    if isinstance(value, (float, int)):
        dtypes = [np.dtype(x.dtype) for x in jax.tree.leaves(like)]
        wide = functools.reduce(np.promote_types, dtypes, np.dtype(np.float32))
        value = jnp.asarray(value, wide)
    value = strong(_checks.real(name, value))
    if value.shape != ():
        raise ValueError(f"{name} must be a scalar, got shape {value.shape}")
    if known is not None and not np.isfinite(known.astype(np.float64)):
        raise ValueError(f"{name} must be finite, got {known}")
    return value


def damping(value: Any, like: Any) -> Float[Array, ""] | None:
    """The friction, or None where it is known to be 0."""
    known = _checks.known("friction", value)
    value = number("friction", value, like)
    return None if known is not None and not known.any() else value


def per_step(inputs: Any, steps: Any) -> int:
    """The number of steps, with which `inputs` must agree."""
    steps = _checks.positive_int("steps", steps)
    if jax.tree.leaves(inputs):
        got = {jnp.shape(x)[0] if jnp.ndim(x) else None for x in jax.tree.leaves(inputs)}
        if got != {steps}:
            raise ValueError(
                f"inputs must hold arrays with leading axis steps = {steps}, got {shapes(inputs)}"
            )
    return steps


def checked(force: Force, name: str = "force(params, position, input)") -> Force:
    """`force`, with an error unless it returns what is like the position, in its dtypes."""
    _checks.function(name.partition("(")[0], force)

    def call(params: Any, position: Any, given: Any) -> Any:
        pull = force(params, position, given)
        like(name, pull, "momentum" if "momentum" in name else "position", position, dtype=False)
        pull = jax.tree.map(lambda x: _checks.real(name, x), pull)
        return jax.tree.map(lambda f, q: f.astype(q.dtype), pull, position)

    return call
