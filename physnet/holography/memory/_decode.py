"""Tokens come to a memory and attend, several at a time.

Shapes: n tokens, d and e channels of keys and values.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet.holography.memory._append import add, by_blocks, checked, masses, next_block, tokens_of
from physnet.holography.memory._read import Rotate, one_scale, slot_worth, weigh
from physnet.holography.memory._state import Memory, opened, ring_positions


def decode(
    query: Float[Array, "n d"],
    memory: Memory,
    keys: Float[Array, "n d"],
    values: Float[Array, "n e"],
    scores: Float[Array, " n"] | None = None,
    *,
    scale: float | None = None,
    rotate: Rotate | None = None,
    threshold: ArrayLike | None = None,
    slot_bias: ArrayLike | None = None,
) -> tuple[Float[Array, "n e"], Memory]:
    """Tokens behind those in a memory: each is appended, then its query attends.

    The numbers of `append` and `attend` in turns, a block at a time: for prompts and for decoding.

    Args:
        query: (n, d), as they are to be multiplied, hence rotated.
        memory: of one head of one sequence.
        keys: (n, d), before rotary positions.
        values: (n, e).
        scores, threshold: as in `extend`.
        scale, rotate, slot_bias: as in `attend`.

    Returns:
        (n, e), of the dtype of the query, and the memory with the tokens.

    Raises:
        ValueError, TypeError: as `extend`; ValueError for queries of another shape than the keys.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.holography import memory
        >>> x = jax.random.normal(jax.random.key(0), (100, 8))
        >>> small = memory.Config(window=32, block=16, sinks=2, landmarks=8, levels=4)
        >>> y, held = jax.jit(memory.decode)(x, memory.init(None, 8, config=small), x, x)
        >>> whole = jax.jit(memory.attention, static_argnames="config")(x, x, x, config=small)
        >>> bool(jnp.allclose(y, whole, atol=1e-5))
        True
    """
    query = _checks.real("query", query)
    keys, values, scores = tokens_of(memory, keys, values, scores)
    checked("query", query, keys.shape)
    own = one_scale(scale, keys.shape[1])
    given = (query, keys, values, scores)
    worth = slot_worth(memory.config, slot_bias, memory.near.mass.dtype)
    return _decoded(memory, given, own, threshold, worth, rotate=rotate)


@functools.partial(jax.jit, static_argnames="rotate")
def _decoded(memory: Memory, given, scale, threshold, worth, *, rotate):
    def step(memory: Memory, piece: Any) -> tuple[Memory, Array]:
        query, *tokens = piece
        new = add(memory, *tokens, threshold=threshold)
        return new, _attend(query, memory, new, tokens, scale, worth, rotate)

    memory, found = by_blocks(step, memory, given)
    query, _, values, _ = given
    return jnp.concatenate(found) if found else jnp.zeros_like(values, query.dtype), memory


def _attend(query, old: Memory, new: Memory, tokens: Any, scale, worth, rotate) -> Array:
    """What each query of a piece sees: far entries from before or after a block has left."""
    config, near, dtype = old.config, old.near, old.near.key.dtype
    far = opened(old), opened(new)
    count, wide = len(query), near.mass.dtype
    own = old.count + jnp.arange(count, dtype=jnp.int32)
    sink = jnp.arange(config.sinks, dtype=jnp.int32)
    token = jnp.concatenate([sink, ring_positions(old), own])
    mass = jnp.concatenate([near.mass, masses(tokens[2], count, wide)])
    first = own // config.block * config.block - config.window
    there = (token < config.sinks)[None] | (token[None] >= jnp.maximum(first, 0)[:, None])
    there = there & (token[None] <= own[:, None]) & (token >= 0)[None]
    later = own >= next_block(old)  # of another block than the memory's last token
    rows = jnp.ones(far[0].mass.shape, bool)[None]
    seen = jnp.concatenate([there, ~later[:, None] & rows, later[:, None] & rows], 1)
    own_worth = jnp.concatenate([jnp.ones((config.landmarks,), wide), worth])
    mass = jnp.concatenate([mass, *(x.mass * own_worth for x in far)])
    parts = [jnp.concatenate([x, y.astype(dtype)]) for x, y in zip(near, tokens[:2], strict=False)]
    key, value = (
        jnp.concatenate([x, *(getattr(y, name).astype(dtype) for y in far)])
        for x, name in zip(parts, ("key", "value"), strict=True)
    )
    if rotate is not None:
        where = jnp.concatenate([token.astype(wide), *(x.position for x in far)])
        key = rotate(key, where)
    return weigh(query, key, value, seen & (mass > 0)[None], mass[None], scale=scale)
