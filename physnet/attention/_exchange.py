"""Keys and values of the pieces of a sequence, brought to every device of a mesh axis.

A token whose score no query of any piece lifts over the threshold takes part in the local band
alone: it stays on its device, and on the next one where the band reaches over the border. Places of
tokens that stay hold zeros, which no pair sees: the gate closes there whatever is in them.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from physnet import _varying
from physnet.attention._arguments import Scores

# Buffers are static: the smallest that holds the kept tokens of every head and piece is sent.
SHARES = (0.25, 0.5, 0.75)


def whole(x: jax.Array, axis_name: str, axis: int) -> jax.Array:
    """The pieces of all devices, one behind the other."""
    return lax.all_gather(x, axis_name, axis=axis % x.ndim, tiled=True)


def needed(scores: Scores, key_heads: int, axis_name: str) -> jax.Array:
    """Which of this device's keys (B, S, K) may pass the gate with a query of any device."""
    most = lax.pmax(jnp.max(scores.query, axis=1, keepdims=True), axis_name)
    passes = most * scores.key > scores.threshold[None, None]  # none missed: rounding is monotone
    batch, span, heads = passes.shape
    if heads == 1:
        return jnp.broadcast_to(passes, (batch, span, key_heads))
    return jnp.any(passes.reshape(batch, span, key_heads, -1), axis=-1)


def kept(
    key: jax.Array, value: jax.Array, keep: jax.Array, window: int, is_causal: bool, axis_name: str
) -> tuple[jax.Array, jax.Array]:
    """Keys and values (B, D S, K, H) of D pieces, those that the gate or the band can use.

    Args:
        key, value: (B, S, K, H) of this piece.
        keep: (B, S, K), the tokens to send.
        window: of the local band, at most S + 1.
        is_causal: Whether later pieces need no band.
        axis_name: The axis of the mesh.
    """
    span = key.shape[1]
    pair = jnp.stack([key, value])  # one exchange for both
    count = lax.pmax(jnp.max(jnp.sum(keep, axis=1, dtype=jnp.int32)), axis_name)
    rooms = sorted({math.ceil(share * span) for share in SHARES} - {span})
    order = jnp.argsort(~keep, axis=1, stable=True).astype(jnp.int32)
    order = jnp.where(jnp.take_along_axis(keep, order, axis=1), order, span)

    branches: list[Any] = [
        functools.partial(_some, room=room, axis_name=axis_name) for room in rooms
    ]
    branches.append(lambda pair, order: whole(pair, axis_name, 2))
    level = sum((count > room).astype(jnp.int32) for room in rooms)
    every = lax.switch(level, branches, pair, order)
    near = min(window - 1, span)
    start = lax.axis_index(axis_name) * span
    place = functools.partial(lax.dynamic_update_slice_in_dim, axis=2)
    if near > 0:  # moved into the sequence at its ends, where this piece's own come on top
        devices = lax.axis_size(axis_name)
        forth = [(i, i + 1) for i in range(devices - 1)]
        halo = lax.ppermute(pair[:, :, span - near :], axis_name, forth)
        every = place(every, halo, jnp.maximum(start - near, 0))
        if not is_causal:
            back = [(i + 1, i) for i in range(devices - 1)]
            halo = lax.ppermute(pair[:, :, :near], axis_name, back)
            every = place(every, halo, start + span)
    every = place(every, pair, start)
    return every[0], every[1]


def _some(pair: jax.Array, order: jax.Array, *, room: int, axis_name: str) -> jax.Array:
    """The first `room` tokens of each order (B, S, K), back in their places (2, B, D S, K, H)."""
    order = order[:, :room]
    two, batch, span, heads, width = pair.shape
    index = jnp.minimum(order, span - 1)[None, ..., None]
    sent = jnp.take_along_axis(pair, index, axis=2)
    sent, order = (lax.all_gather(x, axis_name) for x in (sent, order))  # the device in front
    devices = len(order)
    first = span * jnp.arange(devices, dtype=jnp.int32).reshape(-1, 1, 1, 1)
    slot = jnp.where(order < span, order + first, devices * span)  # beyond the end: dropped
    slot = jnp.moveaxis(slot, 0, 1).reshape(batch, devices * room, heads)
    sent = jnp.moveaxis(sent, 0, 2).reshape(two, batch, devices * room, heads, width)
    row = jnp.arange(batch, dtype=jnp.int32).reshape(-1, 1, 1)
    head = jnp.arange(heads, dtype=jnp.int32).reshape(1, 1, -1)
    empty = _varying.alike(jnp.zeros((two, batch, devices * span, heads, width), pair.dtype), sent)
    return empty.at[:, row, slot, head].set(sent, mode="drop")
