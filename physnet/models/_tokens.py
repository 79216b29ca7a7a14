"""Tokens as every model takes them."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from physnet import _checks
from physnet.nn.layers import linear

PRODUCT_ROWS = 4096  # longer tables cost more to multiply than to gather from


def check_tokens(params: Any, tokens: Any, name: str = "tokens") -> jax.Array:
    """The tokens (B, T), or an error for what are none, or for parameters that are no dict."""
    _checks.instance("params", params, Mapping)
    found = _checks.array(name, tokens)
    if found.ndim != 2 or 0 in found.shape:
        raise ValueError(
            f"{name} must have the shape (batch, time) with at least one token, got {found.shape}"
        )
    return _checks.integer(name, found)


def embed(table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Rows of the table; NaN for a token outside it, so that it shows.

    In 16 bits the gradient of a gather would add up what every occurrence of a token gives in
    16 bits, one after another. The rows of a short table are taken by a product instead, which
    adds in float32 on the units for matrices; those of a long one in the table's own dtype.
    """
    if jnp.finfo(dtype).bits >= 32 or len(table) > PRODUCT_ROWS:
        rows = table.at[tokens].get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
        return rows.astype(dtype)
    one_hot = jax.nn.one_hot(tokens, len(table), dtype=dtype)
    rows = linear(one_hot, table)
    known = (tokens >= 0) & (tokens < len(table))
    return jnp.where(known[..., None], rows, jnp.asarray(jnp.nan, dtype))


REPLACING = 2**30 + 1
"""Folds the key that chooses replaced tokens from those of dropout, beyond every site of it."""


def replace(rate: float, key: jax.Array | None, tokens: jax.Array, vocab_size: int) -> jax.Array:
    """Tokens (B, T) of which a share gives its place to tokens drawn evenly from [0, vocab_size).

    The others stay as they are. Without a key, or at rate 0, the identity.
    """
    if key is None or rate == 0.0:
        return tokens
    which, what = jax.random.split(jax.random.fold_in(key, REPLACING))
    others = jax.random.randint(what, tokens.shape, 0, vocab_size, tokens.dtype)
    return jnp.where(jax.random.bernoulli(which, rate, tokens.shape), others, tokens)
