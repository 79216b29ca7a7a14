"""Peer: log-linear levels. A binary counter of mean slots; each level has its learned weight.

Whole blocks of tokens leave a window and are averaged; of more than `per_level` slots of a level
the two oldest merge into one of the next. Which slots a query finds is a static mask over the
dyadic tree of means, so that training is one masked attention.

Reference:
    Guo et al. 2025, Log-Linear Attention.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kv.dense import age, logits
from kv.model import rotate, rounded

BLOCK = 16


@functools.cache
def counter(blocks: int, per_level: int) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Slots (level, index) of the counter after 0, 1, ... blocks, the oldest first."""
    states: list[tuple[tuple[int, int], ...]] = [()]
    levels: list[list[int]] = []
    for block in range(blocks - 1):
        carry: int | None = block
        for slots in levels:
            slots.append(carry)
            carry = None
            if len(slots) <= per_level:
                break
            carry = slots.pop(0) // 2
            slots.pop(0)
        if carry is not None:
            levels.append([carry])
        states.append(tuple((l, i) for l, slots in enumerate(levels) for i in slots))
    return tuple(states)


def most_slots(length: int, per_level: int) -> int:
    return max(map(len, counter(length // BLOCK, per_level)))


def visible(length: int, per_level: int, near: int) -> np.ndarray:
    """Mask (T, nodes) of the tree's slots that a query finds; nodes level by level."""
    blocks = length // BLOCK
    depth = blocks.bit_length()
    offset = np.cumsum([0] + [blocks >> l for l in range(depth)])
    rows = np.zeros((blocks, offset[-1]), bool)
    for block in range(blocks):
        left = block - near // BLOCK  # blocks that have left the window
        for l, i in counter(blocks, per_level)[max(left, 0)]:
            rows[block, offset[l] + i] = True
    return np.repeat(rows, BLOCK, 0)


def levels_start(length: int, head_dim: int) -> dict[str, Any]:
    depth = (length // BLOCK).bit_length()
    size = np.log(BLOCK * 2.0 ** np.arange(depth))
    return {
        "bias": jnp.asarray(size, jnp.float32),
        "slope": jnp.zeros((head_dim, depth), jnp.float32),
    }


def levels(per_level: int, near: int):
    """Attention to a window (`near` tokens and the block under way) and the slots behind it."""

    def attend(params, query, key, value, score):
        length, dim = key.shape
        blocks = length // BLOCK
        means, places, depth = [], [], []
        k, v = key.reshape(-1, BLOCK, dim).mean(1), value.reshape(-1, BLOCK, dim).mean(1)
        for l in range(blocks.bit_length()):
            size = BLOCK << l
            means.append((k, v))
            places.append((np.arange(len(k)) + 0.5) * size - 0.5)
            depth.append(np.full(len(k), l))
            even = len(k) // 2 * 2
            k, v = (x[:even].reshape(-1, 2, dim).mean(1) for x in (k, v))
        slots = [rounded(jnp.concatenate(parts)) for parts in zip(*means, strict=True)]
        own = np.concatenate(depth)
        weight = params["bias"] + query @ params["slope"]
        place = jnp.arange(length, dtype=query.dtype)
        centre = jnp.asarray(np.concatenate(places), query.dtype)
        far = rotate(query, place) @ rotate(slots[0], centre).T * dim**-0.5 + weight[:, own]
        block = jnp.arange(length, dtype=jnp.int32) // BLOCK
        recent = (age(length) >= 0) & (block[:, None] - block[None] <= near // BLOCK)
        both = jnp.concatenate([logits(query, key), far], 1)
        mask = jnp.concatenate([recent, jnp.asarray(visible(length, per_level, near))], 1)
        share = jax.nn.softmax(jnp.where(mask, both, -1e30), -1)
        return share[:, :length] @ value + share[:, length:] @ slots[1]

    return attend


def levels_bytes(per_level: int, near: int, length: int, head_dim: int) -> int:
    """Places and masses follow from the counter and take no room."""
    return 4 * head_dim * (near + BLOCK + most_slots(length, per_level))
