"""Attention of one new token of each sequence over a cache, which is read once and never copied.

Products and sums over the last axis instead of products of matrices: those would first bring the
keys of a head together, which costs more than one query does.

Shapes: B batch, N heads, D head dimension, R ring, C slots.
"""

from typing import Any

import jax
import jax.numpy as jnp

from physnet._dtypes import accurate

Params = dict[str, Any]


def attend(
    params: Params,
    query: jax.Array,
    score: jax.Array,
    position: jax.Array,
    slots: Any,
    near: Any,
    *,
    local_window: int,
) -> jax.Array:
    """Output (B, N, D) of the token at `position`, whose own key is the last one of `near`.

    Args:
        params: of `nn.attention.init`.
        query: (B, N, D).
        score: (B, N).
        position: int32.
        slots: cached tokens (B, C, N, ...); those that are also in `near` are passed over.
        near: the ring's tokens and the new one, (B, R + 1, N, ...).
        local_window: as in `attention.scattering_attention`.
    """
    first = position - (near.score.shape[1] - 1)

    def passes(tokens: Any) -> jax.Array:
        return score[:, None] * tokens.score > params["threshold"][None, None]

    in_band = position - near.position < local_window  # of no token: less than 0, masked below
    masks = (
        passes(slots) & (slots.position < first),
        (passes(near) | in_band) & (near.position <= position),
    )
    parts = [
        jnp.where(mask, _logits(params, query, tokens), -jnp.inf)
        for mask, tokens in zip(masks, (slots, near), strict=True)
    ]
    top = jnp.maximum(jnp.max(parts[1], 1), jnp.max(parts[0], 1, initial=-jnp.inf))
    top = jnp.where(top == -jnp.inf, 0, top)[:, None]
    weights = [jnp.exp(part - top) for part in parts]
    total = jnp.sum(weights[0], 1) + jnp.sum(weights[1], 1)
    summed, others = (
        jnp.sum(weight[..., None] * tokens.value.astype(weight.dtype), 1)
        for weight, tokens in zip(weights, (slots, near), strict=True)
    )
    summed, total = summed + others, total[..., None]
    return (summed / jnp.where(total == 0, 1, total)).astype(query.dtype)


def _logits(params: Params, query: jax.Array, tokens: Any) -> jax.Array:
    """(B, S, N), at least float32."""
    wide = accurate(query.dtype)
    scaled = query[:, None].astype(wide) * query.shape[-1] ** -0.5
    logits = jnp.sum(scaled * tokens.key.astype(wide), -1)
    if "soft_gate" in params:
        bias = params["soft_gate"][None, None] * jnp.log(jnp.maximum(tokens.score, 1e-6))
        logits = logits + bias.astype(wide)
    return logits
