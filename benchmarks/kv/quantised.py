"""Peer: keys and values of few bits, the newest tokens exact, with or without a window.

Keys share a scale and a zero per channel and group of tokens, values per token (KIVI); keys are
taken before the rotation (KVQuant). Rounding passes the gradient, so that it can be trained with.

References:
    Liu et al. 2024, KIVI: A Tuning-Free Asymmetric 2bit Quantization for KV Cache.
    Hooper et al. 2024, KVQuant: Towards 10 Million Context Length LLM Inference.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from kv.dense import age, logits, softmax
from kv.eviction import SINKS
from kv.model import rounded

GROUP = 32


def quantise(x: jax.Array, bits: int, axis: int) -> jax.Array:
    """x rounded to 2^bits levels between its least and greatest value along an axis."""
    low = rounded(jnp.min(x, axis, keepdims=True))
    step = rounded((jnp.max(x, axis, keepdims=True) - low) / (2**bits - 1) + 1e-8)
    level = jnp.clip(jnp.round((x - low) / step), 0, 2**bits - 1)
    return x + jax.lax.stop_gradient(low + step * level - x)


def quantised_bytes(groups: int, bits: int, head_dim: int) -> int:
    """Of full groups, one group and the sinks exact."""
    token = 2 * head_dim * bits / 8 + 4  # with scale and zero of its value
    return round(groups * (GROUP * token + 4 * head_dim) + (GROUP + SINKS) * 4 * head_dim)


def quantised(bits: int, groups: int | None = None) -> Callable[..., jax.Array]:
    """Attention to all tokens, or to those of the last full `groups` and the sinks."""

    def attend(params, query, key, value, score):
        length, dim = key.shape
        few = quantise(key.reshape(-1, GROUP, dim), bits, 1).reshape(length, dim)
        coarse = quantise(value, bits, 1)
        group = jnp.arange(length, dtype=jnp.int32) // GROUP
        old = group[:, None] - group[None]
        first = jnp.arange(length, dtype=jnp.int32)[None] < SINKS
        exact = (old == 0) | first
        seen = (age(length) >= 0) & (exact | (old <= (length if groups is None else groups)))
        weight = softmax(jnp.where(exact, logits(query, key), logits(query, few)), seen)
        return jnp.where(exact, weight, 0.0) @ value + jnp.where(exact, 0.0, weight) @ coarse

    return attend
