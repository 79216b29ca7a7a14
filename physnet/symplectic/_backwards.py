"""Gradients of a trajectory from its last state alone, the others being rebuilt on the way back."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, UInt32

from physnet.symplectic import _apart, _info, _lattice, _schedule, _trajectory
from physnet.symplectic._trajectory import Operands, Plan


class Residuals(NamedTuple):
    """What the forward pass leaves: none of it grows with the number of steps."""

    operands: Operands
    state: Any  # the last, floats or bits
    start: UInt32[Array, ""]
    token: Any  # a number of each array at the start


class Floating:
    """The leaves of a tree that have gradients, taken out and put back."""

    def __init__(self, tree: Any):
        self.leaves, self.structure = jax.tree.flatten(tree)
        self.where = [i for i, x in enumerate(self.leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]

    def take(self) -> list[Array]:
        return [self.leaves[i] for i in self.where]

    def put(self, values: Any) -> Any:
        leaves = list(self.leaves)
        for i, x in zip(self.where, values, strict=True):
            leaves[i] = x
        return jax.tree.unflatten(self.structure, leaves)

    def cotangent(self, values: Any) -> Any:
        """A tree of cotangents: `values`, in the dtypes of the leaves, and float0 elsewhere."""
        leaves: list[Any] = [np.zeros(x.shape, jax.dtypes.float0) for x in self.leaves]
        for i, x in zip(self.where, values, strict=True):
            leaves[i] = x.astype(self.leaves[i].dtype)
        return jax.tree.unflatten(self.structure, leaves)


def backward(plan: Plan, kept: Residuals, cotangent: Any) -> tuple[Operands, Any]:
    """Cotangents of the operands, and of the position and momentum at the start."""
    kept = jax.tree.map(jnp.asarray, kept)  # constants come as other types
    operands = kept.operands
    constant = Floating((operands.captured, operands.params))
    sums = [jnp.zeros_like(x, dtype=_lattice.wide(x.dtype)) for x in constant.take()]
    if plan.lattice is not None:
        cotangent = jax.tree.map(lambda g: g.astype(_lattice.wide(g.dtype)), cotangent)
    numbers = jax.tree.map(jnp.zeros_like, (operands.step_size, operands.friction))

    def body(carry, given):
        own = Floating(given)
        of_given = [jnp.zeros_like(x, dtype=_lattice.wide(x.dtype)) for x in own.take()]
        for kind, weight in reversed(plan.stages):
            if kind == "drift" and plan.velocity is None:
                carry = _undrift(plan, operands, weight, carry)
                continue
            carry, more = _unkick(plan, operands, weight, carry, given, drift=kind == "drift")
            of_given = jax.tree.map(jnp.add, of_given, more)
        return carry, [x.astype(y.dtype) for x, y in zip(of_given, own.take(), strict=True)]

    carry = (kept.state, cotangent, sums, numbers)
    (start, cotangent, sums, numbers), of_inputs = lax.scan(
        body, carry, operands.inputs, length=plan.steps, reverse=not plan.backwards
    )
    found = (sums, of_inputs, numbers, cotangent)
    if plan.lattice is not None:
        found = _arrived(found, _info.checksum(start) == kept.start)
        found, _ = _once(found, (kept.operands, kept.token))
    sums, of_inputs, (h, friction), cotangent = found
    captured, params = constant.cotangent(sums)
    of_inputs = Floating(operands.inputs).cotangent(of_inputs)
    return Operands(captured, params, of_inputs, h, friction), cotangent


def _undrift(plan: Plan, operands: Operands, weight: float, carry: Any) -> Any:
    (position, momentum), (of_q, of_p), sums, (of_h, of_friction) = carry
    share = weight * _trajectory.signed(plan, operands)
    rate = _trajectory.wide(plan, momentum)
    if plan.lattice is None:
        position = _schedule.drift(position, momentum, -share)
    else:
        position, _ = _trajectory.add(plan, position, -share, rate)
    zero = jax.tree.map(jnp.zeros_like, rate)
    _, back = jax.vjp(lambda p, s: _schedule.drift(zero, p, s), rate, share)
    more, of_share = back(of_q)
    of_h = of_h + _scaled(plan, weight, of_share)
    return (
        (position, momentum),
        (of_q, jax.tree.map(jnp.add, of_p, more)),
        sums,
        (of_h, of_friction),
    )


def _unkick(
    plan: Plan, operands: Operands, weight: float, carry: Any, given: Any, *, drift: bool = False
) -> tuple[Any, list[Array]]:
    """Undoes a kick by the force or, with `drift`, a drift by the velocity of the momentum."""
    (still, moved), (of_still, of_moved), sums, (of_h, of_friction) = carry
    function: Any = plan.velocity if drift else plan.force
    friction = None if drift else operands.friction
    if drift:
        still, moved, of_still, of_moved = moved, still, of_moved, of_still
    share = weight * _trajectory.signed(plan, operands)
    arguments: Any = (operands.captured, operands.params)
    (here,) = _trajectory.values(plan, (still,))
    if plan.lattice is not None:
        # The derivative may compute the force in another way: what is undone has its own.
        undone = _trajectory.rate(plan, operands, function, still, given)
        moved, _ = _trajectory.add(plan, moved, -share, undone)
        arguments, here, given, of_moved = _apart.fence((arguments, here, given, of_moved))
    inner, own = Floating(arguments), Floating(given)
    rate, back = jax.vjp(
        lambda a, x, u: function(*inner.put(a), x, own.put(u)), inner.take(), here, own.take()
    )
    if plan.lattice is None:
        moved = _schedule.kick(moved, rate, -share, friction)
    before = _trajectory.wide(plan, moved)
    wide = jax.tree.map(lambda f, p: f.astype(p.dtype), rate, before)
    _, back_kick = jax.vjp(_schedule.kick, before, wide, share, friction)
    of_moved, of_wide, of_share, more_friction = back_kick(of_moved)
    of_rate = jax.tree.map(lambda g, f: g.astype(f.dtype), of_wide, rate)
    of_inner, more, of_given = back(of_rate)
    sums = [x + y.astype(x.dtype) for x, y in zip(sums, of_inner, strict=True)]
    of_still = jax.tree.map(lambda x, y: x + y.astype(x.dtype), of_still, more)
    of_h = of_h + _scaled(plan, weight, of_share)
    if friction is not None:
        of_friction = of_friction + more_friction
    of_given = [y.astype(_lattice.wide(y.dtype)) for y in of_given]
    if drift:
        still, moved, of_still, of_moved = moved, still, of_moved, of_still
    return ((still, moved), (of_still, of_moved), sums, (of_h, of_friction)), of_given


def _scaled(plan: Plan, weight: float, of_share: Array) -> Array:
    return (-weight if plan.backwards else weight) * of_share


def _arrived(tree: Any, right: Bool[Array, ""]) -> Any:
    """NaN unless the way back ended at the bits of the start."""
    return jax.tree.map(lambda x: jnp.where(right, x, jnp.full_like(x, jnp.nan)), tree)


@jax.custom_jvp
def _once(tree: Any, token: Any) -> Any:
    """The identity, which has no derivative: rounding would make it silently wrong."""
    return tree, token


@_once.defjvp
def _once_jvp(primals, tangents):
    raise NotImplementedError(
        "a trajectory on a lattice has first derivatives alone: take lattice=None for higher ones"
    )
