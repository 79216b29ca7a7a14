"""Gradient descent with momentum on a manifold: what the public optimisers share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array

from physnet.optim import _charts, _leaves


def descent(
    owner: str,
    manifold: Any,
    new_state: Callable[..., Any],
    *,
    check: Callable[[str, Any], None],
    learning_rate: Any,
    momentum: ArrayLike | None,
    nesterov: bool,
    inward: Callable[[Array], Array] = lambda x: x,
    outward: Callable[[Array, Array], Array] = lambda x, like: x,
) -> optax.GradientTransformation:
    """Steps along Riemannian gradients, with momentum carried along.

    Args:
        owner: the public name, for errors.
        manifold: `enter` (a leaf), `gradient` (point, derivative), `move` (point, step, vector or
            None) -> (point, vector).
        new_state: makes a state of (count, trace).
        check: raises for leaves that are no points.
        learning_rate, momentum, nesterov: of the public function.
        inward: a derivative or vector, from the shape of a leaf to that of the manifold.
        outward: back, (x, leaf).
    """
    _charts.one_number(learning_rate=learning_rate)
    if momentum is not None:
        _charts.in_range("momentum", momentum, 0.0, 1.0)
    elif nesterov:
        raise ValueError("nesterov=True needs a momentum, got momentum=None")

    def init(params: Any) -> Any:
        check(owner, params)
        count = jnp.zeros([], jnp.int32)
        if momentum is None:
            return new_state(count, None)
        return new_state(count, jax.tree.map(lambda x: jnp.zeros_like(_leaves.wide(x)), params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _leaves.needs_params(owner, params, updates)
        check(owner, params)
        rate = _leaves.rate(learning_rate, state.count)

        def one(grad, point, *trace):
            if grad is None:
                return grad, *trace
            old = _leaves.wide(point)
            x = manifold.enter(old)
            lr = jnp.asarray(rate, x.dtype)
            direction = gradient = manifold.gradient(x, inward(jnp.asarray(grad, x.dtype)))
            carried = None
            if momentum is not None:
                mu = jnp.asarray(momentum, x.dtype)
                direction = carried = mu * inward(trace[0]) + gradient
                if nesterov:
                    direction = gradient + mu * carried
            new, carried = manifold.move(x, -lr * direction, carried)
            out = (outward(new, old) - old).astype(point.dtype)
            return (out,) if carried is None else (out, outward(carried, old))

        traces = [] if momentum is None else [state.trace]
        new, *trace = _leaves.map_leaves(one, updates, params, *traces)
        count = jnp.asarray(optax.safe_increment(state.count))
        return new, new_state(count, trace[0] if trace else None)

    return optax.GradientTransformation(init, update)
