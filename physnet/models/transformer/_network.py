"""The network around attention, and attention's weights.

Shapes: B batch, T time, S keys, V vocabulary, W width, N heads, D = W / N.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from physnet._dtypes import accurate
from physnet.models import _sharding
from physnet.models._axes import Axes
from physnet.models._tokens import embed, replace
from physnet.models.transformer._config import TransformerConfig
from physnet.nn.layers import Drop


def logits(
    config: TransformerConfig,
    params: Any,
    tokens: jax.Array,
    position: jax.Array,
    attend: Callable[..., jax.Array],
    drop: Drop,
    dtype: Any,
    axes: Axes = _sharding.NONE,
    key: jax.Array | None = None,
) -> jax.Array:
    """Logits (B, T, V) around attend(layer, query, key, value), all (B, T, N, D).

    `position` (T, W) of these tokens, `key` of the tokens that are replaced.
    """
    batch, time = tokens.shape
    embedding = params["token"].astype(dtype)
    tokens = replace(config.token_dropout, key, tokens, config.vocab_size)
    x = embed(embedding, tokens, dtype)
    x = x + position.astype(dtype)[None]
    # One row a token: products of matrices (B T, W) are faster on CPUs than of (B, T, W).
    x = drop(x.reshape(batch * time, config.width), 0)
    for index in range(config.layers):  # unrolled: on CPUs faster than a scan over the layers
        layer = jax.tree.map(lambda leaf, i=index: leaf[i], params["layers"])
        qkv = _sharding.columns(layer["qkv"], 3, axes.tensor)
        h = _sharding.read(_norm(x, layer["norm_attention"]), axes.tensor) @ qkv.astype(dtype)
        h = h.reshape(batch, time, 3, -1, config.width // config.heads)
        h = attend(index, h[:, :, 0], h[:, :, 1], h[:, :, 2]).reshape(len(x), -1)
        h = _sharding.summed(h @ layer["out"].astype(dtype), axes.tensor)
        x = x + drop(h, 3 * index + 2)
        h = _sharding.read(_norm(x, layer["norm_mlp"]), axes.tensor)
        h = jax.nn.gelu(h @ layer["up"].astype(dtype), approximate=True)
        h = _sharding.summed(h @ layer["down"].astype(dtype), axes.tensor)
        x = x + drop(h, 3 * index + 3)
    x = _norm(x, params["norm"])
    found = jnp.einsum("rw,vw->rv", x, embedding, preferred_element_type=accurate(dtype))
    return found.reshape(batch, time, config.vocab_size)


def weights(q: jax.Array, k: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax (B, N, T, S) over the pairs of a mask (T, S), of q (B, N, T, D), k (B, N, S, D)."""
    wide = accurate(q.dtype)
    q = q * q.shape[-1] ** -0.5
    found = jnp.einsum("bntd,bnsd->bnts", q, k, preferred_element_type=wide)
    found = jnp.where(mask[None, None], found, jnp.finfo(wide).min)
    return jax.nn.softmax(found, axis=-1).astype(q.dtype)


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    y = x.astype(accurate(x.dtype))
    y = y - jnp.mean(y, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)
    return (y * scale[None].astype(y.dtype)).astype(x.dtype)
