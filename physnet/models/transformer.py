"""A plain pre-norm decoder transformer (the GPT recipe): the baseline of the language models.

Shapes: B batch, T time, V vocabulary, W width, N heads, D = W / N, L layers, F hidden, C the room
of a cache.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from physnet import _checks, _dispatch, holography
from physnet.models import _sharding
from physnet.models._axes import Axes
from physnet.models._tokens import check_tokens, embed, hide
from physnet.nn import memory
from physnet.nn.layers import accurate, dropout

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the model; `hidden=None` means four times the width, `context` the longest input.

    `dropout` acts on the embedding, on what each part adds, and, with `drop_weights`, on the
    weights of attention, which no fused attention serves. `token_dropout` is the share of tokens
    of which only the position is left in training.

    With `memory` each head attends through a boundary memory of this size, in `apply` and in
    `extend`, whose cache then does not grow with the sequence (`holography.memory.configure` sizes
    a budget of bytes). All tokens have mass 1, and weights of attention are not dropped.
    """

    vocab_size: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    hidden: int | None = None
    context: int = 64
    dropout: float = 0.0
    token_dropout: float = 0.0
    drop_weights: bool = True
    memory: holography.memory.Config | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "heads", "width", "context"):
            _checks.positive_int(name, getattr(self, name))
        if self.hidden is None:
            object.__setattr__(self, "hidden", 4 * self.width)
        _checks.positive_int("hidden", self.hidden)
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads={self.heads}, got {self.width}")
        for name in ("dropout", "token_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")


def init(config: TransformerConfig, key: jax.Array) -> Params:
    r"""Parameters at the start: normal with deviation 0.02, the residual outputs narrower.

    The projections that write to the residual stream have deviation
    \(0.02 / \sqrt{2 L}\), so that the stream's variance does not grow with the depth. There are
    no biases, and the token embedding is also the output projection.

    Args:
        config: the sizes.
        key: a JAX random key.

    Returns:
        A nested dict of float32 arrays; those of the layers are stacked on axis 0 (L).

    Example:
        >>> import jax
        >>> config = TransformerConfig(vocab_size=64)
        >>> params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
        >>> sum(leaf.size for leaf in jax.tree.leaves(params))
        803968

    References:
        Radford et al. 2019, Language Models are Unsupervised Multitask Learners.
    """
    layers, width, hidden = config.layers, config.width, config.hidden
    assert hidden is not None  # set by __post_init__
    names = ("token", "position", "qkv", "out", "up", "down")
    keys: dict[str, jax.Array] = dict(zip(names, jax.random.split(key, len(names)), strict=True))
    narrow = 0.02 / (2.0 * layers) ** 0.5

    def normal(name: str, shape: tuple[int, ...], deviation: float = 0.02) -> jax.Array:
        return deviation * jax.random.normal(keys[name], shape, jnp.float32)

    return {
        "token": normal("token", (config.vocab_size, width)),
        "position": normal("position", (config.context, width)),
        "layers": {
            "norm_attention": jnp.ones((layers, width), jnp.float32),
            "qkv": normal("qkv", (layers, width, 3 * width)),
            "out": normal("out", (layers, width, width), narrow),
            "norm_mlp": jnp.ones((layers, width), jnp.float32),
            "up": normal("up", (layers, width, hidden)),
            "down": normal("down", (layers, hidden, width), narrow),
        },
        "norm": jnp.ones((width,), jnp.float32),
    }


_RULES: _sharding.Rules = {
    ("qkv",): (None, "tensor"),
    ("out",): ("tensor", None),
    ("up",): (None, "tensor"),
    ("down",): ("tensor", None),
}


def partition(config: TransformerConfig, params: Any, axes: Axes | None) -> Any:
    """Where the parameters lie on a mesh whose axes split the model, as `bk_core.partition`.

    Args:
        config: the sizes.
        params: as `init` returns them, or their shapes; any tree whose paths end alike.
        axes: names of the mesh axes; None for a model that is not split.

    Returns:
        The tree of params with a `jax.sharding.PartitionSpec` in place of each leaf.

    Example:
        >>> import jax
        >>> from physnet.models import Axes
        >>> config = TransformerConfig(vocab_size=64)
        >>> shapes = jax.eval_shape(lambda key: init(config, key), jax.random.key(0))
        >>> tuple(partition(config, shapes, Axes(tensor="t"))["layers"]["down"])
        (None, 't', None)
    """
    del config
    return _sharding.partition(params, axes, _RULES)


def apply(
    config: TransformerConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
    return_info: bool = False,
    axes: Axes | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Any:
    """Logits of the next token at every position.

    Each layer is x += attention(norm(x)), x += mlp(norm(x)), causal softmax attention and a GELU
    between two matrices; positions are learned.

    Args:
        config: the sizes.
        params: as `init` returns them.
        tokens: (B, T) integers in [0, V), T <= context.
        key: a random key that switches `config.dropout` and `config.token_dropout` on.
        dtype: of the activations and matrix products; norms, softmax and logits are at least
            float32.
        return_info: also return what the models report about themselves.
        axes: the mesh axes that split the model, for use within `jax.shard_map`, as in
            `bk_core.apply`; there are no experts.
        implementation: of attention: "cudnn" (an NVIDIA GPU, bfloat16 or float16, no dropout of
            weights, the whole sequence), "xla", or None for the faster one that serves the call.

    Returns:
        Logits (B, T, V); with `return_info` a pair of them and a dict that holds
        `kept_pairs`, the share of causal pairs that attention computes (here 1; with a memory the
        entries that it has room for, over the tokens so far).

    Raises:
        ValueError: tokens are not (B, T), or T is longer than the context; axes that tokens are not
            split over as `Axes` says, that heads cannot be shared out over, an expert axis, or a
            sequence axis with a memory.
        TypeError: tokens are not integers.
        NotImplementedError: a named implementation that does not serve the call.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = TransformerConfig(vocab_size=7, layers=2, width=16, context=8)
        >>> params = jax.jit(init, static_argnums=0)(config, jax.random.key(0))
        >>> run = jax.jit(lambda tokens: apply(config, params, tokens))
        >>> tokens = jnp.array([[1, 2, 3, 4]])
        >>> later = run(tokens.at[0, 3].set(6))
        >>> bool((run(tokens) == later)[:, :3].all())
        True

    References:
        Vaswani et al. 2017, Attention Is All You Need.
    """
    check_tokens(tokens)
    axes = _split(config, tokens, axes)
    piece = tokens.shape[1]
    time = piece * _sharding.size(axes.sequence)
    if time > config.context:
        raise ValueError(f"tokens must be at most context={config.context} long, got {time}")

    key = _sharding.own_key(key, axes.sequence)
    drop = dropout(config.dropout, key)
    plain = config.memory is not None or axes.sequence is not None
    name = _dispatch.choose(
        "models.transformer.apply",
        "xla" if implementation is None and plain else implementation,
        arrays=(tokens, params["token"]),
        dtype=dtype,
        head_dim=config.width // config.heads,
        weight_dropout=config.drop_weights and config.dropout > 0 and key is not None,
    )
    if plain and name != "xla":
        what = "a memory" if axes.sequence is None else f"the axis {axes.sequence!r}"
        raise NotImplementedError(f"attention through {what} is 'xla' only, got {name!r}")
    start = _sharding.offset(axes.sequence, piece)

    def attend(index: int, q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
        if config.memory is not None:
            own = functools.partial(holography.memory.attention, config=config.memory)
            return jax.vmap(jax.vmap(own, 1, 1))(q, k, v)
        if name == "cudnn":
            return jax.nn.dot_product_attention(q, k, v, is_causal=True, implementation="cudnn")
        q, k, v = (jnp.swapaxes(part, 1, 2) for part in (q, k, v))
        causal = jnp.tril(jnp.ones((time, time), bool))
        if axes.sequence is not None:
            k, v = (jax.lax.all_gather(x, axes.sequence, axis=2, tiled=True) for x in (k, v))
            causal = jax.lax.dynamic_slice_in_dim(causal, start, piece)
        weights = _weights(q, k, causal)
        if config.drop_weights:
            weights = _sharding.sliced(drop, axes.tensor, axis=1)(weights, 3 * index + 1)
        return jnp.swapaxes(jnp.einsum("bnts,bnsd->bntd", weights, v), 1, 2)

    position = params["position"][:time]
    if axes.sequence is not None:
        position = jax.lax.dynamic_slice_in_dim(params["position"], start, piece)
    logits = _logits(config, params, tokens, position, attend, drop, dtype, axes, key)
    if not return_info:
        return logits
    share = 1.0 if config.memory is None else memory.share(config.memory, time)
    return logits, {"kept_pairs": jnp.asarray(share, jnp.float32)}


def _split(config: TransformerConfig, tokens: jax.Array, axes: Axes | None) -> Axes:
    """The axes, where this model can be split over them."""
    if axes is None:
        return _sharding.NONE
    _sharding.check(axes, tokens)
    _sharding.share(axes, heads=config.heads)
    if axes.expert is not None:
        raise ValueError(f"axes.expert must be None: there are no experts, got {axes.expert!r}")
    if axes.sequence is not None and config.memory is not None:
        raise ValueError(
            "axes.sequence must be None with config.memory, which takes tokens one after another, "
            f"got {axes.sequence!r}"
        )
    return axes


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
    check_tokens(tokens)
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
        return jnp.swapaxes(jnp.einsum("bnts,bnsd->bntd", _weights(q, k, seen), v), 1, 2)

    position = jax.lax.dynamic_slice_in_dim(params["position"], cache.length, time)
    logits = _logits(config, params, tokens, position, attend, dropout(0.0, None), dtype)
    logits = jnp.where(cache.length + time > capacity, jnp.nan, logits)
    return logits, Cache(tuple(layers), cache.length + time)


def _logits(
    config, params, tokens, position, attend, drop, dtype, axes: Axes = _sharding.NONE, key=None
) -> jax.Array:
    """The network around attend(layer, query, key, value), all (B, T, N, D)."""
    batch, time = tokens.shape
    embedding = params["token"].astype(dtype)
    x = hide(config.token_dropout, key, embed(embedding, tokens, dtype))
    x = x + position.astype(dtype)[None]
    # One row a token: products of matrices (B T, W) are 1.5x faster on CPU than of (B, T, W).
    x = drop(x.reshape(batch * time, config.width), 0)
    for index in range(config.layers):  # unrolled: 1.3x faster than a scan over the layers on CPU
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
    logits = jnp.einsum("rw,vw->rv", x, embedding, preferred_element_type=accurate(dtype))
    return logits.reshape(batch, time, config.vocab_size)


def _decode(held, q, k, v) -> tuple[jax.Array, holography.memory.Memory]:
    return holography.memory.decode(q, held, k, v)


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    y = x.astype(accurate(x.dtype))
    y = y - jnp.mean(y, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)
    return (y * scale[None].astype(y.dtype)).astype(x.dtype)


def _weights(q: jax.Array, k: jax.Array, mask: jax.Array) -> jax.Array:
    """Softmax (B, N, T, S) over the pairs of a mask (T, S), of q (B, N, T, D), k (B, N, S, D)."""
    wide = accurate(q.dtype)
    q = q * q.shape[-1] ** -0.5
    logits = jnp.einsum("bntd,bnsd->bnts", q, k, preferred_element_type=wide)
    logits = jnp.where(mask[None, None], logits, jnp.finfo(wide).min)
    return jax.nn.softmax(logits, axis=-1).astype(q.dtype)
