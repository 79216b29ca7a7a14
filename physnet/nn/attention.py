"""Scattering attention as a layer: rotary queries and keys, a calibrated gate, a local band.

Shapes: B batch, T time, W width, N heads, D = W / N, H chains of the Hamiltonian.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from physnet import _checks, _dispatch, scattering
from physnet.attention import scattering_attention
from physnet.nn import _arguments
from physnet.nn.layers import linear, rms_norm, rotary

Params = dict[str, Any]

_CEILING_QUANTILE = 0.95
# The threshold for a density equals a product of the sample. Rounding must not decide that pair.
_OFF_THE_TIE = 1 + 2.0**-12


class Projected(NamedTuple):
    """Queries, keys and values of a piece of sequence.

    Attributes:
        query: (B, T, N, D).
        key: (B, S, N, D); of `project` S = T.
        value: (B, S, N, D).
    """

    query: Float[Array, "B T N D"]
    key: Float[Array, "B S N D"]
    value: Float[Array, "B S N D"]


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

    Returns:
        qkv (W, 3 W), out (W, W), ceiling and threshold (N,) and, if asked for, soft_gate (N,).

    Raises:
        ValueError: width is not a multiple of 2 * heads, or a number is below 1.
        TypeError: A number is not a static int, or key not a random key.

    Example:
        >>> import jax
        >>> params = init(jax.random.key(0), 16, heads=2, soft_gate=True)
        >>> params["qkv"].shape, *(params[name].shape for name in ("ceiling", "soft_gate"))
        ((16, 48), (2,), (2,))
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
        ValueError: openness has another rank, or H is not a multiple of N.
        TypeError: openness is not real floating-point, params no dict.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = init(jax.random.key(0), 16, heads=2) | {"ceiling": jnp.array([0.5, 1.0])}
        >>> print(score(params, jnp.array([[[0.1, 0.3, 0.2, 0.6], [0.9, 0.7, 1.0, 0.8]]])))
        [[[0.4 0.4]
          [1.  0.9]]]
    """
    openness = _checks.real("openness", openness)
    heads, each = _heads(params, openness)
    mean = jnp.mean(openness.reshape(*openness.shape[:-1], heads, each), -1)
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
        `Projected`, each (B, T, N, D), in the dtype of x.

    Raises:
        ValueError: shapes that do not fit, a base that is not positive and finite.
        TypeError: x is not real floating-point, position not integers, params no dict.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = init(jax.random.key(0), 16, heads=2)
        >>> x = jax.random.normal(jax.random.key(1), (3, 5, 16))
        >>> parts = project(params, x, jnp.arange(5), rotary_base=1000.0)
        >>> parts.query.shape, f"{jnp.mean(parts.query**2):.2f}"
        ((3, 5, 2, 8), '1.00')
    """
    x = _arguments.sequence(params, x)
    if not 0 < _checks.number("rotary_base", rotary_base) < math.inf:
        raise ValueError(f"rotary_base must be positive and finite, got {rotary_base}")
    heads, width = params["ceiling"].shape[0], params["qkv"].shape[1] // 3
    shape = (*x.shape[:-1], 3 * heads, width // heads)
    q, k, v = jnp.split(linear(x, params["qkv"]).reshape(shape), 3, axis=-2)
    q, k = (rotary(rms_norm(part), position, base=rotary_base) for part in (q, k))
    return Projected(q, k, v)


def softened(
    params: Params, x: Projected, key_score: Float[Array, "B S N"]
) -> tuple[Projected, float]:
    """The projections with the soft gate's channel, and the scale of their products.

    One more channel, sqrt(D) beta against log s_j, adds beta log s_j to the logits, so that the
    kernel need not know of it.

    Args:
        params: as `init` returns them; without `soft_gate` nothing is added.
        x: queries (B, T, N, D), keys and values (B, S, N, D).
        key_score: s (B, S, N).

    Returns:
        The projections, with D + 1 channels where there is a soft gate, and the scale 1 / sqrt(D)
        for `attention.scattering_attention`, of whose result the last channel is then 0.

    Raises:
        ValueError: shapes that do not fit.
        TypeError: an array is not real floating-point, x not `Projected`, params no dict.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> params = init(jax.random.key(0), 16, heads=2) | {"soft_gate": jnp.array([1.0, 0.0])}
        >>> x = jax.random.normal(jax.random.key(1), (1, 3, 16))
        >>> plain = project(params, x, jnp.arange(3), rotary_base=1000.0)
        >>> soft, scale = softened(params, plain, jnp.full((1, 3, 2), 0.5))
        >>> logits = lambda parts: scale * jnp.einsum("btnd,bsnd->nts", parts.query, parts.key)
        >>> change = logits(soft) - logits(plain)
        >>> bool(jnp.allclose(change[0], jnp.log(0.5), atol=1e-5)), float(abs(change[1]).max())
        (True, 0.0)
    """
    _checks.instance("params", params, Mapping)
    _checks.instance("x", x, Projected)
    query, key, value = (
        _checks.real(f"x.{name}", part) for name, part in zip(x._fields, x, strict=True)
    )
    x = Projected(query, key, value)
    like = (*query.shape[:1], *key.shape[1:2], *query.shape[2:])
    if query.ndim != 4 or key.shape != like or value.shape != like:
        raise ValueError(
            "x must have a query (B, T, N, D), key and value (B, S, N, D), "
            f"got {query.shape}, {key.shape} and {value.shape}"
        )
    key_score = _checks.real("key_score", key_score)
    if key_score.shape != key.shape[:-1]:
        raise ValueError(f"key_score must have shape {key.shape[:-1]}, got {key_score.shape}")
    size = query.shape[-1]
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
        (B, T, W), in the dtype of x. Its gradient reaches the score only through the soft gate.

    Raises:
        ValueError: shapes that do not fit, or as `attention.scattering_attention` and `project`.
        TypeError: x or score is not real floating-point, params no dict.
        NotImplementedError: As `attention.scattering_attention`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.nn import mixer
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> chains = mixer.hamiltonian(keys[0], 16, heads=4)
        >>> params, x = init(keys[1], 16, heads=2), jax.random.normal(keys[2], (1, 24, 16))
        >>> openness = jax.jit(lambda x: mixer.apply(chains, x).openness)(x)
        >>> params = calibrate(params, openness, density=0.5, local_window=4)
        >>> run = jax.jit(lambda x: apply(params, x, score(params, openness), local_window=4))
        >>> y, moved = run(x), run(x.at[:, 9].set(0.0))
        >>> y.shape, bool(jnp.all(y[:, :9] == moved[:, :9]))
        ((1, 24, 16), True)
    """
    x, score = _arguments.scored(params, x, score)
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
        ValueError: density is outside [0, 1], openness is empty or has another rank, or H is not a
            multiple of N.
        TypeError: openness is not real floating-point, params no dict, or an option no number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet import scattering
        >>> openness = jax.random.uniform(jax.random.key(1), (1, 40, 4), jnp.float32)
        >>> params = init(jax.random.key(0), 16, heads=2)
        >>> params = calibrate(params, openness, density=0.4, local_window=0)
        >>> found = score(params, openness)[0].T
        >>> kept = scattering.pair_gate(found, found, params["threshold"])
        >>> [f"{share:.2f}" for share in kept[:, jnp.tri(40, dtype=bool)].mean(1)]
        ['0.40', '0.40']
    """
    if not 0.0 <= _checks.number("density", density) <= 1.0:
        raise ValueError(f"density must be in [0, 1], got {density}")
    local_window = _checks.positive_int("local_window", local_window, minimum=0)
    openness = _checks.real("openness", openness)
    heads, each = _heads(params, openness)
    if not openness.size:
        raise ValueError(f"openness must not be empty, got shape {openness.shape}")
    time = openness.shape[1]
    pairs = time * (time + 1) / 2
    near = min(local_window, time)
    band = near * time - near * (near - 1) / 2
    beyond = min(1.0, max(0.0, density * pairs - band) / max(pairs - band, 1.0))
    openness = jax.lax.stop_gradient(openness)
    mean = jnp.mean(openness.reshape(-1, heads, each), -1)
    ceiling = jnp.maximum(jnp.quantile(mean, _CEILING_QUANTILE, axis=0), 1e-6)
    pooled = jnp.minimum(mean / ceiling[None], 1.0).T
    threshold = scattering.threshold_for_density(pooled, beyond) * _OFF_THE_TIE
    found = {"ceiling": ceiling, "threshold": threshold}
    return params | {name: x.astype(params[name].dtype) for name, x in found.items()}


def _heads(params: Params, openness: Array) -> tuple[int, int]:
    """N, and the chains of each head."""
    _checks.instance("params", params, Mapping)
    heads = params["ceiling"].shape[0]
    if openness.ndim != 3 or not openness.shape[2] or openness.shape[2] % heads:
        raise ValueError(
            f"openness must have shape (B, T, H), H a multiple of the {heads} heads, "
            f"got {openness.shape}"
        )
    return heads, openness.shape[2] // heads
