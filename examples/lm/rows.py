"""The models that the table compares, each behind the same functions."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from lm import ablations
from lm.errors import UserError
from lm.settings import BKCore, Direction, Settings, Sizes, Transformer
from physnet.models import bk_core, transformer

ABLATIONS = ablations.TOKENS
DEPTH = tuple(change.name for change in ablations.DEPTH)

PIECE = 256
"""Characters of a window that the isometry penalty sees at most."""


class Penalty(NamedTuple):
    """A term of the training loss, weight * function(config, params, tokens, *, key, dtype).

    The tokens are those of the first `windows` of a batch.
    """

    function: Callable[..., jax.Array]
    weight: float
    windows: int


class Teacher(NamedTuple):
    """An ensemble whose mixture of predictions a row learns beside the text itself.

    The loss is `labels` times that on the text and the rest times a divergence: KL(mixture || row)
    where the direction is "forward", KL(row || mixture) where it is "reverse". `params` are those
    of a row with `members`, whose functions are `model`'s.
    """

    model: "Model"
    params: Any
    direction: Direction
    labels: float


class Model(NamedTuple):
    """One trained row: the functions of a model's module and a config for them.

    `init(config, key)` and `apply(config, params, tokens, *, key, dtype, return_info)` are the
    module's own. A model with gates also has `calibrate(config, params, tokens, *, dtype)`, which
    sets the gates' constants from a sample of text, and `pairs(config, params, tokens)`: the pairs
    (L, B, N, T, T) that each head of each layer keeps. One with experts has `place`: `calibrate`
    that with a key also places their centroids. One with a `penalty` has that in its training loss,
    one with a `teacher` learns from that. With `members` the row is an ensemble of so many models
    of consecutive seeds: the functions are those of one, and parameters have a leading axis.
    `partition(config, params, axes)` says how the axes of a mesh split the parameters, for `apply`
    with these `axes` on each device.
    """

    name: str
    label: str
    learning_rate: float
    config: Any
    init: Callable[..., Any]
    apply: Callable[..., Any]
    calibrate: Callable[..., Any] | None = None
    pairs: Callable[..., jax.Array] | None = None
    place: Callable[..., Any] | None = None
    penalty: Penalty | None = None
    teacher: Teacher | None = None
    members: int = 0
    partition: Callable[..., Any] | None = None

    def deeper(self, layers: int) -> "Model":
        """The same model with another number of layers."""
        return self._replace(config=dataclasses.replace(self.config, layers=layers))


def models(settings: Settings, vocab_size: int) -> list[Model]:
    """The trained rows that the settings ask for; all have the transformer's parameters within 1%.

    All but the one with experts: it computes as many products a token as BK-Core, with the
    parameters of all its experts.

    Raises:
        UserError: the sizes do not fit together (the message names the one).
    """
    try:
        baseline = _transformer(settings, vocab_size)
        target = parameters(baseline.init, baseline.config)
        rows = [baseline] if "transformer" in settings.rows else []
        if "bk" in settings.rows:
            rows.append(_bk_core(settings, vocab_size, target, "bk", "BK-Core"))
        if "bk-experts" in settings.rows:
            rows.append(_with_experts(settings, vocab_size, target))
        for change in (*ablations.TOKENS, *ablations.DEPTH):
            if settings.ablate or change.name in settings.rows:
                rows.append(_changed(settings, vocab_size, target, change))
        return rows
    except ValueError as error:
        raise UserError(f"these sizes make no model: {error}") from error


def plain(settings: Settings, vocab_size: int) -> Model:
    """The row of BK-Core, whether or not it is in the table."""
    (model,) = models(dataclasses.replace(settings, rows=("bk",), ablate=False), vocab_size)
    return model


def variant(
    settings: Settings,
    vocab_size: int,
    name: str,
    label: str,
    *,
    isometry: bool = False,
    **fields: Any,
) -> Model:
    """BK-Core of the plain transformer's size with other fields of its config.

    Raises:
        UserError: the sizes do not fit together (the message names the one).
    """
    try:
        baseline = _transformer(settings, vocab_size)
        target = parameters(baseline.init, baseline.config)
        change = ablations.Change(name, label, lambda _: fields, isometry)
        return _changed(settings, vocab_size, target, change)
    except ValueError as error:
        raise UserError(f"these sizes make no model: {error}") from error


def parameters(init: Callable[..., Any], config: Any) -> int:
    """Number of parameters of a model, without building it."""
    shapes = jax.eval_shape(lambda: init(config, jax.random.key(0)))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def match_hidden(
    init: Callable[..., Any],
    config: Any,
    target: int,
    *,
    multiple: int = 1,
    field: str = "hidden",
) -> Any:
    """The config with the `hidden` width whose number of parameters is nearest to `target`.

    Args:
        init, config: of a model.
        target: number of parameters.
        multiple: the width is a multiple of this where that stays within 1%.
        field: another width inside feed-forwards in its place.

    Raises:
        UserError: even the nearest one is more than 1% away.
    """

    def count(hidden: int) -> int:
        return parameters(init, dataclasses.replace(config, **{field: hidden}))

    smallest = count(1)
    each = count(2) - smallest  # the number of parameters is affine in the hidden width
    hidden = 1 + max(0, round((target - smallest) / each))
    rounded = multiple * max(1, round(hidden / multiple))

    def fits(hidden: int) -> bool:
        return abs(count(hidden) - target) <= 0.01 * target

    hidden = rounded if fits(rounded) else hidden
    if not fits(hidden):
        raise UserError(
            f"no hidden width gives {type(config).__name__} about {target} parameters: "
            f"{hidden} gives {count(hidden)}; choose other --sizes"
        )
    return dataclasses.replace(config, **{field: hidden})


def decayed(params: Any) -> Any:
    """Which leaves are matrices; those under `layers` have the layers on axis 0."""

    def matrix(path: tuple[Any, ...], leaf: jax.Array) -> bool:
        stacked = any(getattr(entry, "key", None) == "layers" for entry in path)
        return leaf.ndim - stacked >= 2

    return jax.tree_util.tree_map_with_path(matrix, params)


def kinds(params: Any) -> Any:
    """Which leaves are points of hyperbolic space, and which are plain numbers."""

    def kind(path: tuple[Any, ...], _: jax.Array) -> str:
        return "point" if getattr(path[-1], "key", None) == "centroids" else "number"

    return jax.tree_util.tree_map_with_path(kind, params)


def _rates(sizes: Sizes, own: Transformer | BKCore) -> dict[str, float]:
    """What training leaves out of a model."""
    dropout = sizes.dropout if own.dropout is None else own.dropout
    return {"dropout": dropout, "token_dropout": own.token_dropout}


def _transformer(settings: Settings, vocab_size: int) -> Model:
    sizes = settings.sizes
    config = transformer.TransformerConfig(
        vocab_size,
        layers=sizes.layers,
        heads=sizes.heads,
        width=sizes.width,
        hidden=settings.transformer.hidden,
        context=settings.training.block,
        **_rates(sizes, settings.transformer),
    )
    rate = settings.transformer.learning_rate
    init, apply = transformer.init, transformer.apply
    model = Model("transformer", "plain transformer", rate, config, init, apply)
    return model._replace(partition=transformer.partition)


def _bk_core(
    settings: Settings, vocab_size: int, target: int, name: str, label: str, **change: Any
) -> Model:
    config = bk_core.BKCoreConfig(
        vocab_size,
        layers=settings.sizes.layers,
        heads=settings.sizes.heads,
        width=settings.sizes.width,
        **_rates(settings.sizes, settings.bk),
        chains=settings.bk.chains,
        density=settings.bk.density,
        local_window=settings.bk.local_window,
    )
    config = dataclasses.replace(config, **change)
    # The products of tensor cores are faster with multiples of 8.
    multiple = math.lcm(
        8 if settings.training.dtype == "bfloat16" else 1, settings.bk.hidden_multiple
    )
    field = "hidden" if config.expert_width is None else "expert_width"
    config = match_hidden(bk_core.init, config, target, multiple=multiple, field=field)
    rate = settings.bk.learning_rate
    model = Model(name, label, rate, config, bk_core.init, bk_core.apply)
    model = model._replace(partition=bk_core.partition)
    if config.attention:
        model = model._replace(calibrate=bk_core.calibrate)
    if config.attention and config.memory is None:
        model = model._replace(pairs=bk_core.pairs)
    return model._replace(place=bk_core.calibrate) if config.experts else model


def _with_experts(settings: Settings, vocab_size: int, target: int) -> Model:
    model = _bk_core(settings, vocab_size, target, "bk-experts", "BK-Core, experts")
    config = dataclasses.replace(model.config, experts=settings.bk.experts)
    return model._replace(config=config, place=bk_core.calibrate)


def _changed(settings: Settings, vocab_size: int, target: int, change: ablations.Change) -> Model:
    fields = change.fields(settings)
    model = _bk_core(settings, vocab_size, target, change.name, change.label, **fields)
    if not change.isometry:
        return model
    penalty = Penalty(_of_pieces, settings.bk.isometry, settings.bk.isometry_windows)
    return model._replace(penalty=penalty)


def _of_pieces(config: Any, params: Any, tokens: jax.Array, **options: Any) -> jax.Array:
    """The isometry penalty where windows may be longer than it takes."""
    return bk_core.isometry_penalty(config, params, tokens[:, :PIECE], **options)
