"""What the Riemannian optimisers share: rules of one leaf, mapped over trees."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Int

from physnet import _checks

Rate = ArrayLike | Callable[[Array], ArrayLike]


def wide(x: ArrayLike) -> jax.Array:
    """In float32, or float64 where it is that: what steps are computed in."""
    array = jnp.asarray(x)
    return array.astype(np.promote_types(array.dtype, np.float32))


def rate(learning_rate: Rate, count: Int[Array, ""]) -> ArrayLike:
    """The learning rate of the step after `count` others."""
    return learning_rate(count) if callable(learning_rate) else learning_rate


def map_leaves(rule: Callable[..., tuple[Any, ...]], grads: Any, *trees: Any) -> tuple[Any, ...]:
    """Trees of what rule(grad, *leaves) gives: a new grad and a new leaf for each tree but the
    first. None counts as a grad.
    """
    leaves, structure = jax.tree.flatten(grads, is_leaf=lambda x: x is None)
    columns = [structure.flatten_up_to(tree) for tree in trees]
    rows = [rule(*row) for row in zip(leaves, *columns, strict=True)]
    results = zip(*rows, strict=True) if rows else ((),) * len(trees)
    return tuple(structure.unflatten(column) for column in results)


def needs_params(owner: str, params: Any, updates: Any) -> None:
    """An error without the current points, or where gradients (if given) are not like them."""
    if params is None:
        raise ValueError(
            f"{owner} needs the current points: call update(grads, state, params), got params=None"
        )
    for gradient, point in () if updates is None else pairs(updates, params):
        _checks.real(f"{owner}: updates", gradient)
        _checks.real(f"{owner}: params", point)
        if jnp.shape(gradient) != jnp.shape(point):
            raise ValueError(
                f"{owner}: updates must have the shapes of params, got {jnp.shape(gradient)} "
                f"beside {jnp.shape(point)}"
            )


def pairs(grads: Any, tree: Any) -> list[tuple[Any, Any]]:
    """Each gradient that is not None with its leaf of a tree."""
    leaves, structure = jax.tree.flatten(grads, is_leaf=lambda x: x is None)
    try:
        rows = zip(leaves, structure.flatten_up_to(tree), strict=True)
    except ValueError as error:
        raise ValueError(f"updates must be a tree like params: {error}") from None
    return [row for row in rows if row[0] is not None]
