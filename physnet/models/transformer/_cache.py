"""The transformer token by token, with a cache.

Shapes: B batch, T time, V vocabulary, N heads, D = W / N, C the room of a cache.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from physnet import _checks, holography
from physnet.models._tokens import check_tokens
from physnet.models.transformer import _network
from physnet.models.transformer._config import TransformerConfig
from physnet.nn import memory
from physnet.nn.layers import dropout

Params = dict[str, Any]


class Cache(NamedTuple):
    """Keys and values (B, N, C, D) of each layer, and the number of tokens behind them.

    Of a model with a memory, that of each layer in their place.
    """

    layers: tuple[tuple[jax.Array, jax.Array] | holography.memory.Memory, ...]
    length: jax.Array  # int32


def init_cache(
    config: TransformerConfig, batch: int, capacity: int, *, dtype: Any = jnp.float32
) -> Cache:
    """An empty cache.

    Args:
        config: the sizes.
        batch: B.
        capacity: C, the most tokens that it can hold; with a memory, that it may be given.
        dtype: of keys and values.

    Returns:
        A `Cache` of length 0.

    Raises:
        ValueError: batch < 1, or capacity is not in 1..context.
    """
    _checks.positive_int("batch", batch)
    _checks.positive_int("capacity", capacity)
    if capacity > config.context:
        raise ValueError(f"capacity must be at most context={config.context}, got {capacity}")
    if config.memory is not None:
        size = config.width // config.heads
        held = memory.init(
            config.memory, batch=batch, heads=config.heads, head_dim=size, dtype=dtype
        )
        return Cache((held,) * config.layers, jnp.zeros((), jnp.int32))
    empty = jnp.zeros((batch, config.heads, capacity, config.width // config.heads), dtype)
    return Cache(((empty, empty),) * config.layers, jnp.zeros((), jnp.int32))


def extend(
    config: TransformerConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    cache: Cache,
    *,
    dtype: Any = jnp.float32,
) -> tuple[Array, Cache]:
    """Logits of the tokens behind those in the cache, and the cache with them.

    The same numbers as `apply` on the whole sequence, to rounding. Forms all T C pairs at once.

    Args:
        config: the sizes.
        params: as `init` returns them.
        tokens: (B, T), T >= 1: a piece of a prompt, or one token of each sequence.
        cache: from `init_cache` or an earlier call.
        dtype: as in `apply`, and that of the cache.

    Returns:
        Logits (B, T, V) and the new cache; NaN where the cache has no room for the tokens.

    Raises:
        ValueError, TypeError: As `apply`; ValueError for a cache of another batch size or dtype,
            or more tokens than it has room for.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.models.transformer import apply, init
        >>> config = TransformerConfig(vocab_size=7, layers=2, width=16, context=8)
        >>> params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
        >>> tokens = jnp.array([[1, 2, 3, 4]])
        >>> run = jax.jit(lambda tokens, cache: extend(config, params, tokens, cache))
        >>> _, cache = run(tokens[:, :2], init_cache(config, 1, 8))
        >>> logits, cache = run(tokens[:, 2:], cache)
        >>> whole = jax.jit(lambda tokens: apply(config, params, tokens))(tokens)
        >>> bool(jnp.allclose(logits, whole[:, 2:], atol=1e-5)), int(cache.length)
        (True, 4)
    """
    tokens = check_tokens(params, tokens)
    _checks.instance("cache", cache, Cache)
    time = tokens.shape[1]
    first = cache.layers[0]
    held = first.near.key if isinstance(first, holography.memory.Memory) else first[0]
    if held.shape[0] != tokens.shape[0]:
        raise ValueError(
            f"tokens must have the cache's batch size {held.shape[0]}, got {tokens.shape}"
        )
    if held.dtype != dtype:
        raise ValueError(f"dtype must be the cache's {held.dtype}, got {jnp.dtype(dtype)}")
    capacity = config.context if config.memory is not None else held.shape[2]
    if time > capacity:
        raise ValueError(f"tokens must be at most the cache's {capacity}, got {time}")
    where = cache.length + jnp.arange(time, dtype=jnp.int32)
    seen = jnp.arange(capacity, dtype=jnp.int32)[None] <= where[:, None]
    layers = []

    def attend(index: int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        q, *new = (jnp.swapaxes(part, 1, 2) for part in (q, k, v))
        old = cache.layers[index]
        if isinstance(old, holography.memory.Memory):
            y, old = memory.over_heads(_decode, old, q, *new)
            layers.append(old)
            return jnp.swapaxes(y, 1, 2)
        k, v = (
            jax.lax.dynamic_update_slice_in_dim(part, fresh, cache.length, axis=2)
            for part, fresh in zip(old, new, strict=True)
        )
        layers.append((k, v))
        return jnp.swapaxes(jnp.einsum("bnts,bnsd->bntd", _network.weights(q, k, seen), v), 1, 2)

    position = jax.lax.dynamic_slice_in_dim(params["position"], cache.length, time)
    logits = _network.logits(config, params, tokens, position, attend, dropout(0.0, None), dtype)
    logits = jnp.where(cache.length + time > capacity, jnp.nan, logits)
    return logits, Cache(tuple(layers), cache.length + time)


def _decode(held, q, k, v) -> tuple[jax.Array, holography.memory.Memory]:
    return holography.memory.decode(q, held, k, v)
