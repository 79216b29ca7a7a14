"""BK-Core seen over its depth: jumping gradients, probes of its blocks, their isometry.

Shapes: B batch, T time, W width, L layers.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from physnet import _checks, _dispatch, _varying, dyson, teleport
from physnet.models import _sharding
from physnet.models._axes import Axes
from physnet.models._tokens import check_tokens, embed
from physnet.models.bk_core._block import SITES, Params, Stream, begin, block
from physnet.models.bk_core._config import BKCoreConfig
from physnet.models.bk_core._partition import check_parts
from physnet.nn.layers import Drop, dropout

PIECE = 256  # tokens whose pairs attention forms at once, with derivatives of every order


def still(strength: ArrayLike) -> bool:
    """Whether nothing jumps, for sure: a number 0 and not an array, which may change."""
    return isinstance(strength, (int, float)) and strength == 0


def jumping(
    config: BKCoreConfig,
    params: Params,
    x: Stream,
    strength: ArrayLike,
    *,
    key: jax.Array | None,
    implementation: _dispatch.Implementation | None,
    axes: Axes,
    report: bool,
) -> tuple[Stream, Any]:
    """The stream after all blocks, and their (score, expert) with layers on axis 0.

    "gated" measures rho in this very pass, on a piece of one sequence: that costs about three
    forward passes of this piece, and parameters need no room for constants that age. The other
    modes take 1, what rho is of a block that adds little to its stream.
    """
    stack = jnp.arange(config.layers, dtype=jnp.int32), params["layers"]

    def one(own: Any, x: Stream) -> Any:
        index, layer = own
        drop = dropout_at(config.dropout, key, index)
        return block(config, layer, x, drop, implementation, axes)

    def step(own: Any, h: Any) -> Any:
        x, reports = h
        found = one(own, x)
        if report:
            reports = jax.tree.map(
                lambda every, new: lax.dynamic_update_index_in_dim(
                    every, lax.stop_gradient(new), own[0], 0
                ),
                reports,
                found[1:],
            )
        return found.x, reports

    reports: Any = (None, None)
    if report:
        first = jax.tree.map(lambda leaf: leaf[0], stack)
        shapes = jax.eval_shape(one, first, x)[1:]
        reports = jax.tree.map(lambda s: jnp.zeros((config.layers, *s.shape), s.dtype), shapes)
        reports = _varying.alike(reports, x, params["layers"])
    if config.teleport_mode == "gated":
        rho = _rho(config, params, x, axes)
    else:
        rho = jnp.ones((config.layers,), jnp.float32)
    if isinstance(strength, (int, float)):
        strength = jnp.asarray(strength, jnp.float32)
    return teleport.scan(
        step, stack, (x, reports), propagator=rho, strength=strength, mode=config.teleport_mode
    )


def probe_layers(
    config: BKCoreConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    key: Key[Array, ""],
    probes: int = 8,
    dtype: Any = jnp.float32,
) -> dyson.LayerProbes:
    """What each block does to a small change of its stream, sequence by sequence.

    `dyson.probe_layers` of the blocks, whose Jacobians J_l are those of whole sequences, d = T W,
    of a reversible model of both halves of its stream, d = 2 T W.
    rho near 1 and a small self-energy say that jumps of `BKCoreConfig.teleport` carry news.

    Args:
        config: the sizes.
        params: as `init` returns them, gates set by `calibrate`.
        tokens: (B, T) integers; with attention T <= 256. Pieces of text will do.
        key: of the probes.
        probes: their number, at least 2. Static.
        dtype: as in `apply`.

    Returns:
        `dyson.LayerProbes`, each (B, L). Without dropout.

    Raises:
        ValueError, TypeError: as `apply`; ValueError for tokens that are too long.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.models import bk_core
        >>> config = BKCoreConfig(vocab_size=7, layers=2, heads=2, width=16, chains=4)
        >>> params = jax.jit(bk_core.init, static_argnums=0)(config, jax.random.key(0))
        >>> run = jax.jit(lambda params, tokens: probe_layers(
        ...     config, params, tokens, key=jax.random.key(1), probes=2))
        >>> run(params, jnp.array([[1, 2, 3, 4]])).rho.shape
        (1, 2)
    """
    layer, x, keys = _blocks(config, params, tokens, key, dtype)

    def one(x, key):
        return dyson.probe_layers(layer, params["layers"], x, key=key, probes=probes)

    return jax.vmap(one)(x, keys)


def isometry_penalty(
    config: BKCoreConfig,
    params: Params,
    tokens: Int[Array, "B T"],
    *,
    key: Key[Array, ""],
    probes: int = 1,
    dtype: Any = jnp.float32,
    remat: bool = False,
) -> Float[Array, ""]:
    r"""How far the blocks are from keeping lengths: a term for the loss.

        R = mean over sequences and layers of |J^T J - 1|_F^2 / d + (tr(J^T J - 1))^2 / 2d

    J is the Jacobian of a block on a whole sequence's stream, d = T W: `dyson.isometry_penalty` of
    each sequence, by Gaussian probes, unbiased. The second term is d/2 times the squared mean
    change of |v|^2, so weights are of the order 1/d. One probe takes a forward pass with tangents,
    and with its gradient about twice a training step on the same tokens: a few pieces of text a
    step are enough.

    Probes push tangents forward, and the gradient differentiates them: that is second order, which
    attention has where it forms all pairs at once. So T is at most 256 with attention, and no
    kernel is used.

    Args:
        config: the sizes.
        params: as `init` returns them, gates set by `calibrate`.
        tokens: (B, T) integers.
        key: of the probes, new in each step.
        probes: their number for each layer and sequence. Static.
        dtype: as in `apply`.
        remat: keep only the stream between blocks and compute the rest again.

    Returns:
        R, a scalar, float32, differentiable in params. Without dropout.

    Raises:
        ValueError, TypeError: as `apply`; ValueError for tokens that are too long.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.models import bk_core
        >>> config = BKCoreConfig(vocab_size=7, layers=2, heads=2, width=16, chains=4)
        >>> params = jax.jit(bk_core.init, static_argnums=0)(config, jax.random.key(0))
        >>> penalty = jax.jit(lambda params, tokens: isometry_penalty(
        ...     config, params, tokens, key=jax.random.key(1)))
        >>> bool(penalty(params, jnp.array([[1, 2, 3, 4]])) > 0)
        True

    References:
        Pennington, Schoenholz & Ganguli, NeurIPS 2017 (dynamical isometry).
    """
    layer, x, keys = _blocks(config, params, tokens, key, dtype)

    def one(x, key):
        return dyson.isometry_penalty(
            layer, params["layers"], x, key=key, probes=probes, remat=remat
        )

    return jnp.mean(jax.vmap(one)(x, keys))


def _blocks(config: BKCoreConfig, params: Params, tokens: jax.Array, key: jax.Array, dtype: Any):
    """A block as a function of one sequence's stream, the streams (B, T, W), and a key for each."""
    tokens, key = check_tokens(params, tokens), _checks.key("key", key)
    check_parts(config, params)
    if config.attention and tokens.shape[1] > PIECE:
        raise ValueError(
            f"tokens must have at most {PIECE} positions, of longer ones attention has no "
            f"derivatives of second order; got {tokens.shape[1]}: pass pieces"
        )
    x = _whole(config, begin(config, embed(params["token"], tokens, dtype)))
    return _layer(config), x, jax.random.split(_like(key, x), len(x))


def _whole(config: BKCoreConfig, x: Stream) -> jax.Array:
    """A stream as one array, the batch first: (B, T, W) or (B, 2, T, W)."""
    return jnp.stack(x, 1) if config.reversible else x


def _layer(config: BKCoreConfig, axes: Axes = _sharding.NONE) -> Any:
    """A block on one sequence's stream, as one array."""

    def one(own: Params, x: jax.Array) -> jax.Array:
        stream = (x[:1], x[1:]) if config.reversible else x[None]
        return _whole(config, block(config, own, stream, dropout(0.0, None), "xla", axes).x)[0]

    return one


def dropout_at(rate: float, key: jax.Array | None, index: jax.Array) -> Drop:
    """`nn.layers.dropout` at the sites of a block of which only the computation knows the index."""
    if key is None or rate == 0.0:
        return lambda x, site: x

    def drop(x: jax.Array, site: int) -> jax.Array:
        own = jax.random.fold_in(key, SITES * index + site)
        keep = jax.random.bernoulli(own, 1.0 - rate, x.shape)
        return jnp.where(keep, x / (1.0 - rate), jnp.zeros((), x.dtype))

    return drop


def _rho(config: BKCoreConfig, params: Params, x: Stream, axes: Axes = _sharding.NONE) -> jax.Array:
    """tr J / d of each block (L,), by two probes of the first sequence's beginning."""
    if axes.sequence is not None:
        raise ValueError(
            "axes.sequence must be None with teleport_mode='gated', which probes the beginning of "
            f"a sequence, got {axes.sequence!r}"
        )
    x = _whole(config, x)[0, ..., :PIECE, :]
    layers, x = lax.stop_gradient((params["layers"], x))
    key = _like(jax.random.key(0), x)
    return dyson.probe_layers(_layer(config, axes), layers, x, key=key, probes=2).rho


def _like(key: jax.Array, x: jax.Array) -> jax.Array:
    """The key, varying over the axes of a `shard_map` over which x does: probes must as well."""
    return _varying.alike(key, x)
