"""What drives the kernels of scattering attention.

Shapes: B rows that share an order of tokens, N query heads, K key heads (N a multiple of K), P and
Q blocks of 128 queries and keys, D head dimension. L is 1, or N where heads have lists of their
own; S is 1, or N where they have scores of their own.
"""

from typing import Literal, NamedTuple

import jax
import numpy as np

BLOCK = 128
NO_TOKEN = np.int32(2**31 - 1)  # the position of an empty slot


class Rule(NamedTuple):
    """Which pairs a pass takes; static."""

    band: Literal["all", "far", "near"]  # of the local band: no matter, left out, alone
    window: int
    is_causal: bool
    scale: float


class Lists(NamedTuple):
    """Which pairs of blocks to visit; a step is 2 * block + (1 where its pairs need the mask)."""

    steps: jax.Array  # (B, L, P, V) int32: key blocks that a query block visits, ascending
    count: jax.Array  # (B, L, P) int32: how many; what follows in steps is within range
    order: jax.Array  # (B, L, P) int32: query blocks, those of most steps first
    key_steps: jax.Array  # (B, L, Q, U) int32: the transpose
    key_count: jax.Array  # (B, L, Q)
    key_order: jax.Array  # (B, L, Q)


class Labels(NamedTuple):
    """What decides the pairs of a block that needs the mask."""

    query_position: jax.Array  # (B, 128 P) int32, NO_TOKEN in an empty slot
    key_position: jax.Array  # (B, 128 Q)
    query_segment: jax.Array | None  # int32 likewise: other segments form no pair
    key_segment: jax.Array | None
    query_score: jax.Array | None  # (B, S, 128 P) float32
    key_score: jax.Array | None  # (B, S, 128 Q)
    threshold: jax.Array | None  # (B, S) float32


class Marks(NamedTuple):
    """What a forward kernel says of tokens that are not finite."""

    queries: jax.Array  # (B, N, 128 P) booleans
    key_blocks: jax.Array  # (B, K, Q): blocks that may hold such keys or values
