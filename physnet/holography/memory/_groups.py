"""How the training form computes: groups of blocks follow one another.

Within a group the landmarks are tokens picked out of the sequence, a short loop over its blocks
finds the slots at each, and then all its queries attend at the same time. The backward pass keeps
the slots at the border of each group and computes a group again.

Shapes: T tokens in M blocks of B, G blocks of a group, W window, S sinks, K landmarks, C slots.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from physnet import _varying
from physnet._dtypes import accurate
from physnet.holography.memory import _packing
from physnet.holography.memory._append import gate, masses, present
from physnet.holography.memory._config import Config
from physnet.holography.memory._landmarks import history
from physnet.holography.memory._leave import Tokens, merge, plan_of, stored
from physnet.holography.memory._read import weigh
from physnet.holography.memory._state import Far


@functools.partial(jax.jit, static_argnames=("config", "rotate", "most"))
def in_groups(query, key, value, score, scale, threshold, worth, *, config, rotate, most) -> Array:
    """`attention` of checked arguments; `most` tokens in a group, worth (C,) of the slots."""
    time, size = query.shape
    mass = masses(score, time, accurate(key.dtype))
    key, value = present(mass, key), present(mass, value)
    threshold = gate(threshold, mass.dtype)

    block, back = config.block, config.window // config.block
    blocks = -(-time // block)
    group = min(blocks, max(1, most // block))
    groups = -(-blocks // group)
    # Before the first block there are empty ones, as many as a query sees and one that leaves.
    before, after = (back + 1) * block, groups * group * block - time
    token = np.arange(-before, groups * group * block, dtype=np.int32)

    def blocked(x: Array) -> Array:
        x = jnp.pad(x, ((before, after), *((0, 0),) * (x.ndim - 1)))
        return x.reshape(-1, block, *x.shape[1:])

    def turn(x: Array, position: Array) -> Array:
        return x if rotate is None else rotate(x, position)

    place = jnp.arange(time, dtype=mass.dtype)
    turned = turn(key, place)
    sinks = jax.tree.map(lambda x: x[: config.sinks], (turned, value, mass))
    rest = jnp.where(np.arange(time) < config.sinks, 0, mass)
    position = jnp.asarray(token.reshape(-1, block), mass.dtype)
    tokens = Tokens(blocked(turned), blocked(value), blocked(rest), position)
    # Tokens as landmarks hold them, which also is how they are dropped later.
    held_key, held_value, held_turned = key, value, turned
    if config.bits is not None:
        held_key, held_value = (
            _packing.rounded(x.astype(mass.dtype), config.bits) for x in (key, value)
        )
        held_turned = turn(held_key.astype(key.dtype), place)
    steps = groups * group
    past = history(config, tokens.mass.reshape(-1), threshold, steps)
    own = np.arange(steps, dtype=np.int32)[:, None]

    def picked(index: Array, *parts: Array) -> tuple[Array, ...]:
        """Rows of (T, ...) by numbers that count from the first empty block on; 0 for none."""
        there, row = index >= before, jnp.maximum(index - before, 0)

        def one(x: Array) -> Array:
            shape = (*index.shape, *(1,) * (x.ndim - 1))
            return jnp.where(there.reshape(shape), x[row], jnp.zeros((), x.dtype))

        return tuple(map(one, parts))

    slab = np.arange(groups)[:, None] * group + np.arange(group + back + 1)
    plan = plan_of(config, np.maximum(np.arange(steps, dtype=np.int32) - back, 0))
    given = (
        blocked(query)[back + 1 :].reshape(groups, group, block, size),
        jax.tree.map(lambda x: x[slab], tokens),
        jax.tree.map(
            lambda x: jnp.asarray(x).reshape(groups, group, -1),
            (past.landmark, past.dropped, past.dropped // block == own, plan),
        ),
    )
    inner = accurate(key.dtype) if config.bits is not None else key.dtype
    slots = Far(
        jnp.zeros((config.slots, size), inner),
        jnp.zeros((config.slots, value.shape[1]), inner),
        jnp.zeros((config.slots,), mass.dtype),
        jnp.zeros((config.slots,), mass.dtype),
    )
    slots = _varying.alike(slots, given, rest)

    @jax.checkpoint
    def body(slots: Far, given: Any) -> tuple[Far, Array]:
        queries, tokens, (landmark, dropped, new, plan) = given
        leaving = picked(dropped, rest, place)
        parts = (
            jnp.where(new[..., None], *picked(dropped, exact, held))
            for exact, held in ((key, held_key), (value, held_value))
        )

        def step(slots: Far, leaving: Any) -> tuple[Far, Far]:
            slots = stored(config, merge(config, slots, *leaving), key.dtype)
            return slots, slots

        slots, levels = lax.scan(step, slots, (Tokens(*parts, *leaving), plan))
        flat = levels.key.reshape(-1, size).astype(key.dtype)
        far = turn(flat, levels.position.reshape(-1)).reshape(levels.key.shape)
        apart = picked(landmark, held_turned, held_value.astype(value.dtype), rest)
        levels = (far, levels.value.astype(value.dtype), levels.mass * worth[None])
        held = jax.tree.map(lambda x, y: jnp.concatenate([x, y], 1), apart, levels)
        return slots, _group(config, queries, tokens, held, sinks, scale)

    _, y = lax.scan(body, slots, given)
    return y.reshape(-1, y.shape[-1])[:time]


def _group(config: Config, queries, tokens: Tokens, held, sinks, scale) -> Array:
    """Attention (G, B, e) of the queries of G blocks; `held`: key, value and mass; keys turned."""
    group, block, _ = queries.shape
    near = np.arange(group)[:, None] + 1 + np.arange(config.ring // block)

    def window(x: Array) -> Array:
        return x[near].reshape(group, config.ring, *x.shape[2:])

    def every(x: Array) -> Array:
        return jnp.broadcast_to(x[None], (group, *x.shape))

    around = (window(tokens.key), window(tokens.value), window(tokens.mass))
    keys, values, mass = (
        jnp.concatenate([every(sink), far, ring], 1)
        for sink, far, ring in zip(sinks, held, around, strict=True)
    )
    position = window(tokens.position)
    first = jnp.arange(len(sinks[2]), dtype=position.dtype)
    last = jnp.concatenate([every(first), jnp.zeros_like(held[2]), position], 1)
    now = position[:, -block:, None]
    seen = (mass > 0)[:, None] & (last[:, None] <= now)
    return weigh(queries, keys, values, seen, mass[:, None], scale=scale)
