"""The boundary memory of physnet, in the training loop."""

from typing import Any, Literal

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


def boundary(config: memory.Config, *, scored: bool = True, power: float = 1.0):
    """Attention of one head through the memory.

    `scored`: a token's mass is the layer's score to a power. A small power chooses the same
    landmarks, but hardly weighs them in the softmax or in means; 0 with `scored` false.
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
        )

    return attend
