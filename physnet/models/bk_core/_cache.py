"""Decoding with a cache that keeps a token only where the gate could ever let it through.

A head's scores are at most 1, so a token whose score is at most the threshold passes with no
partner: it lives in the ring of the local band and is dropped when it leaves. The others move
from the ring to the head's slots.

Shapes: B batch, T new tokens, N heads, D head dimension, R ring (local_window - 1), C slots.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from physnet import _checks, _dispatch, greens, holography
from physnet.attention import scattering_attention
from physnet.models._tokens import check_tokens, embed
from physnet.models.bk_core import _block, _model, _one_token
from physnet.models.bk_core._block import Params
from physnet.models.bk_core._config import BKCoreConfig
from physnet.models.bk_core._partition import check_parts
from physnet.nn import attention as gated
from physnet.nn import memory, mixer
from physnet.nn.layers import dropout, linear, rms_norm

EMPTY = 2**31 - 1  # the position that attention takes for no token


class Tokens(NamedTuple):
    """Keys of some tokens, of each head its own."""

    key: jax.Array  # (B, S, N, D)
    value: jax.Array  # (B, S, N, D)
    score: jax.Array  # (B, S, N)
    position: jax.Array  # (B, S, N) int32


class LayerCache(NamedTuple):
    """What one layer keeps; without attention only the mixer's state."""

    state: greens.PropagateState
    ring: Tokens | None
    slots: Tokens | None
    count: jax.Array | None  # (B, N) tokens that were given a slot
    memory: holography.memory.Memory | None = None  # in place of ring and slots


class Cache(NamedTuple):
    """The caches of all layers, and the number of tokens behind them."""

    layers: tuple[LayerCache, ...]
    length: jax.Array  # int32

    @property
    def capacity(self) -> int:
        """Slots of a head."""
        slots = self.layers[0].slots
        return 0 if slots is None else slots.key.shape[1]


def init_cache(
    config: BKCoreConfig, batch: int, capacity: int, *, dtype: Any = jnp.float32
) -> Cache:
    """An empty cache.

    Args:
        config: the sizes.
        batch: B.
        capacity: C, slots of a head. A head that would need more makes the logits NaN. With
            `config.memory` there are none: the memory has its own size.
        dtype: of keys and values.

    Returns:
        A `Cache` of length 0.

    Raises:
        ValueError: batch < 1 or capacity < 0.
    """
    _checks.positive_int("batch", batch)
    _checks.positive_int("capacity", capacity, minimum=0)
    channels = config.width // (2 * config.chains) if config.mixer else 0
    chains = (batch, config.chains)
    state = greens.PropagateState(
        jnp.zeros(chains, jnp.complex64), jnp.zeros((*chains, channels), jnp.complex64)
    )
    if not config.attention:
        layer = LayerCache(state, None, None, None)
    elif config.memory is not None:
        size = config.width // config.heads
        held = memory.init(
            config.memory, batch=batch, heads=config.heads, head_dim=size, dtype=dtype
        )
        layer = LayerCache(state, None, None, None, held)
    else:
        ring = _empty(config, batch, max(config.local_window - 1, 0), dtype)
        slots = _empty(config, batch, capacity, dtype)
        layer = LayerCache(state, ring, slots, jnp.zeros((batch, config.heads), jnp.int32))
    return Cache((layer,) * config.layers, jnp.zeros((), jnp.int32))


def fit_cache(cache: Cache, capacity: int) -> Cache:
    """The cache with another number of slots.

    Args:
        cache: from `init_cache` or `extend`.
        capacity: C, at least the number of slots in use.

    Returns:
        A `Cache` with the same tokens.

    Raises:
        ValueError: known to hold more tokens than that.
    """
    _checks.instance("cache", cache, Cache)
    capacity = _checks.positive_int("capacity", capacity, minimum=0)
    layers = []
    for layer in cache.layers:
        if layer.slots is None:
            layers.append(layer)
            continue
        known = _checks.concrete(layer.count)
        if known is not None and known.max(initial=0) > capacity:
            raise ValueError(
                f"capacity must be at least the {known.max()} tokens in use, got {capacity}"
            )
        more = max(0, capacity - layer.slots.key.shape[1])
        batch, _, heads, size = layer.slots.key.shape
        spare = _blank(batch, more, heads, size, layer.slots.key.dtype)
        slots = jax.tree.map(lambda part: part[:, :capacity], _join(layer.slots, spare))
        layers.append(layer._replace(slots=slots))
    return cache._replace(layers=tuple(layers))


def extend(
    config: BKCoreConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    cache: Cache,
    *,
    dtype: Any = jnp.float32,
    implementation: _dispatch.Implementation | None = None,
) -> tuple[Array, Cache]:
    """Logits of the tokens behind those in the cache, and the cache with them.

    The same numbers as `apply` on the whole sequence, piece by piece, however it is cut, to
    rounding. The gate is hard: a pair whose product of scores is within rounding of the threshold
    may pass in one way of computing and not in another (`calibrate` keeps the threshold off the
    products of its sample). So may a token at the border between two experts change sides.

    Args:
        config: the sizes.
        params: as `init` returns them, gates set by `calibrate`.
        tokens: (B, T), T >= 1: a prompt, or one token of each sequence.
        cache: from `init_cache` or an earlier call.
        dtype: as in `apply`, and that of the cache.
        implementation: as in `apply`.

    Returns:
        Logits (B, T, V) and the new cache. Where a head has run out of slots the sequence's logits
        are NaN (`fit_cache` gives more); `count` says how many are in use.

    Raises:
        ValueError, TypeError: As `apply`; ValueError for a cache of another batch size or dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.models import bk_core
        >>> config = bk_core.BKCoreConfig(vocab_size=7, layers=1, heads=2, width=16, chains=4)
        >>> params = jax.jit(bk_core.init, static_argnums=0)(config, jax.random.key(0))
        >>> tokens, extend = jnp.array([[1, 2, 3, 4]]), jax.jit(bk_core.extend, static_argnums=0)
        >>> cache = bk_core.init_cache(config, 1, capacity=8)
        >>> _, cache = extend(config, params, tokens[:, :2], cache)
        >>> logits, cache = extend(config, params, tokens[:, 2:], cache)
        >>> whole = jax.jit(bk_core.apply, static_argnums=0)(config, params, tokens)
        >>> bool(jnp.allclose(logits, whole[:, 2:], atol=1e-5)), int(cache.length)
        (True, 4)
    """
    tokens = check_tokens(params, tokens)
    _checks.instance("cache", cache, Cache)
    check_parts(config, params)
    batch, time = tokens.shape
    held = cache.layers[0].state.green.shape[0]
    if held != batch:
        raise ValueError(f"tokens must have the cache's batch size {held}, got {tokens.shape}")
    own = cache.layers[0].memory
    near = cache.layers[0].ring if own is None else own.near
    if near is not None and near.key.dtype != dtype:
        raise ValueError(f"dtype must be the cache's {near.key.dtype}, got {jnp.dtype(dtype)}")
    x = _block.begin(config, embed(params["token"], tokens, dtype))
    position = cache.length + jnp.arange(time, dtype=jnp.int32)
    silent = dropout(0.0, None)
    layers, full = [], jnp.zeros((batch,), bool)
    for index, old in enumerate(cache.layers):
        layer = _block.layer_params(params, index)
        h = rms_norm(_block.read(config, x), scale=layer["norm_mixer"])
        mixed = mixer.apply(
            layer["mixer"],
            h,
            state=old.state,
            groups=config.heads,
            implementation=implementation,
        )
        new = old._replace(state=mixed.state)
        x = _block.kicked(config, x, mixed.output)
        if new.memory is not None:
            score = gated.score(layer["attention"], mixed.openness)
            attended, kept = memory.extend(
                layer["attention"], h, score, new.memory, rotary_base=config.rotary_base
            )
            new = new._replace(memory=kept)
            x = _block.kicked(config, x, attended)
        elif config.attention:
            attended, new, over = _attend(
                config, layer["attention"], h, mixed.openness, position, new, implementation
            )
            x = _block.kicked(config, x, attended)
            full = full | over
        x, _ = _block.fed(config, layer, x, silent)
        layers.append(new)
    logits = _model.readout(params, _block.end(config, x))
    logits = jnp.where(full[:, None, None], jnp.full_like(logits, jnp.nan), logits)
    return logits, Cache(tuple(layers), cache.length + time)


def _attend(
    config, params, x, openness, position, cache, implementation
) -> tuple[jax.Array, LayerCache, jax.Array]:
    """Output, the new cache, and which sequences (B,) ran out of slots."""
    score = gated.score(params, openness)
    parts = gated.project(params, x, position, rotary_base=config.rotary_base)
    where = jnp.broadcast_to(position[None, :, None], score.shape)
    assert cache.ring is not None  # an attending layer has both
    assert cache.slots is not None
    near = _join(cache.ring, Tokens(parts.key, parts.value, score, where))
    leaving = near.score.shape[1] - cache.ring.score.shape[1]
    out = jax.tree.map(lambda part: part[:, :leaving], near)
    ring = jax.tree.map(lambda part: part[:, leaving:], near)
    slots, count = _store(cache.slots, out, cache.count, params["threshold"])
    if x.shape[1] == 1:
        y = _one_token.attend(
            params,
            parts.query[:, 0],
            score[:, 0],
            position[0],
            slots,
            near,
            local_window=config.local_window,
        )
    else:
        seen = _join(cache.slots, near)
        y = _piece(config, params, parts.query, score, position, seen, implementation)
    y = linear(y.reshape(x.shape), params["out"])
    over = jnp.any(count > slots.key.shape[1], axis=-1)
    return y, cache._replace(ring=ring, slots=slots, count=count), over


def _piece(config, params, query, score, position, seen, implementation) -> jax.Array:
    """Attention (B, T, N, D) of several tokens over the cached ones and themselves."""
    size = query.shape[-1]
    soft, scale = gated.softened(params, gated.Projected(query, seen.key, seen.value), seen.score)

    def head(query, key, value, score, key_score, key_position, threshold):
        one = lambda array: array[:, :, None]  # noqa: E731
        return scattering_attention(
            one(query),
            one(key),
            one(value),
            score,
            key_score=key_score,
            threshold=threshold,
            local_window=config.local_window,
            query_position=position,
            key_position=key_position,
            scale=scale,
            implementation=implementation,
        )[:, :, 0]

    y = jax.vmap(head, in_axes=(2, 2, 2, 2, 2, 2, 0), out_axes=2)(
        soft.query, soft.key, soft.value, score, seen.score, seen.position, params["threshold"]
    )
    return y[..., :size]


def _store(slots: Tokens, out: Tokens, count: jax.Array, threshold: jax.Array):
    """Slots with those of the leaving tokens that a partner could still let through."""
    kept = (out.score > threshold[None, None]) & (out.position < EMPTY)
    order = count[:, None] + jnp.cumsum(kept, axis=1, dtype=jnp.int32) - 1
    place = jnp.where(kept, order, EMPTY)  # beyond the slots: written nowhere

    # By three indices, not under vmap: that would turn the slots around, a copy of all of them.
    batch, _, heads = place.shape
    sequence = jnp.arange(batch, dtype=jnp.int32)[:, None, None]
    head = jnp.arange(heads, dtype=jnp.int32)[None, None]

    def write(old, new):
        return old.at[sequence, place, head].set(new, mode="drop")

    slots = jax.tree.map(write, slots, out)
    return slots, count + jnp.sum(kept, axis=1, dtype=jnp.int32)


def _empty(config: BKCoreConfig, batch: int, length: int, dtype: Any) -> Tokens:
    return _blank(batch, length, config.heads, config.width // config.heads, dtype)


def _blank(batch: int, length: int, heads: int, size: int, dtype: Any) -> Tokens:
    shape = (batch, length, heads)
    return Tokens(
        jnp.zeros((*shape, size), dtype),
        jnp.zeros((*shape, size), dtype),
        jnp.zeros(shape, jnp.float32),
        jnp.full(shape, EMPTY, jnp.int32),
    )


def _join(first: Tokens, second: Tokens) -> Tokens:
    return jax.tree.map(lambda a, b: jnp.concatenate([a, b], 1), first, second)
