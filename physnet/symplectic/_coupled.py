"""Reversible residual networks: two halves of a state that add functions of one another."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import _varying
from physnet.symplectic import _arguments, _reversible, _trajectory
from physnet.symplectic._lattice import Lattice

Halves = tuple[Float[Array, "..."] | Any, Float[Array, "..."] | Any]  # or trees of such arrays


def coupled_scan(
    kick: _arguments.Force,
    drift: _arguments.Force,
    state: Halves | Any,
    params: Any,
    inputs: Any = None,
    *,
    steps: int,
    lattice: Lattice | None = None,
    backwards: bool = False,
    return_info: bool = False,
) -> Any:
    r"""A stack of reversible layers, whose backward pass rebuilds their states from the last one.

        p <- p + kick(params, q, u_k);   q <- q + drift(params, p, u_k)        k = 1, ..., steps

    A step of symplectic Euler where `kick` is -dV/dq and `drift` dT/dp; it is reversible whatever
    they are. With the parameters of each layer in `inputs` this is a reversible residual network,
    whose memory of activations does not grow with its depth. All else is as in `reversible_scan`:
    without a lattice the states come back up to rounding, on one to the bit, and gradients on a
    lattice are those of the smooth map at its states.

    Args:
        kick: kick(params, position, input) -> like position.
        drift: drift(params, momentum, input) -> like momentum.
        state: (position, momentum), arrays or alike trees of arrays; or, with a lattice, what
            `lattice.quantise` makes of them.
        params: A tree, handed to both functions.
        inputs: A tree of arrays with leading axis `steps`, keys and integers too, or None.
        steps: How many.
        lattice: Compute on this lattice.
        backwards: Undo instead: from the state after all steps to that before them.
        return_info: Also return an `Info`, for `check`.

    Returns:
        The state after `steps` steps, in the form and the dtypes given; or (state, info).
        Differentiable as `reversible_scan`.

    Raises:
        ValueError: Shapes that do not fit, steps < 1.
        TypeError: A state that is not floating, or of another lattice; a function whose value is
            not like its argument.
        NotImplementedError: A second derivative on a lattice.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet import symplectic
        >>> layer = lambda _, x, own: jnp.tanh(x @ own)
        >>> weights = jax.random.normal(jax.random.key(0), (100, 8, 8)) / 10
        >>> start = symplectic.Lattice().quantise((jnp.ones(8), jnp.zeros(8)))
        >>> run = jax.jit(lambda state, backwards: symplectic.coupled_scan(
        ...     layer, layer, state, None, weights, steps=100, backwards=backwards,
        ...     lattice=symplectic.Lattice()), static_argnums=1)
        >>> back = run(run(start, False), True)
        >>> print(*(int((a != b).sum()) for a, b in zip(back.bits, start.bits)))
        0 0

    References:
        Gomez, Ren, Urtasun and Grosse, NeurIPS 2017, arXiv:1707.04585 (reversible networks).
    """
    value, bits, form = _reversible.taken(state, lattice)
    steps = _arguments.per_step(inputs, steps)
    params, inputs = jax.tree.map(jnp.asarray, (params, inputs))
    one = _arguments.number("step_size", 1.0, value)
    value, bits, params, inputs, one = _varying.alike((value, bits, params, inputs, one))
    first = jax.tree.map(lambda x: x[0], inputs)
    closed = [
        _trajectory.closed(_arguments.checked(function, name), params, value[0], first)
        for function, name in ((kick, "kick(params, position, input)"),
                               (drift, "drift(params, momentum, input)"))
    ]  # fmt: skip
    (kick_of, by_kick), (drift_of, by_drift) = closed
    captured = _varying.alike(jax.tree.map(jnp.asarray, (by_kick, by_drift)), value)
    plan = _trajectory.Plan(
        force=lambda captured, *rest: kick_of(captured[0], *rest),
        steps=steps,
        stages=(("drift", 1.0), ("kick", 1.0)) if backwards else (("kick", 1.0), ("drift", 1.0)),
        lattice=lattice,
        track=return_info,
        backwards=backwards,
        dtypes=jax.tree.map(lambda x: x.dtype, value[0]),
        velocity=lambda captured, *rest: drift_of(captured[1], *rest),
    )
    operands = _trajectory.Operands(captured, params, inputs, one, None)
    return _reversible.finished(plan, operands, value, bits, form)
