"""Train a mixture by one rule for several seeds in one program, and see which tokens go where."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from lm import mixtures
from lm.mixtures import Rule
from lm.rows import decayed, kinds
from lm.step import batch, losses
from physnet import optim
from physnet.models import bk_core


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Schedule and optimiser, the same for every rule."""

    steps: int = 1000
    """Updates, a multiple of `calibrate_every`."""
    batch: int = 32
    """Windows of text in a step."""
    block: int = 128
    """Words that a model sees at once."""
    learning_rate: float = 2e-3
    """Peak of the schedule: a warmup over a twentieth of the steps, then a cosine to a tenth."""
    centroid_rate: float = 1.0
    """Of the centroids of both geometries, as a multiple of `learning_rate`."""
    balance: float = 0.01
    """Weight of the balance loss, for rules that have one; that of the Switch transformer."""
    calibrate_every: int = 50
    """Steps between two settings of attention's gates."""
    settle: float = 0.2
    """The share of the steps in which centroids are placed anew whenever gates are set."""
    sample: int = 16
    """Windows for both."""


class Outcome(NamedTuple):
    """Of one seed; of several along a new axis 0.

    Attributes:
        training: mean loss of each `calibrate_every` steps.
        nats: mean loss on the held-out words.
        here: (L, E, C) how often an expert took a word of a class.
        next: (L, E, C) how often the word after it was of that class.
    """

    training: Any
    nats: Any
    here: Any
    next: Any


def optimiser(rule: Rule, recipe: Recipe) -> optax.GradientTransformation:
    """AdamW; centroids move along geodesics of their space, without weight decay."""

    def schedule(peak: float) -> optax.Schedule:
        warmup = max(1, recipe.steps // 20)
        return optax.warmup_cosine_decay_schedule(0.0, peak, warmup, recipe.steps, 0.1 * peak)

    rate = recipe.learning_rate
    adamw = optax.adamw(schedule(rate), b2=0.99, weight_decay=0.1, mask=decayed)
    if rule.startswith(("hyperbolic", "euclidean")):
        geodesic = optim.riemannian_adam(
            schedule(recipe.centroid_rate * rate),
            curvature=mixtures.curvature(rule),
            coordinates="tangent",
            b2=0.99,
        )
        adamw = optax.partition({"number": adamw, "point": geodesic}, kinds)
    return optax.chain(optax.clip_by_global_norm(1.0), adamw)


def trained_and_measured(
    rule: Rule, config: bk_core.BKCoreConfig, recipe: Recipe, *, classes: int
) -> Callable[[jax.Array, jax.Array, jax.Array, jax.Array], Outcome]:
    """A function (seeds, train, held, word_class) -> Outcome of all seeds, to be compiled once.

    Seeds run side by side on an accelerator and one after the other on a CPU. What two rules share
    starts equal at a seed, and they see the same batches: their differences are paired.
    """
    update = optimiser(rule, recipe)

    def one(seed, train, held, word_class):
        start, data = jax.random.split(jax.random.key(seed))
        params = mixtures.init(rule, config, start)

        def windows(index, size):
            key = jax.random.fold_in(data, index)
            return batch(train, key, size=size, block=recipe.block)

        def calibrated(params, index):
            sample = windows(recipe.steps + index, recipe.sample)[:, :-1]
            key = jax.random.fold_in(jax.random.fold_in(start, 2), index)
            due = index <= recipe.settle * recipe.steps
            placed = mixtures.apply(
                rule, config, params, sample, calibrate=True, place=key, due=due
            )
            return placed.params

        def loss(params, tokens):
            passed = mixtures.apply(rule, config, params, tokens[:, :-1])
            nats = jnp.mean(losses(passed.logits, tokens[:, 1:]))
            return nats + recipe.balance * passed.balance, nats

        def step(state, index):
            params, memory = state
            (_, nats), gradient = jax.value_and_grad(loss, has_aux=True)(
                params, windows(index, recipe.batch)
            )
            updates, memory = update.update(gradient, memory, params)
            return (optax.apply_updates(params, updates), memory), nats

        def stretch(state, first):
            state = (calibrated(state[0], first), state[1])
            indices = first + jnp.arange(recipe.calibrate_every, dtype=jnp.int32)
            state, nats = jax.lax.scan(step, state, indices)
            return state, jnp.mean(nats)

        firsts = jnp.arange(0, recipe.steps, recipe.calibrate_every, dtype=jnp.int32)
        (params, _), training = jax.lax.scan(stretch, (params, update.init(params)), firsts)
        return Outcome(
            training, *_measured(rule, config, recipe, params, held, word_class, classes)
        )

    def all_of_them(seeds, train, held, word_class):
        def alone(seed):
            return one(seed, train, held, word_class)

        if jax.default_backend() == "cpu":
            return jax.lax.map(alone, seeds)
        return jax.vmap(alone)(seeds)

    return all_of_them


def _measured(rule, config, recipe, params, held, word_class, classes):
    """Loss and tables over windows of the held-out words that do not overlap."""
    each = recipe.batch * recipe.block
    count = (len(held) - 1) // each
    shape = (count, recipe.batch, recipe.block)
    pairs = tuple(part[: count * each].reshape(shape) for part in (held[:-1], held[1:]))

    def some(pair):
        tokens, targets = pair
        passed = mixtures.apply(rule, config, params, tokens)
        nats = jnp.mean(losses(passed.logits, targets))
        if passed.expert is None:
            return nats, *[jnp.zeros((config.layers, config.experts, classes), jnp.int32)] * 2
        return nats, *(_table(passed.expert, word_class[words]) for words in pair)

    def _table(expert, kind):
        cell = expert.reshape(len(expert), -1) * classes + kind.reshape(1, -1)
        size = config.experts * classes
        counts = jax.vmap(lambda row: jnp.zeros(size, jnp.int32).at[row].add(1))(cell)
        return counts.reshape(-1, config.experts, classes)

    nats, here, following = jax.lax.map(some, pairs)
    return jnp.mean(nats), jnp.sum(here, 0), jnp.sum(following, 0)
