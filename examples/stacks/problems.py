"""Deep stacks of tanh layers, plain or near the identity, and of transformer layers."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from physnet import optim
from stacks.data import Split
from stacks.methods import Start

Params = dict[str, Any]  # "first", "layers" (depth on axis 0), "last"
Held = Callable[[jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class Problem:
    """A stack and what it learns. `layer` takes h with or without a batch.

    `straight` is `layer` with the derivative of its skip connections alone, branches held fixed.
    `ghost` is the strength that ghosts start at: 0.9 with rho = 0.5 keeps what is bounded bounded,
    and 1 / depth does so for a sum.
    """

    name: str
    depth: int
    data: Split
    init: Callable[[jax.Array, Start], Params]
    layer: Callable[[Any, jax.Array], jax.Array]
    straight: Callable[[Any, jax.Array], jax.Array]
    first: Callable[[Any, jax.Array], jax.Array]
    ghost: float = 0.9
    final: Callable[[jax.Array], jax.Array] = lambda h: h

    def last(self, params: Params, h: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Mean cross-entropy, and the share of right answers."""
        logits = self.final(h) @ params["last"]
        log_p = jax.nn.log_softmax(logits)
        nats = -jnp.mean(jnp.take_along_axis(log_p, y[..., None], -1))
        return nats, jnp.mean(jnp.argmax(logits, -1) == y)

    def apply(self, params: Params, x: jax.Array) -> jax.Array:
        """h_L without any teleportation."""
        h = self.first(params["first"], x)
        return jax.lax.scan(lambda h, own: (self.layer(own, h), None), h, params["layers"])[0]


def _matrix(key: jax.Array, shape: tuple[int, ...], start: Start = "gaussian") -> jax.Array:
    if start == "orthogonal":
        return optim.orthogonal_initializer()(key, shape, jnp.float32)
    # Of "matched" as large as an orthogonal one, which is smaller where it is wide.
    below = max(shape[-2:]) if start == "matched" else shape[-2]
    return jax.random.normal(key, shape, jnp.float32) / below**0.5


def multilayer(name: str, depth: int, data: Split, *, width: int, branch: float | None) -> Problem:
    """tanh(h W + b) without skips, or h + branch tanh(h W + b)."""

    def init(key: jax.Array, start: Start) -> Params:
        keys = jax.random.split(key, 3)
        layers = {
            "w": _matrix(keys[1], (depth, width, width), start),
            "b": jnp.zeros((depth, width)),
        }
        first = _matrix(keys[0], (data.train[0].shape[1], width))
        return {"first": first, "layers": layers, "last": _matrix(keys[2], (width, 10))}

    def layer(own: Any, h: jax.Array, held: Held = lambda new: new) -> jax.Array:
        new = held(jnp.tanh(h @ own["w"] + own["b"]))
        return new if branch is None else h + branch * new

    ghost = 0.9 if branch is None else 1 / depth
    straight = partial(layer, held=jax.lax.stop_gradient)
    return Problem(name, depth, data, init, layer, straight, lambda first, x: x @ first, ghost)


def transformer(
    name: str,
    depth: int,
    data: Split,
    *,
    width: int,
    heads: int = 2,
    branch: float | None = None,
    skip: float = 1.0,
) -> Problem:
    """Attention and feed-forward, each followed by a normalisation of the sum: post-norm.

    With a branch, pre-norm: each of a normalised h, times that number, is added to h. With a skip
    of (2 depth)^(1/4), which multiplies h in the sum, and the start "deepnorm": Wang et al.,
    "DeepNet" (2022), for an encoder.
    """
    length, numbers = data.train[0].shape[1], int(data.train[0].max()) + 1
    shapes = {"in": (width, 3 * width), "out": (width, width)}
    shapes |= {"up": (width, 2 * width), "down": (2 * width, width)}

    def init(key: jax.Array, start: Start) -> Params:
        keys = jax.random.split(key, 7)
        layers = {
            name: _matrix(k, (depth, *shape), start)
            for k, (name, shape) in zip(keys, shapes.items(), strict=False)
        }
        if start == "deepnorm":
            small = (8 * depth) ** -0.25
            layers = {name: small * w for name, w in layers.items()}
            layers["in"] = layers["in"].at[..., : 2 * width].divide(small)  # queries and keys
        first = {
            "number": jax.random.normal(keys[4], (numbers, width)),
            "place": jax.random.normal(keys[5], (length, width)),
        }
        return {"first": first, "layers": layers, "last": _matrix(keys[6], (width, numbers))}

    def attention(own: Any, h: jax.Array) -> jax.Array:
        split = (h @ own["in"]).reshape(*h.shape[:-1], 3, heads, -1)
        query, key, value = (split[..., i, :, :] for i in range(3))
        return jax.nn.dot_product_attention(query, key, value).reshape(h.shape) @ own["out"]

    def layer(own: Any, h: jax.Array, held: Held = lambda new: new) -> jax.Array:
        for sublayer in (attention, lambda own, h: jax.nn.relu(h @ own["up"]) @ own["down"]):
            if branch is None:
                h = _normalised(skip * h + held(sublayer(own, h)))
            else:
                h = h + branch * held(sublayer(own, _normalised(h)))
        return h

    def first(own: Any, x: jax.Array) -> jax.Array:
        return _normalised(own["number"][x] + own["place"])

    straight = partial(layer, held=jax.lax.stop_gradient)
    if branch is None:
        return Problem(name, depth, data, init, layer, straight, first)
    return Problem(name, depth, data, init, layer, straight, first, 1 / depth, _normalised)


def _normalised(h: jax.Array) -> jax.Array:
    h = h - jnp.mean(h, -1, keepdims=True)
    return h * jax.lax.rsqrt(jnp.mean(h**2, -1, keepdims=True) + 1e-5)
