"""Trajectories whose gradients need no stored states."""

from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _varying
from physnet.symplectic import _arguments, _backwards, _lattice, _schedule, _trajectory
from physnet.symplectic._lattice import Lattice, LatticeState


def reversible_scan(
    force: _arguments.Force,
    state: Any,
    params: Any,
    inputs: Any = None,
    *,
    steps: int,
    step_size: ArrayLike | Float[Array, ""],
    lattice: Lattice | None = None,
    scheme: _schedule.Scheme = "drift-kick-drift",
    order: int = 2,
    friction: ArrayLike | Float[Array, ""] = 0.0,
    return_info: bool = False,
) -> Any:
    r"""The trajectory of `leapfrog`, whose backward pass rebuilds the states from the last one.

    Nothing is stored but the last state, so the memory of a gradient does not grow with the number
    of steps (the inputs and their cotangents excepted, which have one entry a step). The backward
    pass costs the force once for the rebuilding and once more, with its derivative, for the
    cotangents; without a lattice the two share one evaluation.

    Without a lattice the states come back up to rounding, which a chaotic system blows up by its
    Lyapunov exponent and friction by exp(gamma t), its inverse dividing the momentum by
    exp(-gamma h) at each step: gradients are right while (1e-7 in float32) exp(t (lyapunov +
    gamma)) is small, and are silently wrong after that. On a lattice the states come back to the
    bit at any length. The gradient is that of the smooth map, taken at the states on the lattice
    (rounding counts as the identity), and is NaN if ever the way back does not end at the checksum
    of the start. Friction on a lattice is refused: a map that shrinks volumes is not invertible on
    a finite set, and each step would lose log2(e) gamma h bits of every momentum.

    What guarantees the bits: sums of integers are exact, rounding is odd, and the force stands in
    a place of its own in the compiled program, with all that it reads (params, inputs, what it
    closes over) as an operand, so that both directions compute it alike. Shapes must be equal: a
    batch of another size, `vmap` included, may take other kernels. A force whose kernels are not
    deterministic (atomic sums on a GPU) breaks it; checksums notice.

    Args:
        force: force(params, position, input) -> like position. May close over arrays, which have
            gradients too. Randomness (dropout) comes from keys in `inputs`: the way back sees the
            same key at the same step.
        state: (position, momentum), arrays or alike trees of arrays; or, with a lattice, what
            `lattice.quantise` makes of them, as a whole or one by one.
        params: A tree, handed to the force.
        inputs: A tree of arrays with leading axis `steps`, keys and integers too, or None.
        steps: How many.
        step_size: h, in units of time; may be negative.
        lattice: Compute on this lattice.
        scheme: "drift-kick-drift" or "kick-drift-kick".
        order: 2 or 4.
        friction: gamma, in units of 1/time; without a lattice only.
        return_info: Also return an `Info`, for `check`.

    Returns:
        The state after `steps` steps, in the form and the dtypes given; floats given with a lattice
        are quantised first, and returned as floats. Or (state, info). Differentiable in reverse
        mode with respect to state, params, inputs, step_size, friction and captured arrays; a
        second time without a lattice alone; forward mode raises.

    Raises:
        ValueError: Shapes that do not fit, steps < 1, a step size known not to be finite,
            friction with a lattice.
        TypeError: A state that is not floating, or of another lattice; a force that is not like
            the position.
        NotImplementedError: A second derivative on a lattice.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet import symplectic
        >>> well = lambda k, q, _: k * (q - q**3)
        >>> start = symplectic.Lattice().quantise((jnp.array([0.1, 0.2]), jnp.zeros(2)))
        >>> options = dict(steps=1000, step_size=0.1, lattice=symplectic.Lattice())
        >>> there = symplectic.reversible_scan(well, start, 1.0, **options)
        >>> back = symplectic.inverse(well, there, 1.0, **options)
        >>> print(*(int((a != b).sum()) for a, b in zip(back.bits, start.bits)))
        0 0

    References:
        Levesque and Verlet, J. Stat. Phys. 72 (1993) 519 (bit-reversible integers).
        Rein and Tamayo, MNRAS 473 (2018) 3351 (JANUS).
        Gomez, Ren, Urtasun and Grosse, NeurIPS 2017, arXiv:1707.04585 (reversible networks).
    """
    return _trajectory_of(force, state, params, inputs, backwards=False, steps=steps,
        step_size=step_size, lattice=lattice, scheme=scheme, order=order, friction=friction,
        return_info=return_info)  # fmt: skip


def inverse(
    force: _arguments.Force,
    state: Any,
    params: Any,
    inputs: Any = None,
    *,
    steps: int,
    step_size: ArrayLike | Float[Array, ""],
    lattice: Lattice | None = None,
    scheme: _schedule.Scheme = "drift-kick-drift",
    order: int = 2,
    friction: ArrayLike | Float[Array, ""] = 0.0,
    return_info: bool = False,
) -> Any:
    """The state from which `reversible_scan` (or `leapfrog`) came to this one.

    The trajectory of -h, from the last input to the first: up to rounding without a lattice, to the
    bit on one. The way there and the way back may be in one `jit`, each in one of its own, or in
    none, on the same device and with the same shapes; a state that one batch size led to may not
    come back in another.

    Args:
        force: As for `reversible_scan`, and so all below.
        state: What it returned.
        params: A tree.
        inputs: In the order of the forward steps.
        steps: How many.
        step_size: h of the forward steps.
        lattice: The same.
        scheme: The same.
        order: The same.
        friction: The same; its inverse divides the momentum by exp(-gamma h) a step.
        return_info: Also return an `Info`: its `end` is the `start` of that of the way there.

    Returns:
        The state in the form given, or (state, info); differentiable like `reversible_scan`.

    Raises:
        ValueError: As `reversible_scan`.
        TypeError: As `reversible_scan`.

    Example:
        >>> import jax.numpy as jnp
        >>> from physnet import symplectic
        >>> spring = lambda k, q, _: -k * q
        >>> options = dict(steps=50, step_size=0.1, friction=0.1)
        >>> there = symplectic.leapfrog(spring, (jnp.ones(1), jnp.zeros(1)), 1.0, **options)
        >>> q, p = symplectic.inverse(spring, there, 1.0, **options)
        >>> print(f"{q[0]:.4f} {abs(p[0]):.4f}")
        1.0000 0.0000
    """
    return _trajectory_of(force, state, params, inputs, backwards=True, steps=steps,
        step_size=step_size, lattice=lattice, scheme=scheme, order=order, friction=friction,
        return_info=return_info)  # fmt: skip


def _trajectory_of(
    force, state, params, inputs, *, backwards, steps, step_size, lattice, scheme, order, friction,
    return_info,
):  # fmt: skip
    value, bits, form = taken(state, lattice)
    steps = _arguments.per_step(inputs, steps)
    h = _arguments.number("step_size", step_size, value)
    gamma = _arguments.damping(friction, value)
    if lattice is not None and gamma is not None:
        raise ValueError(
            f"friction must be 0 on a lattice, where a contraction has no inverse, got {friction}"
        )
    params, inputs = jax.tree.map(jnp.asarray, (params, inputs))  # numbers stay weakly typed
    value, bits, params, inputs, h, gamma = _varying.alike((value, bits, params, inputs, h, gamma))
    first = jax.tree.map(lambda x: x[0], inputs)
    call, captured = _trajectory.closed(_arguments.checked(force), params, value[0], first)
    captured = _varying.alike([jnp.asarray(x) for x in captured], value)
    plan = _trajectory.Plan(
        force=call,
        steps=steps,
        stages=_schedule.stages(scheme, order),
        lattice=lattice,
        track=return_info,
        backwards=backwards,
        dtypes=jax.tree.map(lambda x: x.dtype, value[0]),
    )
    operands = _trajectory.Operands(captured, params, inputs, h, gamma)
    return finished(plan, operands, value, bits, form)


def finished(plan: _trajectory.Plan, operands: Any, value: Any, bits: Any, form: Any) -> Any:
    """The state after a trajectory, in the form given, and where it is tracked its info."""
    value, bits, info = _differentiable(plan)(operands, value, bits)
    state = form(value, jax.lax.stop_gradient(bits))
    return (state, jax.lax.stop_gradient(info)) if plan.track else state


def taken(state: Any, lattice: Lattice | None) -> tuple[Any, Any, Any]:
    """Values and bits of (position, momentum), and what makes a state like the given one."""
    if lattice is None:
        return _arguments.state(state), None, lambda value, bits: value
    pair = isinstance(state, (tuple, list)) and len(state) == 2
    if isinstance(state, LatticeState):
        whole, form = state, LatticeState
    elif pair and any(isinstance(part, LatticeState) for part in state):
        for part in state:
            _lattice.check_state(lattice, part)
        whole = LatticeState(*((a, b) for a, b in zip(*state, strict=True)))
        form = lambda value, bits: tuple(map(LatticeState, value, bits))  # noqa: E731
    else:
        whole, form = lattice.quantise(_arguments.state(state)), lambda value, bits: value
    _lattice.check_state(lattice, whole)
    value = _arguments.state(whole.value)
    _arguments.like("state.bits", whole.bits, "state.value", value, dtype=False)
    return value, whole.bits, form


def _differentiable(plan: _trajectory.Plan) -> Any:
    """(operands, value, bits) -> (value, bits, info), with its derivative."""

    def forward(operands, value, bits):
        state = value if plan.lattice is None else bits
        token = [x.reshape(-1)[:1] for x in jax.tree.leaves(value)]
        state, info = _trajectory.run(plan, operands, state)
        if plan.track:  # bits cannot tell of a NaN at the start
            info = info._replace(largest=jnp.maximum(info.largest, _trajectory.largest(value)))
        value = _trajectory.values(plan, state)
        kept = _backwards.Residuals(operands, state, info.start, token)
        return (value, None if plan.lattice is None else state, info), kept

    def backward(kept, cotangents):
        operands, value = _backwards.backward(plan, kept, cotangents[0])
        dtypes = (plan.dtypes, plan.dtypes)
        value = jax.tree.map(lambda x, t: x.astype(t), value, dtypes)
        bits = None
        if plan.lattice is not None:
            bits = _backwards.Floating(kept.state)
            bits = bits.cotangent([jnp.zeros_like(x) for x in bits.take()])
        return operands, value, bits

    run = jax.custom_vjp(lambda *arguments: forward(*arguments)[0])
    run.defvjp(forward, backward)
    return run
