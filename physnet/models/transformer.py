"""A plain pre-norm decoder transformer (the GPT recipe): the baseline of the language models.

Shapes: B batch, T time, V vocabulary, W width, N heads, D = W / N, L layers, F hidden.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from physnet import _checks
from physnet.models._tokens import check_tokens, embed
from physnet.nn.layers import accurate, dropout

Params = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the model; `hidden=None` means four times the width, `context` the longest input."""

    vocab_size: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    hidden: int | None = None
    context: int = 64
    dropout: float = 0.0

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "heads", "width", "context"):
            _checks.positive_int(name, getattr(self, name))
        if self.hidden is None:
            object.__setattr__(self, "hidden", 4 * self.width)
        _checks.positive_int("hidden", self.hidden)
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads={self.heads}, got {self.width}")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout must be in [0, 1), got {self.dropout}")


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
        >>> params = init(config, jax.random.key(0))
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


def apply(
    config: TransformerConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    key: jax.Array | None = None,
    dtype: Any = jnp.float32,
    return_info: bool = False,
) -> Any:
    """Logits of the next token at every position.

    Each layer is x += attention(norm(x)), x += mlp(norm(x)), causal softmax attention and a GELU
    between two matrices; positions are learned.

    Args:
        config: the sizes.
        params: as `init` returns them.
        tokens: (B, T) integers in [0, V), T <= context.
        key: a random key that switches dropout on (where `config.dropout > 0`).
        dtype: of the activations and matrix products; norms, softmax and logits are at least
            float32.
        return_info: also return what the models report about themselves.

    Returns:
        Logits (B, T, V); with `return_info` a pair of them and a dict that holds
        `kept_pairs`, the share of causal pairs that attention computes (here 1).

    Raises:
        ValueError: tokens are not (B, T), or T is longer than the context.
        TypeError: tokens are not integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> config = TransformerConfig(vocab_size=7, layers=2, width=16, context=8)
        >>> params = init(config, jax.random.key(0))
        >>> tokens = jnp.array([[1, 2, 3, 4]])
        >>> later = apply(config, params, tokens.at[0, 3].set(6))
        >>> bool((apply(config, params, tokens) == later)[:, :3].all())
        True

    References:
        Vaswani et al. 2017, Attention Is All You Need.
    """
    check_tokens(tokens)
    time = tokens.shape[1]
    if time > config.context:
        raise ValueError(f"tokens must be at most context={config.context} long, got {time}")

    batch = tokens.shape[0]
    drop = dropout(config.dropout, key)
    embedding = params["token"].astype(dtype)
    x = embed(embedding, tokens, dtype) + params["position"][:time].astype(dtype)[None]
    # One row a token: products of matrices (B T, W) are 1.5x faster on CPU than of (B, T, W).
    x = drop(x.reshape(batch * time, config.width), 0)
    for index in range(config.layers):  # unrolled: 1.3x faster than a scan over the layers on CPU
        layer = jax.tree.map(lambda leaf, i=index: leaf[i], params["layers"])
        h = _norm(x, layer["norm_attention"])
        x = x + _attention(config, layer, h, batch, drop, 3 * index + 1)
        h = jax.nn.gelu(_norm(x, layer["norm_mlp"]) @ layer["up"].astype(dtype), approximate=True)
        x = x + drop(h @ layer["down"].astype(dtype), 3 * index + 3)
    x = _norm(x, params["norm"])
    logits = jnp.einsum("rw,vw->rv", x, embedding, preferred_element_type=accurate(dtype))
    logits = logits.reshape(batch, time, config.vocab_size)
    if not return_info:
        return logits
    return logits, {"kept_pairs": jnp.ones((), jnp.float32)}


def _norm(x: jax.Array, scale: jax.Array) -> jax.Array:
    y = x.astype(accurate(x.dtype))
    y = y - jnp.mean(y, -1, keepdims=True)
    y = y * jax.lax.rsqrt(jnp.mean(y * y, -1, keepdims=True) + 1e-5)
    return (y * scale[None].astype(y.dtype)).astype(x.dtype)


def _attention(config, layer, x, batch, drop, site):
    heads, size = config.heads, config.width // config.heads
    time = x.shape[0] // batch
    qkv = (x @ layer["qkv"].astype(x.dtype)).reshape(batch, time, 3, heads, size)
    q, k, v = (jnp.swapaxes(qkv[:, :, i], 1, 2) for i in range(3))
    wide = accurate(x.dtype)
    logits = jnp.einsum("bntd,bnsd->bnts", q * size**-0.5, k, preferred_element_type=wide)
    causal = jnp.tril(jnp.ones((time, time), bool))[None, None]
    logits = jnp.where(causal, logits, jnp.finfo(wide).min)
    weights = drop(jax.nn.softmax(logits, axis=-1).astype(x.dtype), site)
    y = jnp.swapaxes(jnp.einsum("bnts,bnsd->bntd", weights, v), 1, 2).reshape(x.shape)
    return drop(y @ layer["out"].astype(x.dtype), site + 1)
