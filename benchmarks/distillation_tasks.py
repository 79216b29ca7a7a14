"""What distillation.py learns: handwritten digits, and the next character of a text.

N examples, V classes or characters, T characters in a window, D features.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.datasets import load_digits

from physnet.models import transformer


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a task's networks are trained: all alike, teachers and students."""

    seeds: int
    members: int
    students: int  # of each kind and seed
    steps: int
    batch: int
    rate: float


class Data(NamedTuple):
    """Inputs and labels: those that teachers learn, a transfer set, and a test set."""

    labelled: tuple[Any, Any]
    transfer: tuple[Any, Any]  # the labels are seen by the row with all labels alone
    test: tuple[Any, Any]


@dataclasses.dataclass(frozen=True)
class Task:
    """A network, how it is trained, and data(seed)."""

    name: str
    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, Any], jax.Array]
    recipe: Recipe
    data: Callable[[int], Data]


def digits(recipe: Recipe, *, hidden: int, labels: int = 250, transfer: int = 898) -> Task:
    """8 x 8 images in 10 classes by one hidden layer; a split of its own for each seed."""
    images, classes = load_digits(return_X_y=True)
    images = (np.asarray(images) / 16).astype(np.float32)
    sizes = (images.shape[1], hidden, 10)

    def init(key):
        keys = jax.random.split(key, 2)
        pairs = zip(keys, sizes[:-1], sizes[1:], strict=True)
        return [
            (jax.random.normal(k, (n, m), jnp.float32) * (2 / n) ** 0.5, jnp.zeros(m, jnp.float32))
            for k, n, m in pairs
        ]

    def apply(params, x):
        (first, shift), (second, offset) = params
        return jax.nn.relu(x @ first + shift) @ second + offset

    def data(seed):
        order = np.random.default_rng(seed).permutation(len(images))
        parts = np.split(order, [labels, labels + transfer])
        return Data(*((images[at], classes[at].astype(np.int32)) for at in parts))

    return Task("digits", init, apply, recipe, data)


def text(
    corpus: Any,
    recipe: Recipe,
    *,
    context: int,
    layers: int,
    width: int,
    labels: int,
    transfer: int,
    tested: int,
    stride: int,
) -> Task:
    """The next character at each place of a window, by a transformer.

    Each seed has a stretch of `labels` characters that teachers learn, and the `transfer` ones
    behind it; windows begin every `stride` characters. The last tenth of the text tests.
    """
    config = transformer.TransformerConfig(
        len(corpus.characters), layers=layers, heads=4, width=width, context=context
    )

    def windows(tokens, every):
        starts = np.arange(0, len(tokens) - context, every)
        rows = tokens[starts[:, None] + np.arange(context + 1)]
        return rows[:, :-1], rows[:, 1:]

    def data(seed):
        random = np.random.default_rng(seed)
        start = random.integers(0, len(corpus.train) - labels - transfer)
        border = start + labels
        return Data(
            windows(corpus.train[start:border], stride),
            windows(corpus.train[border : border + transfer], 2 * stride),
            windows(corpus.validation[:tested], context),
        )

    init = functools.partial(transformer.init, config)
    apply = functools.partial(transformer.apply, config, implementation="xla")
    return Task("text", init, apply, recipe, data)
