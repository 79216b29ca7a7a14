"""Trajectories of floats, and of lattice points, on which every stage is undone exactly.

A stage adds to one of position and momentum what depends on the other alone. On the lattice what
it adds is a rounded, odd function of the step size h, and sums are exact: so the trajectory of -h,
with inputs and stages in reverse, returns to the same bits. It does so if the force of equal
positions is equal to the bit in both directions, which is why it stands in a place of its own.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.core import Tracer
from jax.extend import core
from jaxtyping import Array, Float

from physnet import _varying
from physnet.symplectic import _apart, _info, _lattice, _leapfrog, _schedule


class Plan(NamedTuple):
    """What is static in a trajectory; force(captured, params, position, input).

    The stages are in the order of the plan: of one backwards, from the last to the first.
    """

    force: Callable[[Any, Any, Any, Any], Any]
    steps: int
    stages: tuple[_schedule.Stage, ...]
    lattice: _lattice.Lattice | None
    track: bool
    backwards: bool  # from the last input to the first, with -h
    dtypes: Any  # of the positions
    velocity: Callable[[Any, Any, Any, Any], Any] | None = None  # of a momentum; None: itself


class Operands(NamedTuple):
    """What is traced in a trajectory, and has gradients."""

    captured: Any
    params: Any
    inputs: Any
    step_size: Float[Array, ""]
    friction: Float[Array, ""] | None


def closed(force: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], Any]:
    """`force` with what it closes over as a first argument, and that.

    In a shard_map what is captured will vary as the arguments do. Known constants then stay where
    they are: what the trace made of them has the types of constants, which do not.
    """
    jaxpr, shape = jax.make_jaxpr(force, return_shape=True)(*arguments)
    sharded = bool(_varying.axes(arguments))
    known = [sharded and not isinstance(x, Tracer) for x in jaxpr.consts]

    def call(captured: Any, *arguments: Any) -> Any:
        rest = iter(captured)
        consts = [x if k else next(rest) for x, k in zip(jaxpr.consts, known, strict=True)]
        whole = core.jaxpr_as_fun(core.ClosedJaxpr(jaxpr.jaxpr, consts))
        return jax.tree.unflatten(jax.tree.structure(shape), whole(*jax.tree.leaves(arguments)))

    return call, [x for x, k in zip(jaxpr.consts, known, strict=True) if not k]


def values(plan: Plan, state: Any) -> Any:
    """A state as floats."""
    if plan.lattice is None:
        return state
    lattice = plan.lattice
    return tuple(
        jax.tree.map(lambda n, t: _lattice.read(lattice, n, t), part, plan.dtypes) for part in state
    )


def wide(plan: Plan, points: Any) -> Any:
    """A position or a momentum in the precision of the arithmetic."""
    if plan.lattice is None:
        return points
    lattice = plan.lattice
    return jax.tree.map(
        lambda n, t: _lattice.read(lattice, n, _lattice.wide(t)), points, plan.dtypes
    )


def rate(plan: Plan, operands: Operands, function: Any, points: Any, given: Any) -> Any:
    """The force at a position or the velocity of a momentum, from its own place in the program."""
    arguments = (operands.captured, operands.params, *values(plan, (points,)), given)
    if plan.lattice is None:
        return function(*arguments)
    return _apart.apart(function, *arguments)


def add(plan: Plan, points: Any, share: Float[Array, ""], rate: Any) -> Any:
    """Lattice points + share * rate, and how far out these are."""
    lattice = plan.lattice
    assert lattice is not None
    far = jnp.zeros((), jnp.float32)
    leaves, structure = jax.tree.flatten(points)
    for i, (n, v) in enumerate(zip(leaves, jax.tree.leaves(rate), strict=True)):
        v = v.astype(_lattice.wide(v.dtype))
        x = share.astype(v.dtype) * v
        if plan.track:
            far = jnp.maximum(far, largest(_lattice.read(lattice, n, x.dtype) + x))
        leaves[i] = n + _lattice.counts(lattice, x)
    return jax.tree.unflatten(structure, leaves), far


def largest(tree: Any) -> Float[Array, ""]:
    """max |x| over all arrays; NaN if there is one."""
    each = [jnp.max(jnp.abs(x), initial=0).astype(jnp.float32) for x in jax.tree.leaves(tree)]
    return jnp.max(jnp.stack(each))


def advance(plan: Plan, operands: Operands, state: Any, given: Any, h: Float[Array, ""]) -> Any:
    """One step on the lattice: the state, and how far out it went."""
    position, momentum = state
    far, pull = [], None
    for kind, weight in plan.stages:
        share = weight * h
        if kind == "drift":
            speed, pull = wide(plan, momentum), None
            if plan.velocity is not None:
                speed = rate(plan, operands, plan.velocity, momentum, given)
            position, reached = add(plan, position, share, speed)
        else:
            if pull is None:
                pull = rate(plan, operands, plan.force, position, given)
            momentum, reached = add(plan, momentum, share, pull)
        far.append(reached)
    return (position, momentum), jnp.max(jnp.stack(far))


def signed(plan: Plan, operands: Operands) -> Float[Array, ""]:
    """The step size in the direction of the plan."""
    return -operands.step_size if plan.backwards else operands.step_size


def run(plan: Plan, operands: Operands, state: Any) -> tuple[Any, _info.Info]:
    """The last state, floats or bits, and how it went."""
    h = signed(plan, operands)
    start, ceiling = state, jnp.full((), jnp.inf, jnp.float32)
    if plan.lattice is not None:
        narrow = min(_lattice.limit(plan.lattice, t) for t in jax.tree.leaves(plan.dtypes))
        ceiling = jnp.full((), narrow, jnp.float32)

    def bound(function: Any) -> Any:
        return function and (lambda _, x, u: function(operands.captured, operands.params, x, u))

    def body(carry, given):
        state, far = carry
        if plan.lattice is not None:
            state, reached = advance(plan, operands, state, given, h)
        else:
            force, velocity = bound(plan.force), bound(plan.velocity)
            state = _leapfrog.through(
                *(plan.stages, force, state, None, given, h),
                friction=operands.friction,
                velocity=velocity,
            )
            reached = largest(state) if plan.track else far
        return (state, jnp.maximum(far, reached)), None

    far = largest(values(plan, state))
    (state, far), _ = lax.scan(
        body, (state, far), operands.inputs, length=plan.steps, reverse=plan.backwards
    )
    return state, _info.Info(far, ceiling, _info.checksum(start), _info.checksum(state))
