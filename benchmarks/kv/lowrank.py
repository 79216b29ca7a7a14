"""Peers: all tokens in few dimensions, by the SVD of a sequence or by trained projections.

References:
    Chang et al. 2024, Palu: Compressing KV-Cache with Low-Rank Projection.
    DeepSeek-AI 2024, DeepSeek-V2 (multi-head latent attention).
"""

from typing import Any

import jax
import jax.numpy as jnp

from kv.dense import age, logits, softmax
from kv.eviction import OBSERVED
from kv.model import rounded


def leading(x: jax.Array, rank: int) -> jax.Array:
    """Right singular vectors (d, rank) of x (n, d)."""
    return jnp.linalg.eigh(x.T @ x)[1][:, ::-1][:, :rank]


def svd(rank: int):
    """Keys and values on the leading singular vectors of the prompt; 32 tokens exact."""

    def attend(params, query, key, value, score):
        length = len(key)
        prompt = length * 3 // 4
        thin = []
        for x in (key, value):
            basis = rounded(leading(x[:prompt], rank))
            thin.append(rounded(x @ basis) @ basis.T)
        old = age(length)
        weight = softmax(
            jnp.where(old < OBSERVED, logits(query, key), logits(query, thin[0])), old >= 0
        )
        recent = old < OBSERVED
        return jnp.where(recent, weight, 0.0) @ value + jnp.where(recent, 0.0, weight) @ thin[1]

    return attend


def svd_bytes(rank: int, length: int, head_dim: int) -> int:
    return 2 * 2 * rank * (length + head_dim) + OBSERVED * 4 * head_dim


def latent_start(key: jax.Array, value: jax.Array, rank: int) -> dict[str, Any]:
    """Projections of one head from samples (n, d) of its keys and values: their leading vectors."""
    found = {}
    for name, x in (("key", key), ("value", value)):
        basis = leading(x, rank)
        found[name] = {"down": basis, "up": basis.T}
    return found


def latent(params, query, key, value, score) -> jax.Array:
    """Attention to keys and values that were projected down (cached so) and up again."""
    thin = [
        rounded(x @ params[name]["down"]) @ params[name]["up"]
        for name, x in (("key", key), ("value", value))
    ]
    return softmax(logits(query, thin[0]), age(len(key)) >= 0) @ thin[1]
