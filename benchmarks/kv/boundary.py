"""The boundary memory of physnet, in the training loop."""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from kv.model import rotate
from physnet.holography import memory


def size(
    budget: int,
    head_dim: int,
    *,
    length: int,
    landmarks: bool = True,
    levels: bool = True,
    bits: Literal[8, 4, 2] | None = None,
    window_share: float = 0.25,
) -> memory.Config:
    """A memory for sequences of a length: few levels, the rest for a window and landmarks.

    Blocks and sinks shrink with the budget, so that they do not take all of it.
    """
    tokens = budget // (4 * head_dim)
    block, sinks, per_level = (8, 1, 2) if tokens < 128 else (16, 4, 4)
    block = 32 if tokens >= 256 else block
    deep = length // block
    return memory.configure(
        budget,
        head_dim,
        dtype=jnp.bfloat16,
        bits=bits,
        block=block,
        sinks=sinks,
        per_level=per_level,
        levels=None if levels else 0,
        longest=deep * block,
        window_share=window_share if landmarks else 1.0,
    )


def nbytes(config: memory.Config, head_dim: int) -> int:
    return config.nbytes(head_dim, dtype=jnp.bfloat16)


SWING = 30.0  # some hundred small steps must be able to move a bias by several nats


def bias_start(config: memory.Config) -> jax.Array:
    """The parameter behind `slot_bias`: merged slots weigh e^-3 of their tokens' count."""
    return jnp.full((config.levels,), -3.0 / SWING, jnp.float32)


def slot_bias(params: jax.Array) -> jax.Array:
    """What is added to the logits of merged slots, (levels,)."""
    return SWING * params


def boundary(
    config: memory.Config, *, scored: bool = True, power: float = 1.0, biased: bool = False
):
    """Attention of one head through the memory.

    Args:
        scored: a token's mass is the layer's score to a power. A small power chooses the same
            landmarks, but hardly weighs them in the softmax or in means; 0 with `scored` false.
        biased: a learned bias of each level's slots.
    """

    def attend(params: Any, query, key, value, score):
        place = jnp.arange(len(query), dtype=query.dtype)
        return memory.attention(
            rotate(query, place),
            key,
            value,
            score**power if scored else None,
            config=config,
            rotate=rotate,
            slot_bias=slot_bias(params) if biased else None,
        )

    return attend
