"""Driven oscillators step by step: one trajectory, three ways to its gradient."""

import functools
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp

from physnet.symplectic import echo, leapfrog

Form: TypeAlias = Literal["step", "parallel"]
Gradient: TypeAlias = Literal["backpropagation", "echo", "finite"]
Core: TypeAlias = dict[str, jax.Array]  # omega (H,); of a nonlinear layer couple (H, M)
Inputs: TypeAlias = tuple[
    jax.Array, ...
]  # drive (T, ..., H); of a nonlinear layer sense (T, ..., M)


def potential(core: Core, position: jax.Array, given: Inputs) -> jax.Array:
    """U(omega Q): |q|^2/2 - q.d + sum log cosh(q C + s), summed over the batch."""
    omega = core["omega"].reshape((1,) * (position.ndim - 1) + core["omega"].shape)
    q = omega * position
    energy = jnp.sum(q * q / 2 - q * given[0])
    if "couple" in core:
        # In full float32: a rounded product would not be the same on the way back.
        turned = jnp.matmul(q, core["couple"], precision="highest")
        energy += jnp.sum(_log_cosh(turned + given[1]))
    return energy


def force(core: Core, position: jax.Array, given: Inputs) -> jax.Array:
    """-dU/dQ."""
    return -jax.grad(potential, argnums=1)(core, position, given)


def trajectory(core: Core, inputs: Inputs, gradient: Gradient, epsilon: float | None) -> jax.Array:
    """Q after each step, (T, ..., H), from rest at 0."""
    if gradient == "backpropagation":
        return _run(core, inputs)[1]
    return _echoed(gradient == "finite", epsilon, core, inputs)


def _run(core: Core, inputs: Inputs) -> tuple[Any, jax.Array]:
    final, (position, _) = leapfrog(
        force,
        _rest(inputs),
        core,
        inputs,
        steps=len(inputs[0]),
        step_size=1.0,
        return_trajectory=True,
    )
    return final, position


def _rest(inputs: Inputs) -> tuple[jax.Array, jax.Array]:
    rest = jnp.zeros_like(inputs[0][0])
    return rest, rest


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _echoed(finite: bool, epsilon: float | None, core: Core, inputs: Inputs) -> jax.Array:
    return _run(core, inputs)[1]


def _echoed_forward(
    finite: bool, epsilon: float | None, core: Core, inputs: Inputs
) -> tuple[jax.Array, Any]:
    final, position = _run(core, inputs)
    return position, (core, inputs, final)


def _echoed_backward(
    finite: bool, epsilon: float | None, kept: Any, cotangents: jax.Array
) -> tuple[Core, Inputs]:
    core, inputs, final = kept
    run = echo.gradient
    if finite:
        run = functools.partial(echo.finite_gradient, epsilon=epsilon)
    by_core, _, by_inputs = run(
        potential,
        _rest(inputs),
        core,
        inputs,
        final_cotangent=None,
        cotangents=cotangents,
        final_state=final,
        steps=len(inputs[0]),
        step_size=1.0,
    )
    return by_core, by_inputs


_echoed.defvjp(_echoed_forward, _echoed_backward)


@jax.custom_jvp
def _log_cosh(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    return size + jnp.log1p(jnp.exp(-2 * size)) - jnp.log(jnp.asarray(2, x.dtype))


@_log_cosh.defjvp
def _log_cosh_jvp(primals: Any, tangents: Any) -> Any:
    (x,), (dx,) = primals, tangents
    return _log_cosh(x), jnp.tanh(x) * dx
