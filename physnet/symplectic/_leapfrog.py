"""Leapfrog trajectories, and their inverse, by plain loops that JAX differentiates."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet.symplectic import _arguments, _schedule


def step(
    force: _arguments.Force,
    state: _arguments.State,
    params: Any,
    input: Any,
    step_size: Float[Array, ""],
    *,
    scheme: _schedule.Scheme = "drift-kick-drift",
    order: int = 2,
    friction: Float[Array, ""] | None = None,
) -> _arguments.State:
    """One step M_h of `leapfrog`, without its checks; M_{-h} inverts it.

    Every kick of the step sees the same `input`. With friction a kick of share a (of the step
    size h) is p <- c^a p + c^(a/2) a h F(q), c = exp(-friction h), so that a whole step has
    DM^T J DM = c J.
    """
    return through(
        _schedule.stages(scheme, order), force, state, params, input, step_size, friction=friction
    )


def through(
    stages: tuple[_schedule.Stage, ...],
    force: _arguments.Force,
    state: _arguments.State,
    params: Any,
    input: Any,
    step_size: Float[Array, ""],
    *,
    friction: Float[Array, ""] | None,
    velocity: _arguments.Force | None = None,
) -> _arguments.State:
    """One step, of these stages."""
    position, momentum = state
    pull = None
    for kind, weight in stages:
        share = weight * step_size
        if kind == "drift":
            speed = velocity(params, momentum, input) if velocity else momentum
            position, pull = _schedule.drift(position, speed, share), None
        else:
            pull = force(params, position, input) if pull is None else pull
            momentum = _schedule.kick(momentum, pull, share, friction)
    return position, momentum


def leapfrog(
    force: _arguments.Force,
    state: _arguments.State,
    params: Any,
    inputs: Any = None,
    *,
    steps: int,
    step_size: ArrayLike | Float[Array, ""],
    scheme: _schedule.Scheme = "drift-kick-drift",
    order: int = 2,
    friction: ArrayLike | Float[Array, ""] = 0.0,
    return_trajectory: bool = False,
) -> Any:
    r"""A trajectory of H(q, p) = |p|^2/2 + V(q), by a symmetric symplectic method.

    With h the step size, u_k the input of step k and F = -dV/dq the force, order 2 is

        drift-kick-drift:  q += h/2 p;           p += h F(q, u_k);  q += h/2 p
        kick-drift-kick:   p += h/2 F(q, u_k);   q += h p;          p += h/2 F(q, u_k)

    the one with one force a step, the other with two (its ends see different inputs). Order 4
    composes three such steps of w h, (1 - 2w) h, w h, w = 1/(2 - 2^(1/3)). Both are symplectic,
    symmetric (M_{-h} is the inverse of M_h) and reversible (flipping p inverts them, where the
    inputs come in reverse). The force need not be a gradient for the latter two.

    With friction gamma, dp/dt = F - gamma p: a kick of share a becomes

        p <- c^a p + c^(a/2) a h F(q, u_k),    c = exp(-gamma h)

    which damps for half its time, kicks and damps again: symmetric still, of the same order, and
    conformally symplectic, DM^T J DM = c J for a step. Its inverse divides by c.

    Args:
        force: force(params, position, input) -> like position.
        state: (position, momentum), arrays or alike trees of arrays; unit mass.
        params: A tree, handed to the force.
        inputs: A tree of arrays with leading axis `steps`, or None: the force gets None then.
        steps: How many.
        step_size: h, in units of time; may be negative.
        scheme: "drift-kick-drift" or "kick-drift-kick".
        order: 2 or 4.
        friction: gamma, in units of 1/time.
        return_trajectory: Also return the states after each step, stacked.

    Returns:
        The state after `steps` steps, in the dtypes given; or (state, trajectory), with the arrays
        of the trajectory (steps, ...). Differentiable in any mode, at a memory of O(steps).

    Raises:
        ValueError: Shapes that do not fit, steps < 1, a step size known not to be finite.
        TypeError: A state that is not floating; a force that is not like the position.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> spring = lambda k, q, _: -k * q
        >>> q, p = leapfrog(spring, (jnp.ones(1), jnp.zeros(1)), 1.0, steps=100, step_size=0.1)
        >>> print(f"{float(q[0]):.2f} {float(jnp.cos(10.0)):.2f}")
        -0.84 -0.84

    References:
        Hairer, Lubich and Wanner, "Geometric numerical integration", Springer 2006.
        Yoshida, Phys. Lett. A 150 (1990) 262 (composition to order 4).
        McLachlan and Perlmutter, J. Geom. Phys. 39 (2001) 276 (conformal Hamiltonian systems).
    """
    state = _arguments.state(state)
    steps = _arguments.per_step(inputs, steps)
    h = _arguments.number("step_size", step_size, state)
    gamma = _arguments.damping(friction, state)
    force = _arguments.checked(force)
    _schedule.stages(scheme, order)

    def body(state, given):
        state = step(force, state, params, given, h, scheme=scheme, order=order, friction=gamma)
        return state, (state if return_trajectory else None)

    state, trajectory = lax.scan(body, state, inputs, length=steps)
    return (state, trajectory) if return_trajectory else state


def energy(
    potential: Callable[[Any, Any, Any], Float[Array, ""]],
    state: _arguments.State,
    params: Any,
    input: Any = None,
) -> Float[Array, ""]:
    """The Hamiltonian |p|^2/2 + V(q).

    Args:
        potential: potential(params, position, input) -> scalar.
        state: (position, momentum), arrays or alike trees of arrays; unit mass.
        params: A tree, handed to the potential.
        input: One step's input, handed to the potential.

    Returns:
        A scalar, in the units of the potential.

    Example:
        >>> import jax.numpy as jnp
        >>> spring = lambda k, q, _: k * jnp.sum(q**2) / 2
        >>> print(energy(spring, (jnp.array([3.0]), jnp.array([4.0])), 1.0))
        12.5
    """
    position, momentum = _arguments.state(state)
    _checks.function("potential", potential)
    value = _checks.real("potential(params, position, input)", potential(params, position, input))
    if value.shape != ():
        raise ValueError(
            f"potential(params, position, input) must be a scalar, got shape {value.shape}"
        )
    squares = [jnp.sum(jnp.square(p)).astype(value.dtype) for p in jax.tree.leaves(momentum)]
    return sum(squares, jnp.zeros_like(value)) / 2 + value
