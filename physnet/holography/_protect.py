"""Slots of a memory that survive the loss of some: a classical erasure code over the reals."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from physnet import _checks
from physnet.holography._spread import spread


class Recovery(NamedTuple):
    """Recovered slots, and how much of them the survivors determine.

    Attributes:
        slots: The estimate, (k, d).
        rank: int32, dimensions that the survivors determine: k means all of them.
        condition: Largest over smallest singular value of what is left of the code, by which noise
            of the coded slots is amplified at worst; inf where rank < k.
    """

    slots: Float[Array, "k d"]
    rank: Array
    condition: Array


def protect(slots: Float[Array, "k d"], *, rate: float = 0.5, key: Array) -> Float[Array, "n d"]:
    """Spread k slots over n = ceil(k / rate) coded ones, so that any of these may be lost.

    coded = E slots, E^T E = 1: the slots above zeros, under two orthogonal transforms of n points
    (Hadamard's for a power of two; otherwise that of its even part by Hartley's of its odd part),
    between which rows are turned in pairs by random angles and shuffled. Each coded slot holds a
    little of every slot, none holds one. The norm of the whole is kept; rows are smaller by
    sqrt(k / n) on average. O(n d log n) where n is a power of two.

    Args:
        slots: Real (k, d), k >= 1; keys beside values, or what else a slot holds.
        rate: k / n, static, in (0, 1]; 0.5 doubles the slots, and survives the loss of nearly half.
        key: A PRNG key, the same for `recover`.

    Returns:
        Coded slots (n, d) in the dtype of `slots` (computed in float32 at least).

    Raises:
        TypeError: Slots that are not real floating; a rate that is no static number.
        ValueError: Slots that are no matrix with a row; a rate outside (0, 1].

    Example:
        >>> import jax, jax.numpy as jnp
        >>> key = jax.random.key(0)
        >>> slots = jax.random.normal(jax.random.key(1), (64, 16))
        >>> coded = jax.jit(protect, static_argnames="rate")(slots, rate=0.5, key=key)
        >>> lost = jnp.arange(128) % 3 == 0
        >>> back = jax.jit(recover, static_argnames="slots")(coded, lost, slots=64, key=key)
        >>> print(coded.shape, bool(jnp.abs(back - slots).max() < 1e-4))
        (128, 16) True

    References:
        Ailon, Chazelle, "The fast Johnson-Lindenstrauss transform", SIAM J. Comput. 39 (2009);
        Goyal, Kovacevic, Kelner, "Quantized frame expansions with erasures", ACHA 10 (2001).
    """
    slots = _matrix("slots", slots)
    k = slots.shape[0]
    if isinstance(rate, bool) or not isinstance(rate, (int, float, np.number)):
        raise TypeError(f"rate must be a static number, got {rate!r}")
    if not 0 < rate <= 1:
        raise ValueError(f"rate must lie in (0, 1], got {rate!r}")
    if k / rate > 2**31:
        raise ValueError(f"rate must be at least {k / 2**31:.1e} for {k} slots, got {rate!r}")
    n = math.ceil(k / rate - 1e-6)
    wide = slots.astype(np.promote_types(slots.dtype, jnp.float32))
    return spread(wide, n, _checks.key("key", key)).astype(slots.dtype)


def recover(
    coded: Float[Array, "n d"],
    lost: Bool[Array, " n"],
    *,
    slots: int,
    key: Array,
    noise: float | Float[Array, ""] = 0.0,
    return_info: bool = False,
) -> Float[Array, "k d"] | Recovery:
    """The slots that `protect` spread, from the coded ones that are left, by least squares.

    With A the surviving rows of E and A = U diag(s) V^T, slots = V diag(s / (s^2 + noise^2)) U^T y.
    With noise = 0 this is exact as long as the survivors determine the slots: k of n are needed,
    and a few more for a small condition number (rate 1/2, a random quarter lost: about 3.5; 40%:
    8). With fewer it is the shortest slots that explain the survivors: finite, and 0 if nothing is
    left; each slot is then the projection on what is known, smaller than it was.

    One singular value decomposition a mask: a vmap over `coded` alone shares it. NaN in a row that
    is not lost spoils its own columns.

    Args:
        coded: What is left of the coded slots; rows that are lost may hold anything, NaN too.
        lost: Which rows are lost. May be traced: jit and vmap over loss patterns.
        slots: k, as it went into `protect`; static.
        key: The key of `protect`.
        noise: Root mean square error of the stored entries over that of the entries of the slots,
            >= 0 (rounding to 4 bits: about 0.1); damps directions that would amplify it.
        return_info: Also return rank and condition number.

    Returns:
        Slots (k, d) in the dtype of `coded`, differentiable in `coded`, also in forward mode; or a
        Recovery. Nothing flows to what is lost.

    Raises:
        TypeError: Coded slots not real floating, a mask that is not bool, or k no static int.
        ValueError: Shapes that do not fit; more slots than coded ones; noise that is known not to
            be >= 0 and finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> key = jax.random.key(0)
        >>> coded = protect(jnp.ones((4, 2)), rate=0.5, key=key)
        >>> run = jax.jit(lambda lost: recover(coded, lost, slots=4, key=key, return_info=True))
        >>> few = run(jnp.arange(8) > 2)
        >>> print(few.rank, few.condition)
        3 inf
    """
    coded = _matrix("coded", coded)
    n, k = coded.shape[0], _checks.positive_int("slots", slots)
    if k > n:
        raise ValueError(f"slots must be at most the {n} coded ones, got {k}")
    key = _checks.key("key", key)
    lost = _checks.boolean("lost", lost)
    if lost.shape != (n,):
        raise ValueError(f"lost must have shape ({n},), one entry a coded slot, got {lost.shape}")
    known_noise = _checks.known("noise", noise)
    if jnp.size(noise) != 1:
        raise ValueError(f"noise must be one number, got shape {jnp.shape(noise)}")
    if known_noise is not None and not np.all((known_noise >= 0) & (known_noise < np.inf)):
        raise ValueError(f"noise must be >= 0 and finite, got {noise!r}")
    dtype = np.promote_types(coded.dtype, jnp.float32)
    left = jnp.where(lost[:, None], 0, spread(jnp.eye(k, dtype=dtype), n, key))
    u, s, vt = jnp.linalg.svd(left, full_matrices=False)
    known = s > n * jnp.finfo(dtype).eps
    squared = jnp.square(jnp.asarray(noise, dtype).reshape(()))
    gains = jnp.where(known, s / jnp.where(known, s * s + squared, 1), 0)
    inverse = _product(vt.T, gains[:, None] * u.T)
    inverse = jax.lax.stop_gradient(inverse)  # linear in coded, no more
    found = _product(inverse, jnp.where(lost[:, None], 0, coded.astype(dtype)))
    if not return_info:
        return found.astype(coded.dtype)
    rank = jnp.sum(known, dtype=jnp.int32)
    condition = jnp.where(known[-1], s[0] / jnp.where(known[-1], s[-1], 1), jnp.inf)
    return Recovery(found.astype(coded.dtype), rank, condition)


def _matrix(name: str, value: Array) -> Array:
    value = _checks.real(name, value)
    if value.ndim != 2 or value.shape[0] < 1:
        raise ValueError(f"{name} must have shape (rows >= 1, d), got {value.shape}")
    return value


def _product(a: Array, b: Array) -> Array:
    """In full: GPUs would round float32 factors to 10 bits."""
    return jnp.matmul(a, b, precision="highest")
