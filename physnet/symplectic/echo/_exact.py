"""The exact echo: a tangent carried along the time-reversed flow is the adjoint."""

from typing import Any

import jax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet.symplectic import _arguments, _schedule
from physnet.symplectic.echo import _problem


def gradient(
    potential: _problem.Potential,
    state: _arguments.State,
    params: Any,
    inputs: Any = None,
    *,
    final_cotangent: Any,
    steps: int,
    step_size: ArrayLike | Float[Array, ""],
    cotangents: Any = None,
    final_state: _arguments.State | None = None,
    scheme: _schedule.Scheme = "drift-kick-drift",
    order: int = 2,
    friction: ArrayLike | Float[Array, ""] = 0.0,
) -> tuple[Any, Any, Any]:
    r"""The gradient of a loss on a Hamiltonian trajectory, by one echo, in memory free of `steps`.

    The trajectory is `symplectic.leapfrog` with the force -dV/dq. Flip the final momentum: the same
    leapfrog then leads back. A small deviation v = (v_q, v_p) of that way back is the adjoint with
    its halves exchanged (M is symplectic: DM^T J DM = J),

        v_q = dL/dp,   v_p = dL/dq,        started at v = (g_p, g_q) of the final cotangent,

    and each kick of impulse w met on the way, at the position q, gives

        dL/dtheta -= w (d/dv) dV/dtheta (q; v_q),      dL/du_k -= w (d/dv) dV/du (q; v_q)

    with d/dv the derivative along v_q. A loss that reads every position nudges: v_p += g_k after
    step k. Friction c = exp(-gamma h) makes the echo grow by 1/c a step; the deviation is
    multiplied by c, kick by kick, which keeps it the adjoint.

    No state is stored: the way back runs in floating point, which is exact to rounding for as long
    as rounding does not grow (a chaotic flow, or friction with gamma * time of more than about 10,
    asks for float64, or for `symplectic.reversible_scan` on a lattice).

    Args:
        potential: potential(params, position, input) -> scalar, in units of energy.
        state: The initial (position, momentum), arrays or alike trees of arrays; unit mass.
        params: A tree, handed to the potential. Arrays that are not floating are constants.
        inputs: A tree of arrays with leading axis `steps`, or None.
        final_cotangent: Derivatives of the loss in the final (position, momentum), like `state`.
            None is 0, with cotangents.
        steps: How many. Static.
        step_size: h, in units of time.
        cotangents: Derivatives of the loss in the position after each step, (steps, ...); they add
            up with final_cotangent, which is of the same last position.
        final_state: Where the trajectory ends, if that is known: saves running it again.
        scheme, order, friction: As in `symplectic.leapfrog`.

    Returns:
        (grad_params, grad_state, grad_inputs), like params, state and inputs: those of `jax.grad`
        through the same leapfrog. float0 zeros stand for arrays that are not floating.

    Raises:
        ValueError: Shapes that do not fit, a potential that is not a scalar, steps < 1.
        TypeError: Arrays that are not floating, or trees that are not alike.

    Example:
        A spring, L = q after 100 steps, against its closed form d/dk cos(t sqrt k):

        >>> import jax.numpy as jnp
        >>> spring = lambda k, q, _: k * jnp.sum(q**2) / 2
        >>> start = (jnp.ones(1), jnp.zeros(1))
        >>> dk, (dq, dp), _ = gradient(
        ...     spring, start, 1.0, final_cotangent=start, steps=1000, step_size=0.01)
        >>> print(f"{dk:.2f} {-5 * jnp.sin(10.0):.2f}")
        2.72 2.72

    References:
        Pourcel, Basu, Ernoult & Gilra 2025, arXiv 2506.05259 (recurrent Hamiltonian echo learning).
        Lopez-Pastor & Marquardt, Phys. Rev. X 13 (2023) 031020 (Hamiltonian echo backpropagation).
    """
    problem = _problem.pose(
        potential,
        state,
        params,
        inputs,
        final_cotangent,
        steps=steps,
        step_size=step_size,
        cotangents=cotangents,
        final_state=final_state,
        scheme=scheme,
        order=order,
        friction=friction,
    )

    def body(carry: Any, given: Any, nudge: Any) -> Any:
        (position, momentum), (v_position, v_momentum), total = carry
        if nudge is not None:
            v_momentum = _problem.plus(v_momentum, nudge)
        drives = _problem.zeros(given[0])
        for kind, kick in problem.stages:
            if kind == "drift":
                position = _schedule.drift(position, momentum, kick.share)
                v_position = _schedule.drift(v_position, v_momentum, kick.share)
                continue

            def slopes(position: Any) -> Any:
                return problem.slopes(problem.params, position, given)

            (_, slope, _), bends = jax.jvp(slopes, (position,), (v_position,))
            total = _problem.plus(total, bends[0], -kick.impulse)
            drives = _problem.plus(drives, bends[2], -kick.impulse)
            momentum = problem.kick(momentum, slope, kick)
            v_momentum = _problem.plus(v_momentum, bends[1], -kick.impulse)
            v_position = _problem.scaled(v_position, kick.decay)
        return ((position, momentum), (v_position, v_momentum), total), drives

    start = (problem.state, problem.final[::-1], _problem.zeros(problem.params))
    (_, v, total), drives = problem.backwards(body, start)
    return (
        _problem.gradient_of(total, params),
        v[::-1],
        _problem.gradient_of(drives, inputs),
    )
