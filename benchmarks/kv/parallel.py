"""The boundary memory's attention over a whole sequence at once, to train with.

What a memory holds behind a block follows from the masses alone. Landmarks are the tokens of most
mass among all that have left the window (of equal ones the newest), because what is dropped never
comes back; and every other token that has left is in the slot whose span contains it. So the
memories of all blocks are two masks, and attention is dense: O(T^2), without a loop over blocks,
for sequences of thousands of tokens. Equal to `memory.attention` where nothing is quantised; where
slots are, those that merged more than once are rounded once here.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from kv.boundary import slot_bias
from kv.dense import age, foretold, logits, softmax
from kv.levels import counter
from kv.model import rotate
from physnet.holography import memory
from physnet.holography.memory._packing import rounded


def spans(config: memory.Config, blocks: int) -> np.ndarray:
    """(blocks, slots, 2): first block of each slot that a query of a block finds, and the next."""
    back = config.window // config.block
    states = [counter(blocks, config.per_level)[max(b - back, 0)] for b in range(blocks)]
    if any(level >= config.levels for state in states for level, _ in state):
        raise ValueError(f"{config} has too few levels for {blocks} blocks")
    found = np.zeros((blocks, max(map(len, states)), 2), np.int32)
    for b, state in enumerate(states):
        for s, (level, index) in enumerate(state):
            found[b, s] = index << level, (index + 1) << level
    return found


def landmarks(config: memory.Config, mass: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Which tokens have left for the queries of a block and which of them are landmarks (M, T)."""
    block, length = config.block, len(mass)
    place = jnp.arange(length, dtype=jnp.int32)
    worth = mass
    if config.recency is not None:
        worth = jnp.log(jnp.where(mass > 0, mass, 1.0)) + place.astype(mass.dtype) / config.recency
        worth = jnp.where(mass > 0, worth, -jnp.inf)
    after = (worth[:, None] > worth[None]) | (
        (worth[:, None] == worth[None]) & (place[:, None] > place[None])
    )
    after &= place[:, None] != place[None]  # compilers may round its two logarithms differently
    beaten = jnp.sum(after.reshape(-1, block, length), 1, dtype=jnp.int32)
    rank = jnp.cumsum(beaten, 0) - beaten  # by the tokens of the blocks before
    gone = np.maximum(np.arange(length // block) - config.window // config.block, 0)
    left = (place // block)[None] < jnp.asarray(gone, jnp.int32)[:, None]
    left = left & (mass > 0)[None]
    return left, left & (rank[gone] < config.landmarks)


def boundary(
    config: memory.Config,
    *,
    scored: bool = True,
    power: float = 1.0,
    teach: bool = False,
    biased: bool = False,
):
    """Attention of one head through the memory, as `kv.boundary.boundary` gives it.

    `teach`: the score learns to foretell what queries would attend to if all tokens were there
    (`kv.dense.foretold`, the second result), and has no gradient as a mass.
    """
    block, back = config.block, config.window // config.block

    @jax.checkpoint
    def attend(params: Any, query, key, value, score):
        length, dim = key.shape
        mass = jax.lax.stop_gradient(score) if teach else score
        mass = mass**power if scored else jnp.ones_like(score)
        own = jnp.arange(length, dtype=jnp.int32)
        rest = jnp.where(own < config.sinks, 0.0, mass)
        left, kept = landmarks(config, jax.lax.stop_gradient(rest))
        old = own[:, None] // block - own[None] // block
        near = (age(length) >= 0) & ((old <= back) | (own < config.sinks)[None])
        far = jnp.repeat(kept, block, 0) & ~near
        bias = jnp.log(jnp.where(mass > 0, mass, 1.0))[None]
        shown = logits(query, key)
        whole = softmax(shown, age(length) >= 0)
        shown = shown + bias
        held = value
        if config.bits is not None:
            held = rounded(value, config.bits)
            shown = jnp.where(far, logits(query, rounded(key, config.bits)) + bias, shown)
        shown = jnp.where((near | far) & (mass > 0)[None], shown, -1e30)
        if not config.levels:
            weight = jax.nn.softmax(shown, -1)
            out = jnp.where(far, 0.0, weight) @ value + jnp.where(far, weight, 0.0) @ held
            return (out, foretold(whole, score)) if teach else out

        span = spans(config, length // block)
        inside = (span[..., :1] <= own // block) & (own // block < span[..., 1:])
        weight = jnp.where(inside & (left & ~kept)[:, None], rest, 0.0)  # (M, C, T)
        heavy = jnp.sum(weight, -1)
        weight = weight / jnp.where(heavy > 0, heavy, 1.0)[..., None]
        keys, values = weight @ key, weight @ value
        if config.bits is not None:
            keys, values = (
                rounded(x.reshape(-1, dim), config.bits).reshape(x.shape) for x in (keys, values)
            )
        keys = rotate(keys, weight @ own.astype(key.dtype))
        turned = rotate(query, own.astype(query.dtype)).reshape(-1, block, dim)
        slots = jnp.einsum("mbd,mcd->mbc", turned, keys) * dim**-0.5
        slots = slots + jnp.log(jnp.where(heavy > 0, heavy, 1.0))[:, None]
        if biased:
            level = np.log2(np.maximum(span[..., 1] - span[..., 0], 1)).astype(np.int32)
            slots = slots + slot_bias(params)[level][:, None]
        slots = jnp.where((heavy > 0)[:, None], slots, -1e30).reshape(length, -1)
        weight = jax.nn.softmax(jnp.concatenate([shown, slots], 1), -1)
        tokens, slots = weight[:, :length], weight[:, length:].reshape(-1, block, span.shape[1])
        out = jnp.where(far, 0.0, tokens) @ value + jnp.where(far, tokens, 0.0) @ held
        out = out + jnp.einsum("mbc,mcd->mbd", slots, values).reshape(length, dim)
        return (out, foretold(whole, score)) if teach else out

    return attend
