"""Tokens to the devices that hold their experts, and the outputs back."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from physnet.moe import _layout

ROOM = 2.0  # rows that two devices exchange, over those of even loads, before all are sent

Run = Callable[[Array, Array, Array], tuple[Array, Array, Array]]


def exchanged(
    tokens: Array, expert: Array, run: Run, *, axis_name: str, local: int
) -> tuple[Array, Array, Array]:
    """`run` where each device of an axis holds the next `local` experts.

    Buffers hold `ROOM` times the even share of each pair of devices. If some pair needs more, all
    devices take the other branch, where buffers hold all that one device could send to another:
    nothing is dropped, but nothing is saved either.

    Args:
        tokens, expert: Of this device, (n, d) and (n, k), experts numbered over the whole axis.
        run: (tokens (m, d), experts (m, 1) among its own, gates of 1) -> as `_experts.run`.

    Returns:
        Outputs (n, k, o), which assignments have one (n, k), and the loads of all experts.
    """
    devices = lax.axis_size(axis_name)
    n, k = expert.shape
    flat = expert.reshape(-1)
    there = jnp.where((flat >= 0) & (flat < devices * local), flat // local, devices)
    even = -(-n * k // devices)
    room = min(n * k, -(-int(2 * ROOM * even) // 2))
    sent = _layout.slab(there, devices, room).count

    def with_room(size: int):
        def through(tokens, flat, there):
            plan = _layout.slab(there, devices, size)
            rows, owner = tokens[plan.source // k], flat[plan.source] % local
            filled = jnp.arange(size, dtype=jnp.int32)[None, :] < plan.count[:, None]
            owner = jnp.where(filled, owner, -1)
            rows, owner = (_swap(x, axis_name) for x in (rows, owner))
            rows, owner = rows.reshape(-1, rows.shape[-1]), owner.reshape(-1, 1)
            out, kept, count = run(rows, owner, jnp.ones_like(owner, rows.dtype))
            out, kept = (_swap(x.reshape(devices, size, -1), axis_name) for x in (out, kept))
            out, kept = (x.reshape(devices * size, -1)[plan.slot] for x in (out, kept))
            kept = kept[:, 0] & plan.kept
            out = jnp.where(kept[:, None], out, jnp.zeros_like(out))
            return out.reshape(n, k, -1), kept.reshape(n, k), count

        return through

    if room == n * k:
        out, kept, count = with_room(room)(tokens, flat, there)
    else:
        fits = lax.pmax(jnp.max(sent), axis_name) <= room
        out, kept, count = lax.cond(fits, with_room(room), with_room(n * k), tokens, flat, there)
    # A sum, so that the loads count as equal on all devices.
    own = jnp.arange(devices, dtype=jnp.int32)[:, None] == lax.axis_index(axis_name)
    counts = lax.psum(jnp.where(own, count[None, :], 0), axis_name)
    return out, kept, counts.reshape(-1)


def _swap(x: jax.Array, axis_name: str) -> jax.Array:
    """Row j of device i becomes row i of device j."""
    return lax.all_to_all(x, axis_name, split_axis=0, concat_axis=0, tiled=True)
