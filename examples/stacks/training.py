"""Training of one stack, over learning rates and seeds at once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from physnet import optim
from stacks import gradients
from stacks.methods import Method
from stacks.problems import Problem


class Recipe(NamedTuple):
    """Steps, a batch, and how often the held-out parts are measured."""

    steps: int
    batch: int
    every: int


class Curves(NamedTuple):
    """At each measurement: nats and accuracy on the validation and the test part."""

    validation_nats: Any
    validation: Any
    nats: Any
    accuracy: Any


def normalised() -> optax.GradientTransformation:
    """Each matrix and each vector of each layer, and all else, to a root mean square of 1."""

    def unit(g):
        most = jnp.max(jnp.abs(g))
        g = g / jnp.where(most == 0, 1.0, most)  # squares of small ones underflow
        return g / jnp.maximum(jnp.sqrt(jnp.mean(g**2)), 1e-6)

    def update(updates, state, params=None):
        new = {name: jax.tree.map(unit, g) for name, g in updates.items() if name != "layers"}
        return new | {"layers": jax.tree.map(jax.vmap(unit), updates["layers"])}, state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def optimiser(
    method: Method, rate: Any, params: Any, *, steps: int
) -> optax.GradientTransformationExtraArgs:
    """That of a method; a slow start takes a quarter of the steps to the full rate."""

    def warmed(count):
        return rate * jnp.minimum(1.0, 4 * (count + 1) / steps)

    rules = {
        "adam": lambda: optax.adam(rate),
        "warmed": lambda: optax.adam(warmed),
        "sgd": lambda: optax.sgd(rate, momentum=0.9),
        "normalised": lambda: optax.chain(
            normalised(), optax.ema(0.9), optax.scale_by_learning_rate(rate)
        ),
        "lookahead": lambda: optim.teleported_lookahead(rate, momentum=0.9),
    }
    rule = rules[method.optimiser]()
    if method.retract:
        chosen = jax.tree.map(lambda _: False, params)
        chosen["layers"] = {name: name != "b" for name in params["layers"]}
        rule = optax.chain(rule, optax.masked(optim.orthogonal_retraction(), chosen))
    return optax.with_extra_args_support(rule)


def program(problem: Problem, method: Method, recipe: Recipe, *, stages: int = 8):
    """run(rates (n,), seeds (n,)) -> `Curves` (n, measurements) each."""
    gradient = gradients.of_method(problem, method, stages=stages)
    inputs, labels = problem.data.train

    def one(rate, seed):
        start, draw = jax.random.split(jax.random.key(seed))
        params = problem.init(start, method.start)
        rule = optimiser(method, rate, params, steps=recipe.steps)

        def step(carry, number):
            params, state = carry
            keys = jax.random.split(jax.random.fold_in(draw, number))
            chosen = jax.random.randint(keys[0], (recipe.batch,), 0, len(inputs))
            progress = number / recipe.steps
            _, grads, jumps = gradient(params, inputs[chosen], labels[chosen], keys[1], progress)
            extra = {} if jumps is None else {"teleported": jumps}
            updates, state = rule.update(grads, state, params, **extra)
            return (optax.apply_updates(params, updates), state), None

        def between(carry, block):
            carry = jax.lax.scan(step, carry, block * recipe.every + jnp.arange(recipe.every))[0]
            return carry, measured(problem, carry[0])

        blocks = jnp.arange(recipe.steps // recipe.every)
        return jax.lax.scan(between, (params, rule.init(params)), blocks)[1]

    return jax.vmap(one)


def measured(problem: Problem, params: Any) -> Curves:
    parts = problem.data.validation, problem.data.test
    h = problem.apply(params, jnp.concatenate([x for x, _ in parts]))
    cut = len(parts[0][0])
    validation, test = (
        problem.last(params, own, y) for own, (_, y) in zip((h[:cut], h[cut:]), parts, strict=True)
    )
    return Curves(*validation, *test)
