"""Searches that count their evaluations, all of them with restarts and as many settings."""

import dataclasses
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import lax

from basin_lab.problems import Problem
from physnet.superposition import path_integral

GRADIENT = 3  # evaluations that a loss with its gradient counts as: forward, and twice backward
RUNS = (1, 8, 32)  # a budget is cut into so many runs, each from a start of its own


@dataclasses.dataclass(frozen=True)
class Setting:
    """One row of a method's grid: `size` is a learning rate or sigma, `particles` is K."""

    size: float
    runs: int
    particles: int = 0


def settings(method: str, problem: Problem) -> list[Setting]:
    """The grid of a method: 18 settings of a descent, 12 of a cloud."""
    if method in ("SGD", "Adam"):
        rates = RATES[method, problem.kind]
        return [Setting(size, runs) for size, runs in itertools.product(rates, RUNS)]
    if method == "random starts":
        return [Setting(0.0, 1)]
    few = path_integral.defaults(problem.dimension)["particles"]
    sizes = (0.1, 0.3, 0.6) if problem.kind == "function" else (0.3, 1.0, 2.0)
    counts = (2 * few, 16 * few)
    if method != "path integral":  # a step size that is fixed needs more of them to choose from
        sizes, counts = sorted((*sizes, *(size / 6 for size in sizes))), (4 * few,)
    grid = itertools.product(sizes, RUNS[:2], counts)
    return [Setting(size, runs, particles) for size, runs, particles in grid]


RATES = {
    ("Adam", "function"): (1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1),
    ("Adam", "network"): (3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0),
    ("SGD", "function"): (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1),  # slopes of 1 to 10^5
    ("SGD", "network"): (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1),
}


def _searched(problem: Problem, cost: int, begin: Callable, step: Callable) -> Callable:
    """Evaluations until the target (inf: never) and the lowest loss, of (key, size, runs).

    step(key, state) -> (state, lowest loss seen in it) at `cost` evaluations; begin(key, size).
    """
    steps = problem.budget // cost

    def search(key, size, runs):
        length = jnp.maximum(steps // runs, 1)
        key, first = jax.random.split(key)

        def one(carry, i):
            state, lowest, found = carry
            own = jax.random.fold_in(key, i)
            fresh = begin(jax.random.fold_in(first, i // length), size)
            again = i % length == 0
            state = jax.tree.map(lambda new, old: jnp.where(again, new, old), fresh, state)
            state, value = step(own, state, size)
            lowest = jnp.fmin(lowest, value)
            hit = (value <= problem.target) & jnp.isinf(found)
            found = jnp.where(hit, ((i + 1) * cost).astype(jnp.float32), found)
            return (state, lowest, found), None

        start = (begin(first, size), jnp.float32(jnp.inf), jnp.float32(jnp.inf))
        (_, lowest, found), _ = lax.scan(one, start, jnp.arange(steps))
        return found, lowest

    return search


def descent(problem: Problem, rule: Callable) -> Callable:
    """An optax rule, of (learning rate)."""

    def begin(key, size):
        x = problem.start(key)
        return x, rule(size).init(x)

    def step(_, state, size):
        x, memory = state
        value, slope = jax.value_and_grad(problem.loss)(x)
        change, memory = rule(size).update(slope, memory, x)
        return (optax.apply_updates(x, change), memory), value

    return _searched(problem, GRADIENT, begin, step)


def cloud(problem: Problem, particles: int, **options: Any) -> Callable:
    """The path integral, of (sigma)."""

    def begin(key, size):
        return path_integral.init(problem.start(key), particles=particles, sigma=size, **options)

    def step(key, state, _):
        state, info = path_integral.step(key, state, problem.loss)
        return state, info.best_loss

    return _searched(problem, particles, begin, step)


def random_starts(problem: Problem) -> Callable:
    """The start distribution itself: what no search at all finds."""

    def step(key, state, _):
        return state, problem.loss(problem.start(key))

    return _searched(problem, 1, lambda key, size: jnp.zeros(()), step)


METHODS = ("path integral", "λ = 1, fixed", "Adam", "SGD", "random starts")


def search(method: str, problem: Problem, particles: int) -> Callable:
    """The search of a method: (key, size, runs) -> (evaluations until the target, lowest)."""
    if method == "SGD":
        return descent(problem, lambda size: optax.sgd(size, momentum=0.9))
    if method == "Adam":
        return descent(problem, optax.adam)
    if method == "random starts":
        return random_starts(problem)
    if method == "path integral":
        return cloud(problem, particles)
    return cloud(problem, particles, covariance="none", temperature=1.0, adapt_sigma=False)
