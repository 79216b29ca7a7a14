"""One block of BK-Core: mixer and attention side by side, then the feed-forward.

Shapes: B batch, T time, W width, N heads, k experts of a token.
"""

from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from physnet import _dispatch
from physnet.models import _sharding
from physnet.models._axes import Axes
from physnet.models.bk_core import _experts
from physnet.models.bk_core._config import BKCoreConfig
from physnet.nn import attention as gated
from physnet.nn import memory, mixer
from physnet.nn.layers import Drop, rms_norm

Params = dict[str, Any]

SITES = 5  # dropout sites of a block


Stream = Any  # (B, T, W); of a reversible model the pair (position, momentum) of such


class Passed(NamedTuple):
    """The stream after a block, and what the block reports; None where there is none of it."""

    x: Stream
    score: jax.Array | None  # (B, T, N)
    expert: jax.Array | None  # (B, T, k)


def block(
    config: BKCoreConfig,
    layer: Params,
    x: Stream,
    drop: Drop,
    implementation: _dispatch.Implementation | None,
    axes: Axes = _sharding.NONE,
) -> Passed:
    """x += mixer(norm(x)) + attention(norm(x)), x += feed_forward(norm(x)).

    Of a reversible model the first reads the position and kicks the momentum, the second reads the
    momentum and moves the position.
    """
    score, y = tokens_mixed(config, layer, read(config, x), drop, implementation, axes)
    x, expert = fed(config, layer, kicked(config, x, y), at(drop, 4), axes)
    return Passed(x, score, expert)


def begin(config: BKCoreConfig, x: Float[Array, "B T W"]) -> Stream:
    """The stream before the first block."""
    return (x, x) if config.reversible else x


def end(config: BKCoreConfig, x: Stream) -> Float[Array, "B T W"]:
    """What is read out after the last block."""
    return 0.5 * (x[0] + x[1]) if config.reversible else x


def read(config: BKCoreConfig, x: Stream) -> Float[Array, "B T W"]:
    """What mixer and attention see."""
    return x[0] if config.reversible else x


def moving(config: BKCoreConfig, x: Stream) -> Float[Array, "B T W"]:
    """What the feed-forward sees."""
    return x[1] if config.reversible else x


def kicked(config: BKCoreConfig, x: Stream, y: Float[Array, "B T W"]) -> Stream:
    """The stream with what mixer and attention add."""
    return (x[0], x[1] + y) if config.reversible else x + y


def fed(
    config: BKCoreConfig, layer: Params, x: Stream, drop: Drop, axes: Axes = _sharding.NONE
) -> tuple[Stream, Any]:
    """The stream with what the feed-forward adds, and the experts of each token (B, T, k)."""
    y, expert = feed_forward(config, layer, moving(config, x), drop, axes)
    return (x[0] + y, x[1]) if config.reversible else x + y, expert


def layer_params(params: Params, index: int) -> Params:
    """The parameters of one layer."""
    return jax.tree.map(lambda leaf: leaf[index], params["layers"])


def feed_forward(
    config: BKCoreConfig,
    layer: Params,
    x: Float[Array, "B T W"],
    drop: Drop,
    axes: Axes = _sharding.NONE,
) -> tuple[Float[Array, "B T W"], jax.Array | None]:
    """mlp(norm(x)), and where there are experts those of each token (B, T, k)."""
    h = rms_norm(x, scale=layer["norm_mlp"])
    if config.experts:
        y, expert = _experts.apply(config, layer, h, axis_name=axes.expert)
    else:
        y, expert = _experts.mlp(layer["mlp"], _sharding.read(h, axes.tensor)), None
    return drop(_sharding.summed(y, axes.tensor), 0), expert


def tokens_mixed(
    config: BKCoreConfig,
    layer: Params,
    x: jax.Array,
    drop: Drop,
    implementation: _dispatch.Implementation | None,
    axes: Axes = _sharding.NONE,
) -> tuple[jax.Array | None, jax.Array]:
    """The scores of the gate and what mixer and attention add to the stream."""
    h = _sharding.read(rms_norm(x, scale=layer["norm_mixer"]), axes.tensor)
    mixed = mixer.apply(
        layer["mixer"],
        h,
        groups=_sharding.share(axes, heads=config.heads)["heads"],
        drop=_sharding.sliced(drop, axes.tensor),
        axis_name=axes.sequence,
        implementation=implementation,
    )
    if not config.attention:
        return None, drop(_sharding.summed(mixed.output, axes.tensor), 2)
    if axes.tensor is not None:
        qkv = _sharding.columns(layer["attention"]["qkv"], 3, axes.tensor)
        layer = layer | {"attention": layer["attention"] | {"qkv": qkv}}
    score = gated.score(layer["attention"], mixed.openness)
    if config.memory is not None:
        if implementation == "mosaic_gpu":  # which serves attention alone
            raise NotImplementedError("implementation='mosaic_gpu' has no attention to a memory")
        attended = memory.apply(
            layer["attention"], h, score, config=config.memory, rotary_base=config.rotary_base
        )
    else:
        attended = gated.apply(
            layer["attention"],
            h,
            score,
            local_window=config.local_window,
            rotary_base=config.rotary_base,
            axis_name=axes.sequence,
            implementation=implementation,
        )
    y = drop(mixed.output, 2) + drop(attended, 3) if config.mixer else drop(attended, 3)
    return score, _sharding.summed(y, axes.tensor)


def at(drop: Drop, first: int) -> Drop:
    """The sites of a part, of which `first` is number 0."""
    return lambda x, site: drop(x, first + site)
