"""The thresholds of all heads as shares of the pairs that they let through.

Shapes: L layers, N heads, Q shares, B batch, T time.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet import _checks, scattering
from physnet.models.bk_core import _model
from physnet.models.bk_core._block import Params
from physnet.models.bk_core._config import BKCoreConfig

_REACH = 20.0  # at these log-odds shares are 0 and 1 to 2e-9
_HALVINGS = 40


def gate_quantiles(
    config: BKCoreConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    points: int = 65,
    dtype: Any = jnp.float32,
) -> Float[Array, "L N Q"]:
    """Thresholds that let through 0, 1 / (Q - 1), ..., all pairs of scores in a sample.

    Args:
        config: the sizes, with attention and without a memory.
        params: as `init` returns them, gates set by `calibrate`.
        tokens: (B, T), a sample of the kind and length that the model is for.
        points: Q >= 2.
        dtype: as in `apply`.

    Returns:
        (L, N, Q), falling along Q: from the largest product of two scores of a head to 0.

    Raises:
        ValueError, TypeError: as `pairs`; ValueError for points < 2.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.models import bk_core
        >>> config = bk_core.BKCoreConfig(
        ...     vocab_size=7, layers=1, heads=2, width=16, chains=4, local_window=1
        ... )
        >>> tokens = jax.random.randint(jax.random.key(1), (4, 16), 0, 7)
        >>> @jax.jit
        ... def kept(key):  # a fifth of the far pairs of the first head, all of the second
        ...     params = bk_core.init(config, key)
        ...     table = bk_core.gate_quantiles(config, params, tokens)
        ...     params = bk_core.with_shares(params, table, jnp.array([[0.2, 1.0]]))
        ...     return bk_core.pairs(config, params, tokens)[0].sum((0, 2, 3))
        >>> found = kept(jax.random.key(0)) - 64  # 4 sequences of 16 pairs in the local window
        >>> [f"{share:.1f}" for share in found / (4 * 120)]
        ['0.2', '1.0']
    """
    _checks.positive_int("points", points, minimum=2)
    _gated(config)
    info = _model.apply(config, params, tokens, dtype=dtype, return_info=True, teleport=0.0)[1]
    pooled = jnp.moveaxis(info["score"], -1, 1).reshape(config.layers, config.heads, 1, -1)
    shares = np.linspace(0.0, 1.0, points, dtype=np.float32)
    return scattering.threshold_for_density(pooled, shares)


def with_shares(params: Params, quantiles: Float[Array, "L N Q"], shares: ArrayLike) -> Params:
    """The parameters with thresholds that let these shares of the sample's pairs through.

    Args:
        params: as `init` returns them.
        quantiles: of `gate_quantiles`.
        shares: (L, N) or one number, in [0, 1], of the pairs beyond the local window; between
            the shares of the quantiles thresholds are interpolated.

    Returns:
        New parameters; only thresholds differ.

    Raises:
        ValueError: quantiles of another number of layers or heads, shares of another shape.
    """
    quantiles = _fits(params, quantiles)
    shares = _checks.array("shares", shares, jnp.float32)
    if np.shape(shares) not in ((), quantiles.shape[:-1]):
        raise ValueError(
            f"shares must be one number or have shape {quantiles.shape[:-1]}, got "
            f"{np.shape(shares)}"
        )
    points = jnp.linspace(0.0, 1.0, quantiles.shape[-1], dtype=jnp.float32)
    shares = jnp.broadcast_to(shares, quantiles.shape[:-1])
    found = jax.vmap(jax.vmap(lambda share, table: jnp.interp(share, points, table)))(
        shares, quantiles
    )
    attention = params["layers"]["attention"]
    threshold = found.astype(attention["threshold"].dtype)
    layers = params["layers"] | {"attention": attention | {"threshold": threshold}}
    return params | {"layers": layers}


def shares_of(params: Params, quantiles: Float[Array, "L N Q"]) -> Float[Array, "L N"]:
    """The shares that the thresholds let through: the inverse of `with_shares`.

    Args:
        params: as `init` returns them.
        quantiles: of `gate_quantiles`.

    Returns:
        (L, N) in [0, 1]; where neighbouring quantiles are equal, one of their shares.

    Raises:
        ValueError: quantiles of another number of layers or heads.
    """
    quantiles = _fits(params, quantiles)
    points = jnp.linspace(0.0, 1.0, quantiles.shape[-1], dtype=jnp.float32)
    threshold = params["layers"]["attention"]["threshold"].astype(quantiles.dtype)
    return jax.vmap(jax.vmap(lambda value, table: jnp.interp(value, table[::-1], points[::-1])))(
        threshold, quantiles
    )


def allot(odds: Float[Array, "L N"], mean: ArrayLike) -> Float[Array, "L N"]:
    """Shares sigmoid(odds + c), with the c that gives them this mean.

    Args:
        odds: log-odds (L, N).
        mean: one number in [0, 1]; shares come within 1e-6 of it while odds are within 30 of 0
            (beyond, float32 rounds their sum with c).

    Returns:
        (L, N) in [0, 1].

    Raises:
        ValueError: a mean that is not one number or known to be outside [0, 1].

    Example:
        >>> import jax.numpy as jnp
        >>> from physnet.models import bk_core
        >>> shares = bk_core.allot(jnp.array([[0.0, 2.0]]), 0.25)
        >>> f"{shares.mean():.4f}", f"{jnp.diff(jnp.log(shares / (1 - shares)))[0, 0]:.3f}"
        ('0.2500', '2.000')
    """
    odds, known = _checks.real("odds", odds), _checks.known("mean", mean)
    outside = known is not None and not np.all((known >= 0) & (known <= 1))
    if np.shape(mean) != () or outside:
        raise ValueError(f"mean must be one number in [0, 1], got {mean}")
    if not odds.size:
        raise ValueError(f"odds must hold at least one number, got shape {odds.shape}")
    mean = _checks.array("mean", mean, odds.dtype)
    reach = jnp.max(jnp.abs(odds)) + _REACH

    def halve(_: Any, bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        under = jnp.mean(jax.nn.sigmoid(odds + middle)) < mean
        return jnp.where(under, middle, low), jnp.where(under, high, middle)

    low, high = jax.lax.fori_loop(0, _HALVINGS, halve, (-reach, reach))
    shares = jax.nn.sigmoid(odds + 0.5 * (low + high))
    return jnp.where(jnp.isnan(mean), jnp.nan, shares)


def beyond(config: BKCoreConfig, density: ArrayLike, time: int) -> Float[Array, "..."]:
    """The share of the causal pairs beyond the local window that makes `density` of all with it.

    Args:
        config: the sizes; `local_window` counts.
        density: share of all causal pairs.
        time: T, tokens of a sequence.

    Returns:
        The share, cut to [0, 1], of the shape of density.

    Example:
        >>> from physnet.models import bk_core
        >>> config = bk_core.BKCoreConfig(vocab_size=7, local_window=1)
        >>> float(bk_core.beyond(config, 0.7, 4))  # 7 of 10 pairs: the 4 nearest and 3 of 6
        0.5
    """
    time = _checks.positive_int("time", time)
    pairs = time * (time + 1) / 2
    near = min(config.local_window, time)
    band = near * time - near * (near - 1) / 2
    density = _checks.array("density", density, jnp.float32)
    return jnp.clip((density * pairs - band) / max(pairs - band, 1.0), 0.0, 1.0)


def _fits(params: Params, quantiles: Any) -> Array:
    """The quantiles in float32 at least, or an error unless they are those of the parameters."""
    _checks.instance("params", params, Mapping)
    quantiles = _checks.real("quantiles", quantiles)
    heads = params["layers"]["attention"]["threshold"].shape
    if quantiles.ndim != 3 or quantiles.shape[:2] != heads or quantiles.shape[2] < 2:
        raise ValueError(
            f"quantiles must have shape (L, N, Q) of {heads}, Q >= 2, got {quantiles.shape}"
        )
    return quantiles.astype(np.promote_types(quantiles.dtype, np.float32))


def _gated(config: BKCoreConfig) -> None:
    if not config.attention:
        raise ValueError("config.attention must be True: without attention there are no gates")
    if config.memory is not None:
        raise ValueError("config.memory must be None: its tokens pass no gate of pairs")
