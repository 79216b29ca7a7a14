"""What both echoes start from: checked arguments, the final state, slopes of the potential."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from physnet import _checks, _varying
from physnet.symplectic import _arguments, _leapfrog, _schedule

Potential: TypeAlias = Callable[[Any, Any, Any], Float[Array, ""]]
Scalar: TypeAlias = Float[Array, ""]


class Kick(NamedTuple):
    """What the forward kick did: p <- decay p + impulse F."""

    weight: float  # its share a of the step
    share: Scalar  # of the time: a h
    impulse: Scalar  # c^(a/2) a h
    decay: Scalar  # c^a


class Problem(NamedTuple):
    """One echo. "Moving" are the floating arrays of a tree, with None in place of the others."""

    slopes: Callable[[Any, Any, Any], tuple[Any, Any, Any]]  # dV by params, position, input
    state: _arguments.State  # the final one, its momentum flipped
    params: Any  # moving
    inputs: tuple[Any, Any]  # moving, and the others; leading axis steps
    final: _arguments.State  # cotangents of the final position and momentum
    nudges: Any  # cotangents of the position after each step, or None
    steps: int
    stages: tuple[tuple[str, Kick], ...]
    step_size: Scalar
    friction: Scalar | None  # of the echo: minus that of the forward flow

    def backwards(self, body: Callable[[Any, Any, Any], Any], carry: Any) -> Any:
        """Scan carry, y = body(carry, input, nudge) over the steps, the last one first."""
        given = (self.inputs, self.nudges)
        return lax.scan(lambda c, x: body(c, *x), carry, given, length=self.steps, reverse=True)

    def growth(self, steps: Any) -> Scalar:
        """By how much friction makes a deviation grow over so many steps of the echo."""
        if self.friction is None:
            return jnp.ones_like(self.step_size)
        return jnp.exp(-self.friction.astype(self.step_size.dtype) * self.step_size * steps)

    def kick(self, momentum: Any, slope: Any, kick: Kick) -> Any:
        """The flipped inverse of a forward kick."""
        return _schedule.kick(momentum, scaled(slope, -1.0), kick.share, self.friction)


def pose(
    potential: Potential,
    state: Any,
    params: Any,
    inputs: Any,
    final_cotangent: Any,
    *,
    steps: int,
    step_size: Any,
    cotangents: Any,
    final_state: Any,
    scheme: _schedule.Scheme,
    order: int,
    friction: Any,
) -> Problem:
    """Check the arguments, go to the final state if it is not given, and flip its momentum."""
    state = _arguments.state(state)
    steps = _arguments.per_step(inputs, steps)
    h = _arguments.number("step_size", step_size, state)
    gamma = _arguments.damping(friction, state)
    stages = _schedule.stages(scheme, order)
    if final_cotangent is None:
        if cotangents is None:
            raise ValueError("final_cotangent may be None only where cotangents are given")
        final_cotangent = zeros(state)
    final = _like("final_cotangent", final_cotangent, "state", state)
    if cotangents is not None:
        every = jax.tree.map(lambda q: jnp.broadcast_to(q, (steps, *q.shape)), state[0])
        cotangents = _like("cotangents", cotangents, "the positions after each step", every)
    if final_state is None:

        def force(params: Any, position: Any, given: Any) -> Any:
            return scaled(jax.grad(_scalar(potential), 1)(params, position, given), -1.0)

        final_state = _leapfrog.leapfrog(
            force,
            state,
            params,
            inputs,
            steps=steps,
            step_size=h,
            scheme=scheme,
            order=order,
            friction=0.0 if gamma is None else gamma,
        )
    else:
        final_state = _arguments.state(final_state)
        _arguments.like("final_state", final_state, "state", state)
    given = jax.tree.map(_arguments.strong, (final_state, params, inputs, final, cotangents))
    (position, momentum), params, inputs, final, cotangents = _varying.alike(given)
    moving, fixed = split(params)

    def slopes(params: Any, position: Any, given: Any) -> Any:
        def value(params: Any, position: Any, moving: Any) -> Scalar:
            return _scalar(potential)(merge(params, fixed), position, merge(moving, given[1]))

        return jax.grad(value, (0, 1, 2))(params, position, given[0])

    return Problem(
        slopes=slopes,
        state=(position, scaled(momentum, -1.0)),
        params=moving,
        inputs=split(inputs),
        final=final,
        nudges=cotangents,
        steps=steps,
        stages=tuple((kind, _kick(weight, h, gamma)) for kind, weight in stages),
        step_size=h,
        friction=None if gamma is None else -gamma,
    )


def zeros(tree: Any) -> Any:
    """Zeros like the tree."""
    return jax.tree.map(jnp.zeros_like, tree)


def scaled(tree: Any, weight: Scalar | float) -> Any:
    """The tree times a number, in its own dtypes."""
    return jax.tree.map(lambda x: jnp.asarray(weight).astype(x.dtype) * x, tree)


def plus(tree: Any, other: Any, weight: Scalar | float = 1.0) -> Any:
    """tree + weight other."""
    return jax.tree.map(jnp.add, tree, scaled(other, weight))


def wide(tree: Any) -> Any:
    """The widest dtype of a tree's floating arrays, float32 at least."""
    bits = max(jnp.finfo(x.dtype).bits for x in jax.tree.leaves(tree))
    return jnp.float64 if bits > 32 else jnp.float32


def split(tree: Any) -> tuple[Any, Any]:
    """The floating arrays of a tree, and the others: None stands for those left out."""
    moves = jax.tree.map(lambda x: jnp.issubdtype(x.dtype, jnp.floating), tree)
    moving = jax.tree.map(lambda x, keep: x if keep else None, tree, moves)
    fixed = jax.tree.map(lambda x, leave: None if leave else x, tree, moves)
    return moving, fixed


def merge(moving: Any, fixed: Any) -> Any:
    """The tree that `split` took apart."""
    return _both(lambda x, y: y if x is None else x, moving, fixed)


def gradient_of(gradient: Any, tree: Any) -> Any:
    """The gradient of the floating arrays, with float0 zeros for the others, as `jax.vjp` has."""

    def each(g: Any, x: Any) -> Any:
        return np.zeros(jnp.shape(x), jax.dtypes.float0) if g is None and x is not None else g

    return _both(each, gradient, tree)


def _both(function: Callable[[Any, Any], Any], tree: Any, other: Any) -> Any:
    return jax.tree.map(function, tree, other, is_leaf=lambda x: x is None)


def _kick(weight: float, h: Scalar, gamma: Scalar | None) -> Kick:
    share = weight * h
    if gamma is None:
        return Kick(weight, share, share, jnp.ones_like(share))
    half = -gamma.astype(share.dtype) * share / 2
    return Kick(weight, share, jnp.exp(half) * share, jnp.exp(2 * half))


def _like(name: str, tree: Any, other: str, wanted: Any) -> Any:
    """`tree` in the structure, shapes and dtypes of `wanted`."""
    if isinstance(tree, list) and isinstance(wanted, tuple):
        tree = tuple(tree)
    _arguments.like(name, tree, other, wanted, dtype=False)
    return jax.tree.map(lambda x, y: _checks.real(name, x).astype(y.dtype), tree, wanted)


def _scalar(potential: Potential) -> Potential:
    """`potential`, with an error unless it gives one real number."""
    _checks.function("potential", potential)

    def call(params: Any, position: Any, given: Any) -> Scalar:
        value = _checks.real(
            "potential(params, position, input)", potential(params, position, given)
        )
        if value.shape != ():
            raise ValueError(
                f"potential(params, position, input) must be a scalar, got shape {value.shape}"
            )
        return value

    return call
