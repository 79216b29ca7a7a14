"""Hamiltonian sequence layers: driven oscillators, and three ways to their gradient.

Shapes: any leading (batch) axes, T time, W width, H oscillators, M units of the coupling.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnet import _checks, _varying
from physnet._dtypes import accurate
from physnet.nn import _oscillators, _rotations
from physnet.nn._oscillators import Gradient as _Gradient
from physnet.nn.layers import linear

Params = dict[str, Any]


def init(
    key: jax.Array,
    width: int,
    *,
    oscillators: int = 64,
    units: int = 0,
    windows: tuple[int, ...] = (0,),
    cycles: float = 12.0,
    coupling: float = 0.02,
) -> Params:
    r"""Parameters of a layer, as float32 arrays.

    An oscillator with a window of n steps starts at a frequency of 1 to `cycles` periods a window
    (a whole number, at random, and four steps a period at least); without one, of 1 to 256 periods
    in 1024 steps.

    Args:
        key: A JAX random key.
        width: W.
        oscillators: H; len(windows) divides it.
        units: M, of the nonlinear coupling; 0 for a linear layer.
        windows: As in `apply`.
        cycles: The most periods in a window at the start.
        coupling: Deviation of the nonlinear coupling C, times sqrt(H). What a strong one adds to
            the force is not windowed: it stays in undamped oscillators, as a random walk.

    Returns:
        frequency (H,), gain (H,), drive (W, H), out (H, W); of a nonlinear layer also
        couple (H, M), sense (W, M), shift (M,).

    Raises:
        ValueError: A number of oscillators that the windows do not divide.
    """
    width, units = (
        _checks.positive_int(name, size, minimum=least)
        for name, size, least in (("width", width, 1), ("units", units, 0))
    )
    oscillators = _checks.positive_int("oscillators", oscillators)
    each = _group(oscillators, windows)
    if not _checks.number("cycles", cycles) > 0:
        raise ValueError(f"cycles must be a number > 0, got {cycles!r}")
    keys = jax.random.split(_checks.key("key", key), 6)

    def normal(index: int, shape: tuple[int, ...]) -> jax.Array:
        return shape[0] ** -0.5 * jax.random.normal(keys[index], shape, jnp.float32)

    span = np.repeat(np.asarray([n or 1024 for n in windows], np.float32), each)
    most = np.where(np.repeat(np.asarray(windows), each) > 0, cycles, span)
    most = np.maximum(np.minimum(most, span / 4), 1.0).astype(np.float32)
    share = jax.random.uniform(keys[0], (oscillators,), jnp.float32)
    omega = 2 * jnp.sin(jnp.pi * jnp.round(most**share) / span)
    params = {
        "frequency": jnp.log(omega / (2 - omega)),
        "gain": -jnp.log(omega * jnp.sqrt(span)),
        "drive": normal(1, (width, oscillators)),
        "out": normal(2, (oscillators, width)),
    }
    if units:
        params["couple"] = coupling * normal(3, (oscillators, units))
        params["sense"] = normal(4, (width, units))
        params["shift"] = 0.5 * jax.random.normal(keys[5], (units,), jnp.float32)
    return params


def positions(
    params: Params,
    x: Float[Array, "*b t w"],
    *,
    windows: tuple[int, ...] = (0,),
    form: _oscillators.Form = "step",
    gradient: _Gradient = "backpropagation",
    epsilon: float | None = None,
) -> Float[Array, "*b t h"]:
    r"""The oscillators' positions q after each step: what `apply` reads.

    Args:
        params, x, windows, form, gradient, epsilon: As in `apply`.

    Returns:
        (..., T, H), of order 1 for inputs of order 1, in the dtype of x (float32 at least).

    Raises:
        ValueError: As `apply`.
    """
    _check(params, x, windows, form, gradient)
    wide = accurate(x.dtype)
    omega = 2 * jax.nn.sigmoid(params["frequency"].astype(wide))
    x = jnp.moveaxis(x, -2, 0).astype(wide)
    drive = linear(x, params["drive"]) * _row(jnp.exp(params["gain"].astype(wide)), x.ndim)
    drive = _windowed(drive, windows)
    if "couple" in params:
        core = {"omega": omega, "couple": params["couple"].astype(wide)}
        inputs = (drive, linear(x, params["sense"]) + _row(params["shift"].astype(wide), x.ndim))
    else:
        core, inputs = {"omega": omega}, (drive,)
    core, inputs = _varying.alike((core, inputs))
    if form == "parallel":
        q = _rotations.trajectory(core["omega"], inputs[0], gradient, epsilon)
    else:
        q = _oscillators.trajectory(core, inputs, gradient, epsilon) * _row(core["omega"], x.ndim)
    return jnp.moveaxis(q, 0, -2)


def apply(
    params: Params,
    x: Float[Array, "*b t w"],
    *,
    windows: tuple[int, ...] = (0,),
    form: _oscillators.Form = "step",
    gradient: _Gradient = "backpropagation",
    epsilon: float | None = None,
) -> Float[Array, "*b t w"]:
    r"""Drive oscillators by a sequence and read their positions: a causal, recurrent layer.

        q'' = -omega^2 dU/dq,     U(q, u) = |q|^2 / 2 - q.d + sum_j log cosh(C^T q + s)_j

    with d = gain (u W_d) and s = u W_s + shift of the input u of the step; the last term is the
    nonlinear layer's. omega < 2 is the frequency in units of the inverse step: q turns by the
    angle 2 arcsin(omega / 2) a step. In Q = q / omega this is the Hamiltonian P^2/2 + U(omega Q),
    taken by drift-kick-drift with h = 1: each kick at the half-step position. So the trajectory is
    reversible, and the gradient can be had by echoes, which keep the inputs and the last state, and
    no others.

    Nothing is damped. An oscillator with a window of n steps is driven by d_t - d_{t-n}: where it
    makes whole periods in n steps, a linear one forgets all before exactly.

    Args:
        params: As `init` returns them.
        x: (..., T, W). bfloat16 drives float32 oscillators.
        windows: Steps, one number for each of as many equal groups of oscillators; 0 for none.
        form: "step" by step, O(T) in depth; "parallel", an associative scan of the linear layer's
            rotations, O(log T) in depth, for GPUs: on CPUs the steps are faster.
        gradient: "backpropagation" through the steps; "echo", exact; "finite", two echoes a
            distance apart (`symplectic.echo`). Both keep inputs instead of states.
        epsilon: Of "finite"; None is automatic, one number for the whole batch.

    Returns:
        (..., T, W), of the dtype of x.

    Raises:
        ValueError: An empty sequence, a width other than that of the parameters, windows that do
            not divide the oscillators, a parallel form of a nonlinear layer, unknown options.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = init(jax.random.key(0), 2, oscillators=4, units=3, windows=(8, 0))
        >>> x = jax.random.normal(jax.random.key(1), (30, 2))
        >>> def slope(gradient):
        ...     def loss(params):
        ...         return jnp.sum(apply(params, x, windows=(8, 0), gradient=gradient) ** 2)
        ...     return jax.jit(jax.grad(loss))(params)["couple"]
        >>> plain, exact, finite = map(slope, ("backpropagation", "echo", "finite"))
        >>> [bool(jnp.allclose(x, plain, rtol=0.05)) for x in (exact, finite)]
        [True, True]

    References:
        Pourcel, Basu, Ernoult & Gilra 2025, arXiv 2506.05259 (Hamiltonian recurrent layers).
        Rusch & Rus 2025, ICLR, arXiv 2410.03943 (linear oscillatory state-space models).
    """
    q = positions(params, x, windows=windows, form=form, gradient=gradient, epsilon=epsilon)
    return linear(q, params["out"]).astype(x.dtype)


def _windowed(drive: jax.Array, windows: tuple[int, ...]) -> jax.Array:
    """d_t - d_{t-n}, n the window of the oscillator; (T, ..., H)."""
    groups = jnp.split(drive, len(windows), -1)

    def each(d: jax.Array, n: int) -> jax.Array:
        if n == 0 or n >= len(d):
            return d
        return d - jnp.concatenate([jnp.zeros_like(d[:n]), d[:-n]])

    return jnp.concatenate([each(d, n) for d, n in zip(groups, windows, strict=True)], -1)


def _group(oscillators: int, windows: tuple[int, ...]) -> int:
    """Oscillators a window."""
    for n in windows:
        _checks.positive_int("windows", n, minimum=0)
    if not windows or oscillators % len(windows):
        raise ValueError(
            f"windows must be a tuple whose length divides {oscillators} oscillators, got {windows}"
        )
    return oscillators // len(windows)


def _check(params: Params, x: Any, windows: Any, form: Any, gradient: Any) -> None:
    _checks.instance("params", params, Mapping)
    x = _checks.real("x", x)
    width, oscillators = params["drive"].shape
    if x.ndim < 2 or x.shape[-2] == 0 or x.shape[-1] != width:
        raise ValueError(f"x must have shape (..., T >= 1, {width}), got {x.shape}")
    _group(oscillators, windows)
    _checks.one_of("form", form, ("step", "parallel"))
    _checks.one_of("gradient", gradient, ("backpropagation", "echo", "finite"))
    if form == "parallel" and "couple" in params:
        raise ValueError('form must be "step" for a nonlinear layer, got "parallel"')


def _row(vector: jax.Array, rank: int) -> jax.Array:
    return vector.reshape((1,) * (rank - 1) + vector.shape)
