"""The propagator between boundary and bulk that sees no later time, as linear recurrences."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from physnet import _checks, _varying
from physnet.holography._exponentials import fit_causal

_CHUNK = 32


def causal_to_bulk(
    field: Float[Array, "*b n d"],
    z: Float[Array, " L"],
    *,
    delta: float = 1.0,
    terms: int = 24,
    span: float = 1e5,
    state: Float[Array, "*b L Q d"] | None = None,
) -> tuple[Float[Array, "*b L n d"], Float[Array, "*b L Q d"]]:
    r"""Bulk field at every time and at the depths z, from the boundary's past alone.

        phi(z, t) = sum_{s <= t} K(z, t - s) field_s,
        K = (2 Delta - 1) z^Delta / (z + t)^{2 Delta}

    the propagator in light-cone time, with the integral z^{1 - Delta} of K_Delta over the whole
    line. It runs as `exponentials`: a diagonal linear recurrence, O(N), whose state of Q numbers a
    channel and depth replaces the whole past. Chunks of time are products of matrices; a later
    time has the factor 0 in them, so that it moves no earlier output, to the bit. NaN or infinity
    makes its channel NaN from its time on, and the state's.

    Args:
        field: (..., N, d), N times.
        z: Depths (L,), positive, in steps of time; differentiable. A traced z <= 0 gives NaN.
        delta: Delta > 1/2. Static.
        terms, span: As in `exponentials`: Q, and the longest lag in units of z. Static.
        state: What an earlier call returned, to go on from there; None at the start.

    Returns:
        phi (..., L, N, d) and the state after the last time, in the dtype of the field (float32 at
        least).

    Raises:
        ValueError: No time, a known z <= 0, delta, terms or span out of range, or another state.
        TypeError: field, z or state is not real floating-point, or delta is traced.

    Example:
        >>> import jax.numpy as jnp
        >>> z, field = jnp.array([1.0, 4.0]), jnp.arange(10.0)[:, None]
        >>> whole, _ = causal_to_bulk(field, z)
        >>> first, state = causal_to_bulk(field[:6], z)
        >>> rest, _ = causal_to_bulk(field[6:], z, state=state)
        >>> bool(jnp.allclose(jnp.concatenate([first, rest], 1), whole, rtol=1e-5))
        True
    """
    field, z = _real("field", field, 2), _depths(z)
    return _convolve(field[..., None, :, :], z, delta, terms, span, state)


def causal_to_boundary(
    bulk: Float[Array, "*b L n d"],
    z: Float[Array, " L"],
    *,
    delta: float = 1.0,
    terms: int = 24,
    span: float = 1e5,
    state: Float[Array, "*b L Q d"] | None = None,
) -> tuple[Float[Array, "*b n d"], Float[Array, "*b L Q d"]]:
    r"""Boundary field at every time, from the bulk's past alone.

        field_t = sum_l sum_{s <= t} K(z_l, t - s) bulk_l(s),    K as in `causal_to_bulk`

    The measure is left to the caller: an integral over the bulk weights depth l by z^{-2} dz.

    Args:
        bulk: (..., L, N, d).
        z, delta, terms, span, state: As in `causal_to_bulk`.

    Returns:
        field (..., N, d) and the state after the last time.

    Raises:
        ValueError, TypeError: As `causal_to_bulk`.

    Example:
        >>> import jax.numpy as jnp
        >>> field, _ = causal_to_boundary(jnp.ones((1, 4, 1)), jnp.array([1.0]))
        >>> [f"{value:.3f}" for value in field[:, 0]]  # 1 + 1/4 + 1/9 + 1/16
        ['1.000', '1.250', '1.361', '1.424']
    """
    bulk, z = _real("bulk", bulk, 3), _depths(z)
    if bulk.shape[-3] != z.shape[0]:
        raise ValueError(f"bulk must have shape (..., {z.shape[0]}, N, d), got {bulk.shape}")
    field, after = _convolve(bulk, z, delta, terms, span, state)
    return jnp.sum(field, -3), after


def _convolve(u: Array, z: Array, delta: float, terms: int, span: float, state: Any):
    """Each depth's kernel over time, of (..., L or 1, N, d); and the state after it."""
    _checks.positive_int("terms", terms, minimum=4)
    delta, span = _checks.number("delta", delta), _checks.number("span", span)
    if not 0.5 < delta < 50 or terms > 64 or not 1 <= span < 1e12:
        raise ValueError(
            "delta must be above 1/2 and below 50, terms <= 64 and span from 1 to 1e12, got "
            f"{delta!r}, {terms}, {span!r}"
        )
    rate, weight = (jnp.asarray(x, u.dtype) for x in fit_causal(delta, terms, span))
    z = z.astype(u.dtype)
    rate = rate[None] / z[:, None]
    weight = weight[None] * ((2 * delta - 1) * z**-delta)[:, None]
    shape = (*u.shape[:-3], z.shape[0], terms, u.shape[-1])
    if state is None:
        state = jnp.zeros(shape, u.dtype)
    elif _checks.real("state", state).shape != shape:
        raise ValueError(f"state must have shape {shape}, got {jnp.shape(state)}")
    state = jnp.asarray(state).astype(u.dtype)
    return _run(*_varying.alike((u, rate, weight, state)))


@jax.jit
def _run(u: Array, rate: Array, weight: Array, state: Array) -> tuple[Array, Array]:
    n, whole = u.shape[-2], u.shape[-2] // _CHUNK * _CHUNK
    # Factors of 0 would carry NaN and infinities backwards: they are put back afterwards.
    finite = jnp.isfinite(u)
    spoiled = lax.cummax((~finite).astype(jnp.int8), axis=u.ndim - 2) > 0
    spoiled = jnp.where(spoiled, jnp.asarray(jnp.nan, u.dtype), 0)
    u, out = jnp.where(finite, u, 0), []
    if whole:
        step = _step(rate, weight, _CHUNK)
        chunks = u[..., :whole, :].reshape(*u.shape[:-2], -1, _CHUNK, u.shape[-1])
        state, found = lax.scan(step, state, jnp.moveaxis(chunks, -3, 0))
        found = jnp.moveaxis(found, 0, -3)
        out.append(found.reshape(*found.shape[:-3], whole, u.shape[-1]))
    if n > whole:
        state, found = _step(rate, weight, n - whole)(state, u[..., whole:, :])
        out.append(found)
    return jnp.concatenate(out, -2) + spoiled, state + spoiled[..., -1:, :]


def _step(rate: Array, weight: Array, size: int):
    """Function (state, chunk) -> (state, output) of so many times."""
    time = np.arange(size)

    def powers(t):  # (L, Q, times)
        return jnp.exp(-rate[..., None] * jnp.asarray(t, rate.dtype).reshape(1, 1, -1))

    kernel = jnp.sum(weight[..., None] * powers(time), -2)  # (L, size)
    lag = time[:, None] - time
    mask = jnp.asarray(lag >= 0)[None]
    within = jnp.where(mask, kernel[:, np.maximum(lag, 0)], 0)  # (L, size, size)
    read = weight[..., None] * powers(time + 1)  # (L, Q, size)
    write, fade = powers(time[::-1]), powers([size])

    def step(state, chunk):
        chunk = jnp.broadcast_to(chunk, (*state.shape[:-2], *chunk.shape[-2:]))
        lead = (1,) * (state.ndim - 3)

        def mix(table, x):
            table = table.reshape(lead + table.shape)
            return jnp.matmul(table, x, precision=lax.Precision.HIGHEST)

        out = mix(within, chunk) + mix(jnp.swapaxes(read, -1, -2), state)
        after = state * fade.reshape(lead + fade.shape) + mix(write, chunk)
        return after, out

    return step


def _real(name: str, value: Any, ndim: int) -> Array:
    value = _checks.real(name, value)
    if value.ndim < ndim or value.shape[-2] < 1:
        axes = "..., N >= 1, d" if ndim == 2 else "..., L, N >= 1, d"
        raise ValueError(f"{name} must have shape ({axes}), got {value.shape}")
    return value.astype(jnp.float32) if jnp.finfo(value.dtype).bits < 32 else value


def _depths(z: Any) -> Array:
    z = _checks.real("z", z)
    known = _checks.concrete(z)
    if z.ndim != 1 or z.shape[0] < 1:
        raise ValueError(f"z must have shape (L >= 1,), got {z.shape}")
    if known is not None and not np.all(known > 0):
        raise ValueError(f"z must be positive, got {z!r}")
    return jnp.where(z > 0, z, jnp.nan)
