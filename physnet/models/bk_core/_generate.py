"""Text from a model, with a cache that grows only with the tokens that the gates keep."""

import functools
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from physnet import _checks
from physnet.models._tokens import check_tokens
from physnet.models.bk_core import _cache, _model

_SEGMENT = 64  # tokens between two looks at the cache


def generate(
    config: _model.BKCoreConfig,
    params: _model.Params,
    prompt: Int[Array, "B P"],
    count: int,
    *,
    key: jax.Array,
    temperature: float = 1.0,
    dtype: Any = jnp.float32,
) -> Int[Array, "B count"]:
    """Sample the tokens that follow a prompt.

    Called outside jit, it looks at the cache every 64 tokens and gives it the next power of two of
    slots when the kept tokens need them. Inside jit or vmap it makes room for every token at once.
    The same key gives the same tokens either way.

    Args:
        config: the sizes.
        params: as `init` returns them, gates set by `calibrate`.
        prompt: (B, P) integers, P >= 1.
        count: how many tokens to sample. Static.
        key: a JAX random key.
        temperature: divides the logits; 0 takes the likeliest token. Static.
        dtype: as in `apply`.

    Returns:
        (B, count) integers, of the dtype of prompt.

    Raises:
        ValueError: an empty prompt, count < 1, or a negative temperature.
        TypeError: tokens are not integers.
        FloatingPointError: the logits are NaN (outside jit; inside it the tokens from there on
            are -1).

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.models import bk_core
        >>> config = bk_core.BKCoreConfig(vocab_size=7, layers=1, heads=2, width=16, chains=4)
        >>> params = jax.jit(bk_core.init, static_argnums=0)(config, jax.random.key(0))
        >>> bk_core.generate(config, params, jnp.array([[1, 2]]), 5, key=jax.random.key(1)).shape
        (1, 5)
    """
    prompt = check_tokens(params, prompt, "prompt")
    count, key = _checks.positive_int("count", count), _checks.key("key", key)
    if not (temperature := _checks.number("temperature", temperature)) >= 0:
        raise ValueError(f"temperature must be >= 0, got {temperature}")
    batch, length = prompt.shape
    # Under jit what is made here is traced, even where all arguments are constants.
    given = jax.tree.leaves((params, prompt, key, jnp.zeros(())))
    traced = any(isinstance(leaf, jax.core.Tracer) for leaf in given)
    cache = _cache.init_cache(config, batch, length + count * traced, dtype=dtype)
    first, cache = _start(config, params, prompt, cache, key, temperature, dtype)
    pieces, made = [first[:, None]], 1
    _check(pieces[-1], length, traced)
    while made < count:
        steps = count - made if traced else min(_SEGMENT, count - made)
        if not traced and config.attention and config.memory is None:
            used = max(int(np.max(layer.count)) for layer in cache.layers)
            cache = _cache.fit_cache(cache, _room(used + steps))
        piece, cache = _go_on(
            config, params, pieces[-1][:, -1], cache, key, steps, temperature, dtype
        )
        _check(piece, length + made, traced)
        pieces.append(piece)
        made += steps
    return jnp.concatenate(pieces, axis=1).astype(prompt.dtype)


def _check(piece: jax.Array, begin: int, traced: bool) -> None:
    if traced or not bool(jnp.any(piece < 0)):
        return
    at = begin + int(np.argmax(np.any(np.asarray(piece) < 0, axis=0)))
    raise FloatingPointError(f"the logits for the token at position {at} are NaN")


def _room(needed: int) -> int:
    return max(_SEGMENT, 1 << (needed - 1).bit_length())


@functools.partial(jax.jit, static_argnums=(0, 5, 6))
def _start(config, params, prompt, cache, key, temperature, dtype):
    logits, cache = _cache.extend(config, params, prompt, cache, dtype=dtype)
    return _sample(logits[:, -1], cache.length, key, temperature), cache


@functools.partial(jax.jit, static_argnums=(0, 5, 6, 7))
def _go_on(config, params, token, cache, key, steps, temperature, dtype):
    def step(carry, _):
        token, cache = carry
        logits, cache = _cache.extend(config, params, token[:, None], cache, dtype=dtype)
        token = _sample(logits[:, 0], cache.length, key, temperature)
        return (token, cache), token

    (_, cache), tokens = jax.lax.scan(step, (token, cache), None, length=steps)
    return jnp.swapaxes(tokens, 0, 1), cache


def _sample(logits: jax.Array, length: jax.Array, key: jax.Array, temperature: float) -> jax.Array:
    if temperature == 0:
        token = jnp.argmax(logits, -1)
    else:
        key = jax.random.fold_in(key, length)
        token = jax.random.categorical(key, logits / temperature, axis=-1)
    return jnp.where(jnp.any(jnp.isnan(logits), -1), -1, token).astype(jnp.int32)
