"""A small causal transformer whose attention is a memory: any function of one head's tokens.

Queries, keys and values pass a causal depthwise convolution over four tokens (as in H3 and
DeltaNet), so that a key can carry the token before it and lookups form in minutes; half of the
head's dimensions are rotated by position. Cached numbers are rounded to bfloat16, for all methods.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

TAPS = 4
LOOK = 32  # hidden units of a score


@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int
    layers: int = 2
    heads: int = 2
    head_dim: int = 64
    hidden: int = 256

    @property
    def width(self) -> int:
        return self.heads * self.head_dim


@jax.custom_vjp
def rounded(x: jax.Array) -> jax.Array:
    """x as bfloat16 stores it; the gradient passes."""
    return x.astype(jnp.bfloat16).astype(x.dtype)


rounded.defvjp(lambda x: (rounded(x), None), lambda _, g: (g,))


def rotate(x: jax.Array, position: jax.Array) -> jax.Array:
    """Rotate the first half of the dimensions of x (..., d) by its position (...)."""
    pairs = x.shape[-1] // 4
    rate = jnp.asarray(10000.0 ** (-np.arange(pairs) / pairs), x.dtype)
    angle = position[..., None].astype(x.dtype) * rate
    a, b, rest = x[..., :pairs], x[..., pairs : 2 * pairs], x[..., 2 * pairs :]
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.concatenate([a * c - b * s, a * s + b * c, rest], -1)


def norm(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)


def init(config: Config, key: jax.Array) -> dict[str, Any]:
    w, n, d = config.width, config.heads, config.head_dim

    def layer(key):
        parts = jax.random.split(key, 6)
        normal = lambda k, *shape: jax.random.normal(k, shape, jnp.float32) * shape[0] ** -0.5  # noqa: E731
        taps = jax.random.normal(parts[1], (TAPS, 3 * w), jnp.float32) * 0.5
        return {
            "qkv": normal(parts[0], w, 3 * w),
            "taps": taps.at[0].add(1.0),
            "gain": jnp.full((n, d), 2.0, jnp.float32),
            "out": normal(parts[2], w, w) * 0.5,
            "up": normal(parts[3], w, config.hidden),
            "down": normal(parts[4], config.hidden, w) * 0.5,
            "look": jax.random.normal(parts[5], (n, 2 * d, LOOK), jnp.float32) * (2 * d) ** -0.5,
            "score": jnp.zeros((n, LOOK), jnp.float32),
            "level": jnp.full((n,), 2.0, jnp.float32),
        }

    start, *rest = jax.random.split(key, config.layers + 1)
    table = jax.random.normal(start, (config.vocab_size, w), jnp.float32)
    return {"token": table, "loud": jnp.float32(1.0), "layers": [layer(k) for k in rest]}


def projections(
    config: Config, layer: dict[str, Any], x: jax.Array, *, apart: bool = False
) -> tuple[jax.Array, ...]:
    """Query, key, value (heads, T, d) and score (heads, T) of a stream x (T, width).

    `apart`: no gradient from the score to what it reads.
    """
    h = norm(x) @ layer["qkv"]
    past = jnp.pad(h, ((TAPS - 1, 0), (0, 0)))
    h = sum(layer["taps"][i] * past[TAPS - 1 - i : len(past) - i] for i in range(TAPS))
    h = h.reshape(len(x), 3, config.heads, config.head_dim).transpose(1, 2, 0, 3)
    query = norm(h[0]) * layer["gain"][:, None]
    key, value = rounded(norm(h[1])), rounded(h[2])
    both = jnp.concatenate([key, norm(value)], -1)
    both = jax.lax.stop_gradient(both) if apart else both
    seen = jax.nn.gelu(both @ layer["look"])
    logit = 2.0 * jnp.einsum("ntm,nm->nt", seen, layer["score"]) + layer["level"][:, None]
    return query, key, value, jax.nn.sigmoid(logit)


def finish(layer: dict[str, Any], x: jax.Array, mixed: jax.Array) -> jax.Array:
    """The stream behind a layer whose attention gave `mixed` (heads, T, d)."""
    x = x + mixed.transpose(1, 0, 2).reshape(x.shape) @ layer["out"]
    return x + jax.nn.gelu(norm(x) @ layer["up"]) @ layer["down"]


def apply(
    config: Config,
    params: dict[str, Any],
    tokens: jax.Array,
    attend: Callable[..., Any],
    memory: Any,
    *,
    teach: bool = False,
) -> Any:
    """Logits (T, vocabulary) of one sequence.

    Args:
        attend: (parameters, query, key, value, score) of one head -> (T, d); keys not rotated.
        memory: Parameters of the method, a list over layers, leading axis heads.
        teach: `attend` also gives a loss of the score, and so does this, the mean.
    """
    x = norm(params["token"][tokens])
    losses = jnp.zeros((), x.dtype)
    for layer, own in zip(params["layers"], memory, strict=True):
        mixed = jax.vmap(attend)(own, *projections(config, layer, x, apart=teach))
        if teach:
            mixed, loss = mixed
            losses += jnp.mean(loss) / config.layers
        x = finish(layer, x, mixed)
    logits = params["loud"] * config.width**-0.5 * norm(x) @ params["token"].T
    return (logits, losses) if teach else logits


def caches(
    config: Config, params: dict[str, Any], tokens: jax.Array, attend: Callable[..., jax.Array]
) -> list[tuple[jax.Array, jax.Array]]:
    """Keys and values (heads, T, d) of each layer."""
    x, found = norm(params["token"][tokens]), []
    for layer in params["layers"]:
        given = projections(config, layer, x)
        found.append(given[1:3])
        x = finish(layer, x, jax.vmap(lambda *a: attend(None, *a))(*given))
    return found
