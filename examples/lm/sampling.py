"""Text that a model writes: a character at a time, each from the last `context` ones."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.corpus import Corpus
from lm.rows import Model


def write(
    model: Model,
    params: Any,
    corpus: Corpus,
    count: int,
    *,
    context: int,
    temperature: float,
    dtype: Any,
    seed: int,
) -> str:
    """`count` characters after a line break (or the first held-out character where none is)."""
    if count == 0:
        return ""
    line_break = corpus.characters.find("\n")
    first = line_break if line_break >= 0 else int(corpus.validation[0])

    @jax.jit
    def run(params: Any, keys: jax.Array) -> jax.Array:
        def one(carry: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[Any, jax.Array]:
            window, length = carry
            # What lies beyond `length` does not reach the logits there: the models are causal.
            logits = model.apply(model.config, params, window[None], dtype=dtype)[0, length - 1]
            token = jax.random.categorical(key, logits / temperature).astype(jnp.int32)
            full = length == context  # from then on the window moves
            window = jnp.where(full, jnp.roll(window, -1), window)
            length = jnp.where(full, length, length + 1)
            return (window.at[length - 1].set(token), length), token

        window = jnp.zeros((context,), jnp.int32).at[0].set(first)
        return jax.lax.scan(one, (window, jnp.ones((), jnp.int32)), keys)[1]

    keys = jax.random.split(jax.random.key(seed), count)
    return corpus.decode(np.asarray(run(params, keys)))
