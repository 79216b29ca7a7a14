"""The transformer on whole sequences.

Shapes: B batch, T time, V vocabulary, W width, L layers, F hidden.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from physnet import _checks, _dispatch, holography
from physnet.models import _memory, _sharding
from physnet.models._axes import Axes
from physnet.models._tokens import check_tokens
from physnet.models.transformer import _network
from physnet.models.transformer._config import TransformerConfig
from physnet.nn.layers import dropout

Params = dict[str, Any]


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
    names, key = ("token", "position", "qkv", "out", "up", "down"), _checks.key("key", key)
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
            split over as `Axes` says or parameters as `partition` does, that heads cannot be shared
            out over, an expert axis, or a sequence axis with a memory.
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
    tokens = check_tokens(params, tokens)
    axes = _split(config, params, tokens, axes)
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
        weights = _network.weights(q, k, causal)
        if config.drop_weights:
            weights = _sharding.sliced(drop, axes.tensor, axis=1)(weights, 3 * index + 1)
        return jnp.swapaxes(jnp.einsum("bnts,bnsd->bntd", weights, v), 1, 2)

    position = params["position"][:time]
    if axes.sequence is not None:
        position = jax.lax.dynamic_slice_in_dim(params["position"], start, piece)
    logits = _network.logits(config, params, tokens, position, attend, drop, dtype, axes, key)
    if not return_info:
        return logits
    share = 1.0 if config.memory is None else _memory.share(config.memory, time)
    return logits, {"kept_pairs": jnp.asarray(share, jnp.float32)}


def _split(config: TransformerConfig, params: Params, tokens: jax.Array, axes: Axes | None) -> Axes:
    """The axes, where this model can be split over them."""
    columns = params["layers"]["qkv"].shape[-1]
    if axes is None:
        _sharding.hold("columns of qkv", columns, 3 * config.width, None)
        return _sharding.NONE
    _sharding.check(axes, tokens)
    _sharding.share(axes, heads=config.heads)
    _sharding.hold("columns of qkv", columns, 3 * config.width, axes.tensor)
    if axes.expert is not None:
        raise ValueError(f"axes.expert must be None: there are no experts, got {axes.expert!r}")
    if axes.sequence is not None and config.memory is not None:
        raise ValueError(
            "axes.sequence must be None with config.memory, which takes tokens one after another, "
            f"got {axes.sequence!r}"
        )
    return axes
