"""Scattering attention as a layer: rotary queries and keys, a calibrated gate, a local band.

Shapes: B batch, T time, W width, N heads, D = W / N, H chains of the Hamiltonian.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from physnet import _checks, _dispatch, scattering
from physnet.attention import scattering_attention
from physnet.nn.layers import linear, rms_norm, rotary

Params = dict[str, Any]

CEILING_QUANTILE = 0.95
# The threshold for a density equals a product of the sample. Rounding must not decide that pair.
OFF_THE_TIE = 1 + 2.0**-12


class Projected(NamedTuple):
    """Queries, keys and values (B, T, N, D) of a piece of sequence."""

    query: jax.Array
    key: jax.Array
    value: jax.Array


def init(
    key: jax.Array,
    width: int,
    *,
    heads: int = 4,
    soft_gate: bool = False,
    output_deviation: float = 0.02,
) -> Params:
    """Parameters of the layer, float32. Until `calibrate` sets the gate, every pair passes.

    `ceiling` and `threshold` (N,) are calibrated constants without a gradient: keep weight decay
    off them (they are vectors, as norms and biases are).

    Args:
        key: a JAX random key.
        width: W, a multiple of 2 * heads.
        heads: N.
        soft_gate: also learn a weight of log score in the attention logits (N,), from 0.
        output_deviation: of the projection back to the residual stream.

    Raises:
        ValueError: width is not a multiple of 2 * heads.
    """
    heads, width = _checks.positive_int("heads", heads), _checks.positive_int("width", width)
    key = _checks.key("key", key)
    if width % (2 * heads):
        raise ValueError(f"width must be a multiple of 2 * heads = {2 * heads}, got {width}")
    keys = jax.random.split(key, 2)
    params = {
        "qkv": 0.02 * jax.random.normal(keys[0], (width, 3 * width), jnp.float32),
        "out": output_deviation * jax.random.normal(keys[1], (width, width), jnp.float32),
        "ceiling": jnp.ones((heads,), jnp.float32),
        "threshold": jnp.zeros((heads,), jnp.float32),
    }
    if soft_gate:
        params["soft_gate"] = jnp.zeros((heads,), jnp.float32)
    return params


def score(params: Params, openness: Float[Array, "B T H"]) -> Float[Array, "B T N"]:
    """A head's score: the mean openness of its chains over the calibrated ceiling, at most 1.

    Args:
        params: as `init` returns them; the ceiling gets no gradient.
        openness: (B, T, H) in [0, 1], H a multiple of the N heads.

    Returns:
        (B, T, N) in [0, 1].

    Raises:
        ValueError: H is not a multiple of N.
    """
    heads = _heads(params, openness)
    mean = jnp.mean(openness.reshape(*openness.shape[:-1], heads, -1), -1)
    ceiling = jax.lax.stop_gradient(params["ceiling"])
    return jnp.minimum(mean / ceiling[None, None], 1.0)


def project(
    params: Params, x: Float[Array, "B T W"], position: Int[Array, " T"], *, rotary_base: float
) -> Projected:
    """Normalised, rotated queries and keys, and values.

    Args:
        params: as `init` returns them.
        x: (B, T, W).
        position: (T,) integers.
        rotary_base: as in `layers.rotary`.

    Returns:
        `Projected`, each (B, T, N, D).
    """
    heads, width = params["ceiling"].shape[0], params["qkv"].shape[1] // 3
    shape = (*x.shape[:-1], 3 * heads, width // heads)
    q, k, v = jnp.split(linear(x, params["qkv"]).reshape(shape), 3, axis=-2)
    q, k = (rotary(rms_norm(part), position, base=rotary_base) for part in (q, k))
    return Projected(q, k, v)


def softened(params: Params, x: Projected, key_score: Array) -> tuple[Projected, float]:
    """The projections with the soft gate's channel, and the scale of their products.

    One more channel, sqrt(D) beta against log s_j, adds beta log s_j to the logits, so that the
    kernel need not know of it.

    Args:
        params: as `init` returns them; without `soft_gate` nothing is added.
        x: queries (B, T, N, D), keys and values (B, S, N, D).
        key_score: s (B, S, N).

    Returns:
        The projections, with D + 1 channels where there is a soft gate, and the scale 1 / sqrt(D).
    """
    size = x.query.shape[-1]
    if "soft_gate" not in params:
        return x, size**-0.5
    slope = params["soft_gate"][None, None] * size**0.5
    bias = jnp.log(jnp.maximum(key_score, 1e-6))
    zero = jnp.zeros((1, 1, 1), x.value.dtype)
    channels = (slope, bias, zero)
    parts = (_append(part, channel) for part, channel in zip(x, channels, strict=True))
    return Projected(*parts), size**-0.5


def _append(x: Array, channel: Array) -> Array:
    channel = jnp.broadcast_to(channel, x.shape[:-1])[..., None]
    return jnp.concatenate([x, channel.astype(x.dtype)], -1)


def apply(
    params: Params,
    x: Float[Array, "B T W"],
    score: Float[Array, "B T N"],
    *,
    local_window: int = 8,
    rotary_base: float = 1000.0,
    schedule: scattering.Schedule | None = None,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Float[Array, "B T W"]:
    """Attention of a whole sequence over the pairs that scatter or lie in the local band.

    Heads may be split over devices: with the columns of qkv, the rows of out and the constants of
    some of them the result is their part of a sum.

    Args:
        params: as `init` returns them.
        x: (B, T, W).
        score: (B, T, N) in [0, 1], as `score` makes it.
        local_window: pairs nearer than this always take part.
        rotary_base: as in `layers.rotary`.
        schedule, axis_name, implementation: as in `attention.scattering_attention`.

    Returns:
        (B, T, W). Its gradient reaches the score only through the soft gate.
    """
    _checks.instance("params", params, Mapping)
    x, score = _checks.real("x", x), _checks.real("score", score)
    width = params["qkv"].shape[0]
    if x.ndim != 3 or 0 in x.shape or x.shape[2] != width:
        raise ValueError(f"x must have shape (B, T, {width}) with B, T >= 1, got {x.shape}")
    time = x.shape[1]
    position = jnp.arange(time, dtype=jnp.int32)
    if axis_name is not None:
        position = position + jax.lax.axis_index(axis_name) * time
    parts = project(params, x, position, rotary_base=rotary_base)
    size = parts.value.shape[-1]
    parts, scale = softened(params, parts, score)
    y = scattering_attention(
        *parts,
        jax.lax.stop_gradient(score),
        threshold=jax.lax.stop_gradient(params["threshold"]),
        local_window=local_window,
        schedule=schedule,
        scale=scale,
        axis_name=axis_name,
        implementation=implementation,
    )
    return linear(y[..., :size].reshape(*x.shape[:-1], -1), params["out"])


def calibrate(
    params: Params, openness: Float[Array, "B T H"], *, density: float, local_window: int
) -> Params:
    r"""The gate's constants for a density of causal pairs, from a sample.

    The ceiling of a head is the 0.95 quantile of its chains' mean openness: tokens near it are
    fully open. The threshold lets pass the share of pairs outside the local band that makes
    `density` with the band.

    Args:
        params: as `init` returns them.
        openness: (B, T, H) of a representative sample.
        density: share of the causal pairs of T tokens to keep, in [0, 1].
        local_window: as in `apply`.

    Returns:
        The parameters with ceiling and threshold replaced.

    Raises:
        ValueError: density is outside [0, 1], or H is not a multiple of N.
    """
    if not 0.0 <= _checks.number("density", density) <= 1.0:
        raise ValueError(f"density must be in [0, 1], got {density}")
    _checks.instance("params", params, Mapping)
    local_window = _checks.positive_int("local_window", local_window, minimum=0)
    openness = _checks.real("openness", openness)
    if openness.ndim != 3 or 0 in openness.shape:
        raise ValueError(f"openness must have shape (B, T, H), not empty, got {openness.shape}")
    heads = _heads(params, openness)
    time = openness.shape[1]
    pairs = time * (time + 1) / 2
    near = min(local_window, time)
    band = near * time - near * (near - 1) / 2
    beyond = min(1.0, max(0.0, density * pairs - band) / max(pairs - band, 1.0))
    openness = jax.lax.stop_gradient(openness)
    mean = jnp.mean(openness.reshape(-1, heads, openness.shape[-1] // heads), -1)
    ceiling = jnp.maximum(jnp.quantile(mean, CEILING_QUANTILE, axis=0), 1e-6)
    pooled = jnp.minimum(mean / ceiling[None], 1.0).T
    threshold = scattering.threshold_for_density(pooled, beyond) * OFF_THE_TIE
    found = {"ceiling": ceiling, "threshold": threshold}
    return params | {name: x.astype(params[name].dtype) for name, x in found.items()}


def _heads(params: Params, openness: Array) -> int:
    heads = params["ceiling"].shape[0]
    if openness.shape[-1] % heads:
        raise ValueError(
            f"openness must have a multiple of {heads} heads on its last axis, "
            f"got shape {openness.shape}"
        )
    return heads
