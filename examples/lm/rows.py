"""The models that the table compares, each behind the same functions."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lm.errors import UserError
from lm.settings import Settings
from physnet.models import transformer


class Model(NamedTuple):
    """One trained row: the functions of a model's module and a config for them.

    `init(config, key)` and `apply(config, params, tokens, *, key, dtype, return_info)` are the
    module's own; `pairs(config, params, tokens)`, where attention is gated, gives for one layer
    the (T, T) pairs that it keeps in the first of the tokens' rows.
    """

    name: str
    label: str
    learning_rate: float
    config: Any
    init: Callable[..., Any]
    apply: Callable[..., Any]
    pairs: Callable[..., jax.Array] | None = None

    def deeper(self, layers: int) -> "Model":
        """The same model with another number of layers."""
        return self._replace(config=dataclasses.replace(self.config, layers=layers))


def models(settings: Settings, vocab_size: int) -> list[Model]:
    """The trained rows that the settings ask for.

    Raises:
        UserError: the sizes do not fit together (the message names the one).
    """
    try:
        rows = []
        if "transformer" in settings.rows:
            rows.append(_transformer(settings, vocab_size))
        return rows
    except ValueError as error:
        raise UserError(f"these sizes make no model: {error}") from error


def parameters(init: Callable[..., Any], config: Any) -> int:
    """Number of parameters of a model, without building it."""
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def match_hidden(init: Callable[..., Any], config: Any, target: int) -> Any:
    """The config with the `hidden` width whose number of parameters is nearest to `target`.

    Raises:
        UserError: even the nearest one is more than 1% away.
    """

    def count(hidden: int) -> int:
        return parameters(init, dataclasses.replace(config, hidden=hidden))

    smallest = count(1)
    each = count(2) - smallest  # the number of parameters is affine in the hidden width
    hidden = 1 + max(0, round((target - smallest) / each))
    if abs(count(hidden) - target) > 0.01 * target:
        raise UserError(
            f"no hidden width gives {type(config).__name__} about {target} parameters: "
            f"{hidden} gives {count(hidden)}; choose other --sizes"
        )
    return dataclasses.replace(config, hidden=hidden)


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
