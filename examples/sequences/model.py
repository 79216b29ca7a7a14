"""A classifier of series: a stack of Hamiltonian layers, pooled over time, and a linear head."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from physnet.nn import hamiltonian, layers

Params = dict[str, Any]
FEATURES = 4  # of each oscillator
NEAR = 0.05  # share of time


@dataclasses.dataclass(frozen=True)
class Model:
    """Shapes and options; hashable."""

    kind: str = "linear"  # or "nonlinear"
    depth: int = 2
    oscillators: int = 256
    width: int = 32  # between layers
    units: int = 64  # of a nonlinear layer
    windows: tuple[int, ...] = (8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 0, 0)
    form: str = "step"
    gradient: str = "backpropagation"

    def init(self, key: jax.Array, x: jax.Array, classes: int) -> Params:
        """Parameters of all layers and the head; levels from a few series x (B, T) of training."""
        blocks = []
        for layer in range(self.depth):
            one, mix, key = jax.random.split(key, 3)
            block = hamiltonian.init(
                one,
                self.width if layer else 3,
                oscillators=self.oscillators,
                units=self.units if self.kind == "nonlinear" else 0,
                windows=self.windows,
            )
            del block["out"]  # positions are read
            block |= {"level": jnp.zeros(self.oscillators), "sharp": jnp.zeros(self.oscillators)}
            if layer + 1 < self.depth:
                shape = (self.oscillators, 2 * self.width)
                block["mix"] = shape[0] ** -0.5 * jax.random.normal(mix, shape)
            blocks.append(block)
        h = channels(x)
        for block in blocks:
            own, key = jax.random.split(key)
            q = self.positions(block, h)
            block["level"], block["sharp"] = _levels(own, q)
            h = self.onwards(block, q)
        size = FEATURES * self.oscillators * self.depth
        head = 0.1 * jax.random.normal(key, (size, classes))
        return {"blocks": blocks, "head": head, "bias": jnp.zeros(classes)}

    def positions(self, block: Params, h: jax.Array) -> jax.Array:
        """What one layer's oscillators do."""
        return hamiltonian.positions(
            block, h, windows=self.windows, form=self.form, gradient=self.gradient
        )

    def onwards(self, block: Params, q: jax.Array) -> jax.Array | None:
        """What the next layer is driven by."""
        if "mix" not in block:
            return None
        value, gate = jnp.split(layers.linear(jnp.tanh(q), block["mix"]), 2, -1)
        return layers.rms_norm(value * jax.nn.sigmoid(gate))

    def features(self, params: Params, x: jax.Array) -> jax.Array:
        """x (B, T) -> (B, F), FEATURES for each oscillator."""
        h, found = channels(x), []
        for block in params["blocks"]:
            q = self.positions(block, h)
            found.append(pooled(block, q))
            h = self.onwards(block, q)
        return jnp.concatenate(found, -1)


def channels(x: jax.Array) -> jax.Array:
    """(B, T) -> (B, T, 3): the series, its changes, and changes on a logarithmic scale."""
    change = jnp.diff(x, axis=1, prepend=x[:, :1])
    small = 0.1 * jnp.mean(jnp.abs(change), 1, keepdims=True) + 1e-6
    large = jnp.std(change, 1, keepdims=True) + 1e-3
    return jnp.stack([x, change / large, jnp.arcsinh(change / small) / 3], -1)


def pooled(block: Params, q: jax.Array) -> jax.Array:
    """Of each position the share of time above a level, the top, and two mean logarithms."""
    sharp, level = jnp.exp(block["sharp"])[None, None], block["level"][None, None]
    above = jax.nn.sigmoid(sharp * (q - level)).mean(1)
    squares = q * q
    power = 0.5 * jnp.log(squares.mean(1) + 1e-6)
    size = 0.5 * jnp.log(squares + 1e-6).mean(1)
    return jnp.concatenate([above, q.max(1), power, size], -1)


def _levels(key: jax.Array, q: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A level that each oscillator passes in some series, and a slope as sharp as q is near it."""
    one, two = jax.random.split(key)
    pick = jax.random.randint(one, (q.shape[-1],), 0, len(q))
    chosen = jnp.take_along_axis(q, pick[None, None], 0)[0]  # (T, H)
    share = jax.random.uniform(two, (q.shape[-1],), minval=0.1, maxval=0.9)
    shares = share[:, None] + jnp.array([[-NEAR, 0.0, NEAR]])
    below, level, beyond = jax.vmap(jnp.quantile, in_axes=(1, 0), out_axes=1)(chosen, shares)
    return level, -jnp.log(0.5 * (beyond - below) + 1e-3)


def moments(features: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and deviation of each feature over a batch."""
    varies = (variance := features.var(0, keepdims=True)) > 0
    # A feature that is the same in all, as a share of exactly 0, would have a slope of 0 / 0.
    deviation = jnp.where(varies, jnp.sqrt(jnp.where(varies, variance, 1.0)), 0.0)
    return features.mean(0, keepdims=True), deviation + 1e-3


def logits(
    params: Params, features: jax.Array, over: tuple[jax.Array, jax.Array], drop: layers.Drop
) -> jax.Array:
    """Of standardised features."""
    z = drop((features - over[0]) / over[1], 0)
    return layers.linear(z, params["head"]) * z.shape[1] ** -0.5 + params["bias"][None]
