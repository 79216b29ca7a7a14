"""Gradient descent with a second, teleported gradient: Nesterov's look-ahead generalised."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet.optim import _charts, _leaves


class TeleportedLookaheadState(NamedTuple):
    """State of `teleported_lookahead`.

    Attributes:
        count: Steps taken.
        trace: Momentum, in trees shaped like the parameters (float32, or float64); None without.
    """

    count: Int[Array, ""]
    trace: Any


def teleported_lookahead(
    learning_rate: float | Float[Array, ""] | optax.Schedule,
    *,
    momentum: float | Float[Array, ""] | None = None,
) -> optax.GradientTransformationExtraArgs:
    r"""Descent along the local and the teleported gradient, for optax.

        v <- mu v + (g_local + g_teleport),     theta <- theta - eta v

    and without momentum theta <- theta - eta (g_local + g_teleport). What g_teleport is, the caller
    says: `teleport.gradients` for a stack of layers. Nesterov's method is the case of a
    g_teleport that sees where the momentum leads,

        g_teleport = grad L(theta - eta mu v) - grad L(theta)        (-eta mu H v on a quadratic)

    then theta - eta mu v runs through the parameters of `optax.sgd(nesterov=True)`; and without
    momentum g_teleport = mu (mu v + g_local), with v kept by the caller, is that method itself.
    With g_teleport = 0 it is `optax.sgd`.

    Args:
        learning_rate: eta, a number or a schedule of the step's number.
        momentum: mu in [0, 1); None keeps no state.

    Returns:
        An optax transformation: update(grads, state, params=None, *, teleported) with `teleported`
        a tree like grads, or, under `optax.masked` and `optax.partition`, like all parameters. In
        a chain, what comes before (clipping) sees grads and not `teleported`. Steps are computed in
        float32 at least and returned in the dtype of grads; a grad of None stays.

    Raises:
        ValueError: A momentum out of range where it is known; from update, `teleported` missing or
            not like grads.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> optimiser = teleported_lookahead(0.1)
        >>> theta, grads, teleported = jnp.array([1.0, 2.0]), jnp.ones(2), jnp.array([0.5, 0.0])
        >>> updates, state = jax.jit(optimiser.update)(
        ...     grads, optimiser.init(theta), theta, teleported=teleported)
        >>> print(optax.apply_updates(theta, updates))
        [0.85 1.9 ]

    References:
        Nesterov, "A method for solving the convex programming problem with convergence rate
        O(1/k^2)", Dokl. Akad. Nauk SSSR 269 (1983), 543.
        Sutskever, Martens, Dahl and Hinton, "On the importance of initialization and momentum in
        deep learning", ICML 2013, for the form with a look-ahead gradient.
    """
    _charts.one_number(learning_rate=learning_rate)
    if momentum is not None:
        _charts.in_range("momentum", momentum, 0.0, 1.0)

    def init(params: Any) -> TeleportedLookaheadState:
        trace = None
        if momentum is not None:
            trace = jax.tree.map(
                lambda x: jnp.zeros_like(_leaves.wide(_checks.inexact("params", x))), params
            )
        return TeleportedLookaheadState(jnp.zeros([], jnp.int32), trace)

    def update(
        updates: Any, state: Any, params: Any = None, *, teleported: Any = None, **others: Any
    ) -> tuple[Any, TeleportedLookaheadState]:
        if teleported is None:
            raise ValueError(
                "teleported_lookahead needs update(grads, state, params, teleported=...), a tree "
                "like grads, got teleported=None"
            )
        rate = _leaves.rate(learning_rate, state.count)

        def one(grad, jump, old):
            if _absent(grad):
                return grad, old
            _checks.inexact("grads", grad)
            if old is not None and jnp.shape(old) != jnp.shape(grad):
                raise ValueError(
                    f"grads must have the shapes of params, got {jnp.shape(grad)} beside "
                    f"{jnp.shape(old)}"
                )
            jump = _checks.array("teleported", jump, _leaves.wide(grad).dtype)
            if jnp.shape(jump) != jnp.shape(grad):
                raise ValueError(
                    f"teleported must have the shapes of grads, got {jnp.shape(jump)} for a leaf "
                    f"{jnp.shape(grad)}"
                )
            step = _leaves.wide(grad)
            step = step + jnp.asarray(jump, step.dtype)
            if old is not None:
                step = jnp.asarray(momentum, step.dtype) * old + step
            moved = -jnp.asarray(rate, step.dtype) * step
            return moved.astype(jnp.asarray(grad).dtype), step

        grads, structure = jax.tree.flatten(updates, is_leaf=_absent)
        try:
            jumps = structure.flatten_up_to(teleported)
        except ValueError as error:
            raise ValueError(
                f"teleported must be a tree like grads, got {jax.tree.structure(teleported)} for "
                f"{structure}"
            ) from error
        traces = [None] * len(grads) if momentum is None else structure.flatten_up_to(state.trace)
        rows = [one(*row) for row in zip(grads, jumps, traces, strict=True)]
        new, trace = (structure.unflatten([row[i] for row in rows]) for i in range(2))
        count = jnp.asarray(optax.safe_increment(state.count))
        return new, TeleportedLookaheadState(count, None if momentum is None else trace)

    return optax.GradientTransformationExtraArgs(init, update)


def _absent(grad: Any) -> bool:
    return grad is None or isinstance(grad, optax.MaskedNode)
