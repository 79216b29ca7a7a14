"""Where the parameters of BK-Core lie on a mesh."""

from typing import Any

from physnet.models import _sharding
from physnet.models._axes import Axes
from physnet.models.bk_core._config import BKCoreConfig

_HEADS: _sharding.Rules = {
    ("mixer", "potential"): (None, "tensor"),
    ("mixer", "potential_bias"): ("tensor",),
    ("mixer", "log_eta"): ("tensor",),
    ("mixer", "log_hopping"): ("tensor",),
    ("mixer", "source"): (None, "tensor"),
    ("mixer", "gate"): (None, "tensor"),
    ("mixer", "norm"): ("tensor",),
    ("mixer", "out"): ("tensor", None),
    ("attention", "qkv"): (None, "tensor"),
    ("attention", "out"): ("tensor", None),
    ("attention", "ceiling"): ("tensor",),
    ("attention", "threshold"): ("tensor",),
    ("attention", "soft_gate"): ("tensor",),
}
_DENSE: _sharding.Rules = {("mlp", "up"): (None, "tensor"), ("mlp", "down"): ("tensor", None)}
_EXPERTS: _sharding.Rules = {
    ("mlp", "up"): ("expert", None, "tensor"),
    ("mlp", "down"): ("expert", "tensor", None),
}


def partition(config: BKCoreConfig, params: Any, axes: Axes | None) -> Any:
    """Where the parameters lie on a mesh whose axes split the model.

    For `NamedSharding` where they are kept and for `in_specs` of the `jax.shard_map` around
    `apply(..., axes=axes)`. Embedding, norms and the map to the experts are the same everywhere.

    Args:
        config: the sizes.
        params: as `init` returns them, or their shapes (`jax.eval_shape`); any tree whose paths end
            alike, such as the moments of an optimiser.
        axes: names of the mesh axes; None for a model that is not split.

    Returns:
        The tree of params with a `jax.sharding.PartitionSpec` in place of each leaf.

    Example:
        >>> import jax
        >>> from physnet.models import Axes, bk_core
        >>> config = bk_core.BKCoreConfig(vocab_size=7, experts=4)
        >>> shapes = jax.eval_shape(lambda key: bk_core.init(config, key), jax.random.key(0))
        >>> specs = bk_core.partition(config, shapes, Axes(tensor="t", expert="e"))
        >>> tuple(specs["layers"]["mlp"]["down"]), tuple(specs["token"])  # (L, E, F, W), (V, W)
        ((None, 'e', 't', None), ())
    """
    return _sharding.partition(params, axes, _HEADS | (_EXPERTS if config.experts else _DENSE))


def check_parts(config: BKCoreConfig, params: Any, axes: Axes = _sharding.NONE) -> None:
    """Raise where a device holds other parts of the parameters than the axes give it.

    Nothing else would notice: heads, chains and experts are counted by the parameters.
    """
    layers = params["layers"]
    chains = layers["mixer"]["potential"].shape[-1]
    _sharding.hold("chains", chains, config.chains, axes.tensor)
    if config.experts:
        experts = layers["mlp"]["up"].shape[-3]
        _sharding.hold("experts", experts, config.experts, axes.expert)
