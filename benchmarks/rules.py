"""Rules that drop pairs from attention, each as a decision, a mask and a calibration.

Shapes: B batch, T time, N heads. A rule sees one member of an ensemble.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ensemble import Context, as_bias, band, openness

from physnet import scattering
from physnet.models.bk_core import BKCoreConfig
from physnet.nn import attention as gated

BLOCK, STRIDE = 16, 4  # of antidiagonal scoring
TIE_BREAK = 1e-3
TEMPERATURE, LOW, HIGH = 2 / 3, -0.1, 1.1  # hard-concrete gates as Louizos et al. have them

Params = dict[str, Any]


class Gate(NamedTuple):
    """A rule: `decide(config, layer, context, training)` is all that a sparse kernel would need,
    `bias(config, layer, decision)` spells it out for all pairs, and
    `calibrate(config, layer, context, share)` gives the constants that keep the share."""

    label: str
    decide: Callable[..., Any]
    bias: Callable[..., jax.Array]
    calibrate: Callable[..., Params]
    parameters: Callable[[BKCoreConfig], int] = lambda config: 0


# Sliding window: pairs nearer than a constant.


def _window_bias(config: BKCoreConfig, layer: Params, decision: jax.Array) -> jax.Array:
    return as_bias(band(len(decision), layer["attention"]["threshold"][0]))[None, None]


def _window_calibrate(
    config: BKCoreConfig, layer: Params, context: Context, share: float
) -> Params:
    width = np.arange(context.h.shape[1]) + 1
    area = np.cumsum(width[::-1])  # pairs of the width nearest diagonals
    nearest = 1 + np.argmin(np.abs(area - share * area[-1]))
    return _constant(layer, jnp.full((config.heads,), nearest, jnp.float32))


# Scattering gate: open pairs, s_i s_j > tau.


def _scattering(config: BKCoreConfig, layer: Params, context: Context, training: bool) -> jax.Array:
    constants = jax.lax.stop_gradient(layer["attention"])
    return gated.score(constants, openness(config, layer, context))


def _pair_bias(config: BKCoreConfig, layer: Params, score: jax.Array) -> jax.Array:
    by_head = jnp.moveaxis(jax.lax.stop_gradient(score), -1, -2)
    threshold = jax.lax.stop_gradient(layer["attention"]["threshold"])[None]
    time = score.shape[1]
    keep = scattering.pair_gate(by_head, by_head, threshold)
    near = band(time, config.local_window)[None, None]
    return as_bias((keep | near) & band(time, time)[None, None])


def _scattering_calibrate(
    config: BKCoreConfig, layer: Params, context: Context, share: float
) -> Params:
    found = openness(config, layer, context)
    return gated.calibrate(
        layer["attention"], found, density=share, local_window=config.local_window
    )


def _soft_bias(config: BKCoreConfig, layer: Params, score: jax.Array) -> jax.Array:
    """The same with a learned multiple of log s_j in the logits: a gradient for the chain."""
    weight = layer["gate"]["slope"][None, None] * jnp.log(jnp.maximum(score, 1e-6))
    return _pair_bias(config, layer, score) + jnp.moveaxis(weight, -1, -2)[:, :, None, :]


def _chains(config: BKCoreConfig) -> int:
    """A gate's own chains; with a mixer they are there anyway."""
    return 0 if config.mixer else config.layers * config.chains * (config.width + 2)


# Random tokens: the same rule on scores that mean nothing.


def _random(config: BKCoreConfig, layer: Params, context: Context, training: bool) -> jax.Array:
    noise = jax.random.uniform(context.key, (*context.h.shape[:2], config.heads))
    return gated.score(jax.lax.stop_gradient(layer["attention"]), noise)


def _random_calibrate(
    config: BKCoreConfig, layer: Params, context: Context, share: float
) -> Params:
    noise = jax.random.uniform(context.key, (*context.h.shape[:2], config.heads))
    return gated.calibrate(
        layer["attention"], noise, density=share, local_window=config.local_window
    )


# Learned L0 mask: a hard-concrete gate for each key and head, read from the token.


class Concrete(NamedTuple):
    gate: jax.Array  # z (B, T, N) in [0, 1]
    log_alpha: jax.Array  # (B, T, N)


def _l0(config: BKCoreConfig, layer: Params, context: Context, training: bool) -> Concrete:
    read = layer["gate"]["read"].astype(context.h.dtype)
    log_alpha = (context.h @ read).astype(jnp.float32) + layer["gate"]["bias"][None, None]
    if training:
        u = jax.random.uniform(context.key, log_alpha.shape, minval=1e-6, maxval=1 - 1e-6)
        open_ = jax.nn.sigmoid((jnp.log(u / (1 - u)) + log_alpha) / TEMPERATURE)
    else:  # the threshold is a shift common to all gates
        log_alpha = log_alpha - layer["attention"]["threshold"][None, None]
        open_ = jax.nn.sigmoid(log_alpha)
    return Concrete(jnp.clip(LOW + (HIGH - LOW) * open_, 0.0, 1.0), log_alpha)


def _l0_bias(config: BKCoreConfig, layer: Params, decision: Concrete) -> jax.Array:
    """log z_j on the logits: weights times z_j, none where it is 0; the band is always there."""
    z = jnp.moveaxis(decision.gate, -1, -2)[:, :, None, :]
    time = z.shape[-1]
    weight = jnp.where(z > 0, jnp.log(jnp.maximum(z, 1e-6)), -jnp.inf)
    near = band(time, config.local_window)[None, None]
    weight = jnp.where(near, jnp.zeros_like(weight), weight)
    return jnp.where(band(time, time)[None, None], weight, -jnp.inf)


def l0_shares(config: BKCoreConfig, log_alpha: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Share of causal pairs that gates (..., B, T, N) keep: expected under noise, deterministic."""
    time = log_alpha.shape[-2]
    near = float(np.sum(np.minimum(np.arange(time) + 1, config.local_window)))
    beyond = np.maximum(time - np.arange(time) - config.local_window, 0).astype(np.float32)
    shift = TEMPERATURE * np.log(-LOW / HIGH)
    expected = jax.nn.sigmoid(log_alpha - shift)
    certain = (LOW + (HIGH - LOW) * jax.nn.sigmoid(log_alpha) > 0).astype(jnp.float32)
    return tuple(
        (near + jnp.einsum("...btn,t->...btn", p, beyond).mean((-3, -1)).sum(-1))
        / (time * (time + 1) / 2)
        for p in (expected, certain)
    )


# Antidiagonal block scoring.


def _antidiagonal(
    config: BKCoreConfig, layer: Params, context: Context, training: bool, *, causal: bool
) -> jax.Array:
    """The mass that outranks each block in its row, (B, N, blocks, blocks); -1 on the diagonal.

    Sums over antidiagonals of tiles of STRIDE x STRIDE pairs stand for the tiles in a softmax; a
    block's score is its share of the row's mass. The rule keeps the smallest set of blocks, the
    diagonal one first, whose mass reaches the threshold. As published, a row of blocks is scored by
    all its queries, so an early one feels later ones; `causal` takes the block of queries before.
    """
    query, key = (jax.lax.stop_gradient(x) for x in context.parts[:2])
    batch, time, heads, size = query.shape
    tiles, blocks = time // STRIDE, time // BLOCK
    query = query.reshape(batch, tiles, STRIDE, heads, size)[:, :, ::-1]
    key = key.reshape(batch, tiles, STRIDE, heads, size)
    sums = jnp.einsum("bishd,bjshd->bhij", query, key, preferred_element_type=jnp.float32)
    logits = sums / (size**0.5 * STRIDE) + as_bias(band(tiles, tiles))[None, None]
    mass = jax.nn.softmax(logits, axis=-1)
    mass = mass.reshape(batch, heads, blocks, BLOCK // STRIDE, blocks, -1).sum(-1).mean(3)
    if causal:
        mass = jnp.pad(mass, ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    diagonal = jnp.eye(blocks, dtype=bool)[None, None]
    rank = jnp.where(diagonal, jnp.inf, mass)
    order = jnp.argsort(-rank, axis=-1)
    ordered = jnp.take_along_axis(mass, order, -1)
    outranking = jnp.cumsum(ordered, -1) - ordered
    outranking = jnp.take_along_axis(outranking, jnp.argsort(order, axis=-1), -1)
    # Among blocks that nothing outranks the heavier goes first.
    return jnp.where(diagonal, -1.0, outranking - TIE_BREAK * mass)


def _block_bias(config: BKCoreConfig, layer: Params, outranking: jax.Array) -> jax.Array:
    keep = outranking < layer["attention"]["threshold"][0]
    keep = jnp.repeat(jnp.repeat(keep, BLOCK, -1), BLOCK, -2)
    return as_bias(keep & band(keep.shape[-1], keep.shape[-1])[None, None])


def _block_calibrate(
    config: BKCoreConfig, layer: Params, context: Context, share: float, *, causal: bool
) -> Params:
    outranking = _antidiagonal(config, layer, context, False, causal=causal)
    blocks = outranking.shape[-1]
    row, column = np.tril_indices(blocks, -1)
    pairs = context.h.shape[1] * (context.h.shape[1] + 1) / 2
    wanted = (share * pairs - blocks * BLOCK * (BLOCK + 1) / 2) / (len(row) * BLOCK**2)
    threshold = jnp.quantile(outranking[..., row, column], min(1.0, max(0.0, wanted)))
    return _constant(layer, jnp.full((config.heads,), threshold))


def _constant(layer: Params, threshold: jax.Array) -> Params:
    return layer["attention"] | {"threshold": threshold}


def _antidiagonal_gate(label: str, *, causal: bool) -> Gate:
    return Gate(
        label,
        functools.partial(_antidiagonal, causal=causal),
        _block_bias,
        functools.partial(_block_calibrate, causal=causal),
    )


WINDOW = Gate("sliding window", lambda c, l, x, t: x.h[0, :, 0], _window_bias, _window_calibrate)
L0 = Gate(
    "learned L0 mask", _l0, _l0_bias, lambda config, layer, context, share: layer["attention"],
    lambda config: config.layers * config.heads * (config.width + 1),
)  # fmt: skip
RANDOM = Gate("random tokens", _random, _pair_bias, _random_calibrate)
SCATTERING = Gate("scattering gate", _scattering, _pair_bias, _scattering_calibrate, _chains)
SOFT = Gate(
    "scattering gate, soft", _scattering, _soft_bias, _scattering_calibrate,
    lambda config: _chains(config) + config.layers * config.heads,
)  # fmt: skip
GATES = (
    WINDOW,
    L0,
    _antidiagonal_gate("antidiagonal blocks", causal=False),
    _antidiagonal_gate("antidiagonal, causal", causal=True),
    SCATTERING,
    SOFT,
    RANDOM,
)
