"""The models that the table compares, each behind the same three functions."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lm.settings import Settings
from physnet.models import transformer


class Model(NamedTuple):
    """One row: `init(config, key)` and `apply(config, params, tokens, ...)` of a model module."""

    name: str
    label: str
    learning_rate: float
    config: Any
    init: Callable[..., Any]
    apply: Callable[..., Any]

    def deeper(self, layers: int) -> "Model":
        """The same model with another number of layers."""
        return self._replace(config=dataclasses.replace(self.config, layers=layers))


def models(settings: Settings, vocab_size: int) -> list[Model]:
    """The trained rows that the settings ask for."""
    rows = []
    if "transformer" in settings.rows:
        rows.append(_transformer(settings, vocab_size))
    return rows


def decayed(params: Any) -> Any:
    """Which leaves are matrices; those under `layers` have the layers on axis 0."""

    def matrix(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        stacked = any(getattr(entry, "key", None) == "layers" for entry in path)
        return leaf.ndim - stacked >= 2

    return jax.tree_util.tree_map_with_path(matrix, params)


def _transformer(settings: Settings, vocab_size: int) -> Model:
    sizes = settings.sizes
    config = transformer.TransformerConfig(
        vocab_size,
        layers=sizes.layers,
        heads=sizes.heads,
        width=sizes.width,
        hidden=settings.transformer.hidden,
        context=settings.training.block,
        dropout=sizes.dropout,
    )
    rate = settings.transformer.learning_rate
    init, apply = transformer.init, transformer.apply
    return Model("transformer", "plain transformer", rate, config, init, apply)
