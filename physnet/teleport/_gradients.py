"""The plain gradient, and what teleportation adds to it."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks


def gradients(
    loss: Callable[[Any, Array], Array],
    params: Any,
    *,
    strength: ArrayLike | Float[Array, " layers"],
    return_value: bool = False,
) -> Any:
    """The gradient of plain backpropagation and the part that teleportation adds, apart.

        local = grad loss(params, 0),     teleported = grad loss(params, strength) - local

    Two forward and two backward passes, one after the other. Where only their sum is needed,
    `jax.grad(loss)(params, strength)` is that, at the cost of one pass.

    Args:
        loss: loss(params, strength) -> a number, which hands strength to `teleport.scan`. With the
            mode "ghost" its value depends on strength too.
        params: A tree of floating arrays.
        strength: lambda, a number or (L,).
        return_value: Give loss(params, 0) as well.

    Returns:
        (local, teleported), trees like params, as `optim.teleported_lookahead` takes them; with
        return_value, (value, (local, teleported)).

    Raises:
        TypeError: A strength that is not real floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from physnet import teleport
        >>> def loss(weights, strength):
        ...     return teleport.scan(
        ...         lambda w, h: w * h, weights, 1.0, propagator=jnp.ones(2), strength=strength)
        >>> local, teleported = gradients(loss, jnp.array([0.5, 0.5]), strength=0.1)
        >>> print(local, teleported.round(3))        # the last layer has nothing to jump over
        [0.5 0.5] [0.1 0. ]
    """
    _checks.function("loss", loss)
    for leaf in jax.tree.leaves(params):
        _checks.real("params", leaf)
    strength = _checks.real("strength", strength)
    if strength.weak_type:  # a Python number follows the parameters, also under x64
        kinds = [jnp.result_type(leaf) for leaf in jax.tree.leaves(params)]
        widest = max([jnp.dtype(jnp.float32), *kinds], key=lambda kind: kind.itemsize)
        strength = strength.astype(widest)
    derivative = jax.value_and_grad(loss)
    value, local = derivative(params, jnp.zeros_like(strength))
    total = derivative(params, strength)[1]
    teleported = jax.tree.map(lambda with_it, without: with_it - without, total, local)
    return (value, (local, teleported)) if return_value else (local, teleported)
