"""Training with one gradient: several seeds at once, all of the training part in each step."""

import dataclasses
import functools
import time
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from physnet.nn import layers
from sequences.data import Series
from sequences.model import Model, Params, logits, moments


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How to train; the same for the three gradients."""

    updates: int = 200
    decay: float = 0.05  # of weights
    dropout: float = 0.5  # of features
    roll: float = 0.0  # at most, of the length
    smoothing: float = 0.1  # of labels
    head_rate: float = 0.1
    frequency: float = 0.01  # times the rate: one that is not in step with its window rings on
    frozen: bool = False  # the head alone is trained


class Run(NamedTuple):
    """What one gradient gave, for each seed."""

    params: Params
    test: np.ndarray  # accuracy
    train: np.ndarray
    losses: np.ndarray  # (seeds, updates)
    seconds: float  # of an update, all seeds together
    compile_seconds: float
    memory: int  # temporary bytes of an update, all seeds together


def augmented(key: jax.Array, x: jax.Array, recipe: Recipe) -> jax.Array:
    """Each rolled by a number of steps of its own."""
    most = max(int(recipe.roll * x.shape[1]), 1)
    return jax.vmap(jnp.roll)(x, jax.random.randint(key, (len(x),), 0, most))


def loss(
    params: Params, key: jax.Array, x: jax.Array, y: jax.Array, model: Model, recipe: Recipe
) -> jax.Array:
    """Cross-entropy of augmented series, features standardised over the batch."""
    if recipe.frozen:
        params = params | {"blocks": jax.lax.stop_gradient(params["blocks"])}
    change, drop = jax.random.split(key)
    features = model.features(params, augmented(change, x, recipe))
    dropped = layers.dropout(recipe.dropout, drop)
    scores = logits(params, features, moments(features), dropped)
    wanted = optax.smooth_labels(jax.nn.one_hot(y, scores.shape[1]), recipe.smoothing)
    return optax.softmax_cross_entropy(scores, wanted).mean()


def optimiser(recipe: Recipe) -> optax.GradientTransformation:
    """AdamW on a cosine, the head at a rate of its own; matrices alone decay.

    The layers' updates are those of rate 1.
    """

    def adam(peak: float) -> optax.GradientTransformation:
        warm = max(recipe.updates // 20, 1)
        rate = optax.warmup_cosine_decay_schedule(0.0, peak, warm, max(recipe.updates, warm + 1))
        return optax.adamw(
            rate, b2=0.99, weight_decay=recipe.decay, mask=lambda p: jax.tree.map(_matrix, p)
        )

    def labels(params: Params) -> Any:
        return {name: "head" if name in ("head", "bias") else "blocks" for name in params}

    blocks = optax.set_to_zero() if recipe.frozen else adam(1.0)
    blocks = optax.chain(optax.clip_by_global_norm(1.0), blocks)
    return optax.multi_transform({"head": adam(recipe.head_rate), "blocks": blocks}, labels)


def _matrix(x: Any) -> bool:
    return jnp.ndim(x) == 2


@functools.partial(jax.jit, static_argnums=(4, 5))
def gradient(
    params: Params, keys: jax.Array, x: jax.Array, y: jax.Array, model: Model, recipe: Recipe
) -> Params:
    """Of every seed, at the same augmentations for every way to compute it."""
    one = jax.grad(lambda p, key: loss(p, key, x, y, model, recipe))
    return jax.vmap(one)(params, keys)


@functools.partial(jax.jit, static_argnums=(2,))
def predictions(params: Params, parts: tuple[jax.Array, jax.Array], model: Model) -> Any:
    """Classes of (train, test) series, features standardised over the training part."""

    def one(params: Params) -> Any:
        found = [model.features(params, x) for x in parts]
        over = moments(found[0])
        kept = layers.dropout(0.0, None)
        return [jnp.argmax(logits(params, f, over, kept), -1) for f in found]

    return jax.lax.map(one, params)


def _keys(seeds: int) -> jax.Array:
    return jax.vmap(jax.random.key)(jnp.arange(seeds))


def start(series: Series, model: Model, seeds: int, *, copies: int = 1) -> Params:
    """The parameters of all seeds, levels set from twenty series; each seed so many times."""
    rng = np.random.default_rng(0)
    some = jnp.asarray(rng.permutation(series.train.x)[:20])
    init = jax.jit(lambda key: model.init(key, some, series.classes))
    found = [init(key) for key in _keys(seeds)]
    return jax.tree.map(lambda *x: jnp.stack(x), *(found * copies))


def train(
    series: Series,
    model: Model,
    recipe: Recipe,
    seeds: int,
    *,
    rates: tuple[float, ...] = (3e-3,),
    say: Any = None,
) -> Run:
    """Train all seeds at all rates (of the layers) side by side, those of the first rate first.

    `say(update, losses)` is called now and then.
    """
    x, y = jnp.asarray(series.train.x), jnp.asarray(series.train.y)
    keys = jnp.tile(_keys(seeds), len(rates))
    params = start(series, model, seeds, copies=len(rates))
    each = jnp.repeat(jnp.asarray(rates, jnp.float32), seeds)
    chain = optimiser(recipe)

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params: Params, state: Any, step: jax.Array, x: jax.Array, y: jax.Array) -> Any:
        def one(params: Params, state: Any, key: jax.Array, rate: jax.Array) -> Any:
            value, slope = jax.value_and_grad(loss)(
                params, jax.random.fold_in(key, step), x, y, model, recipe
            )
            change, state = chain.update(slope, state, params)
            for block in change["blocks"]:
                for name in block:
                    slow = recipe.frequency if name == "frequency" else 1.0
                    block[name] = slow * rate * block[name]
            return optax.apply_updates(params, change), state, value

        return jax.vmap(one)(params, state, keys, each)

    state = jax.vmap(chain.init)(params)
    begin = time.perf_counter()
    compiled = update.lower(params, state, jnp.int32(0), x, y).compile()
    compile_seconds = time.perf_counter() - begin
    losses, begin = [], time.perf_counter()
    for step in range(recipe.updates):
        params, state, value = compiled(params, state, jnp.int32(step), x, y)
        losses.append(value)
        if step % 10 == 9:
            jax.block_until_ready(value)  # no more than ten updates are under way
            if say is not None:
                say(step + 1, np.asarray(value))
    jax.block_until_ready(params)
    seconds = (time.perf_counter() - begin) / recipe.updates
    own, other = predictions(params, (x, jnp.asarray(series.test.x)), model)
    return Run(
        params,
        np.mean(np.asarray(other) == series.test.y, 1),
        np.mean(np.asarray(own) == series.train.y, 1),
        np.asarray(jnp.stack(losses, 1)),
        seconds,
        compile_seconds,
        compiled.memory_analysis().temp_size_in_bytes,
    )
