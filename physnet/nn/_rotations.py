"""Linear oscillators in parallel over time: drift-kick-drift turns z = q + i s p by a fixed angle.

With q'' = -omega^2 (q - d) and p = q' / omega, one step of unit length is

    z <- e^{-i phi} z + omega (omega / 2 + i s) d,    cos phi = 1 - omega^2 / 2,   s = cos(phi / 2)

of modulus 1 exactly: an associative scan neither grows nor shrinks. The echo runs the same scan on
the reversed drive, from the flipped final state conj z; a nudge g of q is a kick i s omega g of it.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def trajectory(
    omega: jax.Array, drive: jax.Array, gradient: str, epsilon: float | None
) -> jax.Array:
    """q after each step from rest, for drives (T, ..., H)."""
    if gradient == "backpropagation":
        return _run(omega, drive).real
    return _echoed(gradient == "finite", epsilon, omega, drive)


def _constants(omega: jax.Array, rank: int) -> tuple[jax.Array, ...]:
    """omega, s and the factor of a step, with `rank` axes."""
    omega = omega.reshape((1,) * (rank - 1) + omega.shape)
    s = jnp.sqrt(1 - omega * omega / 4)
    return omega, s, lax.complex(1 - omega * omega / 2, -omega * s)


def _kicks(omega: jax.Array, drive: jax.Array) -> jax.Array:
    omega, s, _ = _constants(omega, drive.ndim)
    push = omega * drive
    return lax.complex(omega / 2 * push, s * push)


def _scan(omega: jax.Array, pushes: jax.Array) -> jax.Array:
    """z_t = e^{-i phi} z_{t-1} + b_t from z = 0."""
    _, _, turn = _constants(omega, pushes.ndim)
    turns = jnp.broadcast_to(turn, (len(pushes), *turn.shape[1:]))

    def join(early: Any, late: Any) -> Any:
        return early[0] * late[0], late[0] * early[1] + late[1]

    return lax.associative_scan(join, (turns, pushes))[1]


def _run(omega: jax.Array, drive: jax.Array) -> jax.Array:
    return _scan(omega, _kicks(omega, drive))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _echoed(finite: bool, epsilon: float | None, omega: jax.Array, drive: jax.Array) -> jax.Array:
    return _run(omega, drive).real


def _echoed_forward(
    finite: bool, epsilon: float | None, omega: jax.Array, drive: jax.Array
) -> tuple[jax.Array, Any]:
    z = _run(omega, drive)
    return z.real, (omega, drive, z[-1])


def _echoed_backward(
    finite: bool, epsilon: float | None, kept: Any, cotangents: jax.Array
) -> tuple[jax.Array, jax.Array]:
    omega, drive, last = kept
    drive, nudges = drive[::-1], cotangents[::-1]
    state, half = _echo(omega, drive, jnp.zeros_like(nudges), last.conj())
    rest = jnp.zeros_like(last)
    _, bend = _echo(omega, jnp.zeros_like(drive), nudges, rest)
    w = omega.reshape((1,) * (drive.ndim - 1) + omega.shape)
    slope = bend * (2 * half - drive) / w  # of dU/domega = (q - d) q / omega
    if finite:
        # The response to nudges alone, which is linear here, is the probe.
        scale = _automatic(half, bend) if epsilon is None else epsilon
        push = scale * nudges
        state, half = _echo(omega, drive, push, last.conj())
        other, beside = _echo(omega, drive, -push, last.conj())
        slope = ((half - drive) * half - (beside - drive) * beside) / (2 * scale * w)
        bend = (half - beside) / (2 * scale)
        state = (state + other) / 2
    read = nudges * state / w  # q = omega Q is what is read
    by_omega = jnp.sum(read - slope, tuple(range(drive.ndim - 1)))
    return by_omega, bend[::-1]


def _echo(
    omega: jax.Array, drive: jax.Array, nudges: jax.Array, start: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """q at the start and at the half of each step of the echo."""
    w, s, turn = _constants(omega, drive.ndim)
    kicks = s * w * nudges
    kicks = lax.complex(jnp.zeros_like(kicks), kicks)
    kicks = kicks.at[0].add(start)
    after = _scan(omega, turn * kicks + _kicks(omega, drive))
    before = jnp.concatenate([jnp.zeros_like(after[:1]), after[:-1]]) + kicks
    return before.real, before.real + w / (2 * s) * before.imag


def _automatic(position: jax.Array, bend: jax.Array) -> jax.Array:
    """As `symplectic.echo.finite_gradient` chooses it."""
    unit = float(jnp.finfo(position.dtype).eps) / 2
    most = jnp.max(jnp.abs(bend))
    rms = jnp.sqrt(jnp.mean(position * position))
    epsilon = 10 * unit ** (1 / 3) * rms / jnp.where(most > 0, most, 1)
    return jnp.where(epsilon > 0, epsilon, 1)


_echoed.defvjp(_echoed_forward, _echoed_backward)
