"""What a trajectory tells of itself: how far it went, and checksums of its two ends."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import checkify
from jaxtyping import Array, Float, UInt32

from physnet import _checks


class Info(NamedTuple):
    """How a trajectory went.

    Attributes:
        largest: The largest |position| or |momentum| on the way, before any wrapping; NaN where a
            force was not finite.
        limit: What it must stay below on the lattice; infinite without one.
        start: Checksum of the bits of the first state.
        end: Checksum of the bits of the last.
    """

    largest: Float[Array, "..."]
    limit: Float[Array, "..."]
    start: UInt32[Array, "..."]
    end: UInt32[Array, "..."]


def checksum(tree: Any) -> UInt32[Array, ""]:
    """A sum, modulo 2^32, of the bits of arrays and of where they stand."""
    total = jnp.zeros((), jnp.uint32)
    for which, x in enumerate(jax.tree.leaves(tree)):
        size = {2: jnp.uint16, 4: jnp.uint32, 8: jnp.uint64}[x.dtype.itemsize]
        word = jax.lax.bitcast_convert_type(x, size).reshape(-1)
        if size == jnp.uint64:
            word = (word ^ (word >> 32) * size(0x9E3779B1)).astype(jnp.uint32)
        place = jax.lax.iota(jnp.uint32, word.size) + jnp.uint32(7919 * which)
        word = (word.astype(jnp.uint32) ^ (place * jnp.uint32(0x9E3779B1))) * jnp.uint32(0x85EBCA77)
        word = (word ^ (word >> 15)) * jnp.uint32(0xC2B2AE3D)
        total = total + jnp.sum(word ^ (word >> 13), dtype=jnp.uint32)
    return total


def check(info: Info, *, back: Info | None = None) -> None:
    """An error where a trajectory left the lattice, met NaN, or did not come back to its start.

    Outside `jit` it raises; inside, `jax.experimental.checkify.checkify` must be around, and
    carries the error out.

    Args:
        info: What `reversible_scan` or `inverse` gave with return_info=True; any batch axes.
        back: The same of the trajectory that undid this one: it must end where this one began.

    Raises:
        FloatingPointError: A state or force that is not finite.
        OverflowError: A state at or beyond the limit of its lattice.
        RuntimeError: Checksums that differ.

    Example:
        >>> import jax.numpy as jnp
        >>> free, state = lambda params, q, _: jnp.zeros_like(q), (jnp.zeros(1), jnp.ones(1))
        >>> from physnet import symplectic
        >>> lattice = symplectic.Lattice()   # |q| < 128
        >>> for steps in (100, 200):
        ...     _, info = symplectic.reversible_scan(free, state, None, steps=steps, step_size=1.0,
        ...         lattice=lattice, return_info=True)
        ...     try: print(check(info))
        ...     except OverflowError as error: print(error)
        None
        |state| reached 128, and must stay below 128: the lattice needs a smaller scale
    """
    _checks.instance("info", info, Info)
    finite = jnp.all(jnp.isfinite(info.largest))
    inside = jnp.all(info.largest < info.limit) | ~finite
    same = jnp.array(True) if back is None else jnp.all(back.end == info.start)
    largest, limit = jnp.max(info.largest), jnp.max(info.limit)
    wrong = [
        (finite, FloatingPointError, "a state or a force was not finite", {}),
        (
            inside,
            OverflowError,
            "|state| reached {largest}, and must stay below {limit}: "
            "the lattice needs a smaller scale",
            {"largest": largest, "limit": limit},
        ),
        (same, RuntimeError, "the way back does not end at the bits of the start", {}),
    ]
    for right, error, message, values in wrong:
        if _checks.concrete(right) is None:
            checkify.check(right, message, **values)
        elif not right:
            raise error(message.format(**{k: f"{np.max(v):.6g}" for k, v in values.items()}))
