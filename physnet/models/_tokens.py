"""Tokens as every model takes them."""

from typing import Any

import jax
import jax.numpy as jnp


def check_tokens(tokens: jax.Array) -> None:
    """Raise for what are no tokens (B, T)."""
    if tokens.ndim != 2 or tokens.shape[1] == 0:
        raise ValueError(
            f"tokens must have the shape (batch, time) with at least one token, got {tokens.shape}"
        )
    if not jnp.issubdtype(tokens.dtype, jnp.integer):
        raise TypeError(f"tokens must be integers, got dtype {tokens.dtype}")


def embed(table: jax.Array, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Rows of the table; NaN for a token outside it, so that it shows."""
    rows = table.astype(dtype).at[tokens]
    return rows.get(mode="fill", fill_value=jnp.nan, wrap_negative_indices=False)
