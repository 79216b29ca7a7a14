"""Attention of one head under a mask: the full cache, and what the masks of peers build on."""

import jax
import jax.numpy as jnp

from kv.model import rotate

LATER = 16


def logits(query: jax.Array, key: jax.Array) -> jax.Array:
    """Scaled products (T, T) of rotated queries and keys (T, d)."""
    place = jnp.arange(len(query), dtype=query.dtype)
    return rotate(query, place) @ rotate(key, place).T * query.shape[-1] ** -0.5


def age(length: int) -> jax.Array:
    """t - j of a query t and a token j, (T, T); negative: later."""
    place = jnp.arange(length, dtype=jnp.int32)
    return place[:, None] - place[None]


def softmax(scores: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax over what the mask lets through."""
    return jax.nn.softmax(jnp.where(mask, scores, -1e30), -1)


def full(params: None, query, key, value, score) -> jax.Array:
    """Causal attention over all tokens."""
    return softmax(logits(query, key), age(len(query)) >= 0) @ value


def taught(params: None, query, key, value, score) -> tuple[jax.Array, jax.Array]:
    """The same, and how badly the score foretells the most attention that a token gets later on.

    Later: from `LATER` tokens on. The cross-entropy trains the score alone (`model.projections`
    stops its gradient there), as retaining heads are trained (Huang et al. 2024, Locret).
    """
    weight = softmax(logits(query, key), age(len(query)) >= 0)
    return weight @ value, foretold(weight, score)


def foretold(weight: jax.Array, score: jax.Array) -> jax.Array:
    """Cross-entropy of scores (T,) to the most that later queries attend, from weights (T, T)."""
    later = jnp.where(age(len(score)) >= LATER, jax.lax.stop_gradient(weight), 0.0)
    target, score = jnp.max(later, 0), jnp.clip(score, 1e-6, 1 - 1e-6)
    cross = target * jnp.log(score) + (1 - target) * jnp.log1p(-score)
    return -jnp.mean(cross)
