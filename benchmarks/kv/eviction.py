"""Peers that keep some tokens exactly: sliding window with sinks, H2O, SnapKV.

Each gives the mask of what a query still finds in the cache. Masks that depend on attention take
no gradient; under them attention is trained as usual, so that each of the three can be had in the
training loop.

References:
    Xiao et al. 2024, Efficient Streaming Language Models with Attention Sinks.
    Zhang et al. 2023, H2O: Heavy-Hitter Oracle for Efficient Generative Inference of LLMs.
    Li et al. 2024, SnapKV: LLM Knows What You are Looking for Before Generation.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from kv.dense import age, logits, softmax

SINKS = 4
BLOCK = 16  # H2O decides after as many tokens
OBSERVED = 32  # SnapKV's last queries of the prompt, and its window in the tail
POOL = 7


def window_mask(scores: jax.Array, *, tokens: int) -> jax.Array:
    """The first 4 and the last `tokens` - 4 tokens."""
    old = age(len(scores))
    first = jnp.arange(len(scores), dtype=jnp.int32)[None] < SINKS
    return (old >= 0) & ((old < tokens - SINKS) | first)


def h2o_mask(scores: jax.Array, *, tokens: int) -> jax.Array:
    """Of at most `tokens`: half the last ones, half those that got most attention so far."""
    recent = (tokens - BLOCK) // 2
    heavy = tokens - BLOCK - recent
    length = len(scores)
    place = jnp.arange(length, dtype=jnp.int32)

    def block(state, rows):
        alive, mass = state
        first, own = rows
        queries = first + jnp.arange(BLOCK, dtype=jnp.int32)
        mask = (alive | (place >= first))[None] & (place[None] <= queries[:, None])
        mass = mass + jnp.sum(softmax(own, mask), 0)
        last = (place > queries[-1] - recent) & (place <= queries[-1])
        rank = jnp.where((alive | (place >= first)) & (place <= queries[-1]) & ~last, mass, -1.0)
        kept = jax.lax.top_k(rank, heavy)[1]
        alive = jnp.zeros_like(alive).at[kept].set(rank[kept] >= 0) | last
        return (alive, mass), mask

    start = (jnp.zeros(length, bool), jnp.zeros(length, scores.dtype))
    rows = (place[::BLOCK], scores.reshape(-1, BLOCK, length))
    return jax.lax.scan(block, start, rows)[1].reshape(length, length)


def snapkv_mask(scores: jax.Array, *, tokens: int, shown: bool = False) -> jax.Array:
    """Behind the prompt only what the last queries of the prompt voted for, and a window.

    With `shown` the queries of the tail vote: the questions are known before anything is dropped.
    """
    length = len(scores)
    prompt = length * 3 // 4
    old = age(length)
    place = jnp.arange(length, dtype=jnp.int32)
    voters = slice(prompt, length) if shown else slice(prompt - OBSERVED, prompt)
    within = (old >= 0) & (place[None] < prompt)
    votes = jnp.sum(softmax(scores[voters], within[voters]), 0)
    half = POOL // 2
    padded = jnp.pad(votes, half)
    votes = jnp.max(jnp.stack([padded[i : i + length] for i in range(POOL)]), 0)
    votes = jnp.where(place < prompt - OBSERVED, votes, -1.0)
    kept = jnp.zeros(length, bool).at[jax.lax.top_k(votes, tokens - OBSERVED)[1]].set(True)
    tail = (place >= prompt)[:, None]
    return (old >= 0) & (~tail | (old < OBSERVED) | kept[None])


def evicted(mask: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    """Attention of one head under a mask that its logits decide."""

    def attend(params, query, key, value, score):
        scores = logits(query, key)
        return softmax(scores, mask(jax.lax.stop_gradient(scores))) @ value

    return attend


def window(tokens: int) -> Callable[..., jax.Array]:
    return evicted(functools.partial(window_mask, tokens=tokens))


def h2o(tokens: int) -> Callable[..., jax.Array]:
    return evicted(functools.partial(h2o_mask, tokens=tokens))


def snapkv(tokens: int, *, shown: bool = False) -> Callable[..., jax.Array]:
    return evicted(functools.partial(snapkv_mask, tokens=tokens, shown=shown))
