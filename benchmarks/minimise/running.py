"""Runs to a target from many starts at once, and the expected running time that they show."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from minimise.methods import Made, Method
from minimise.problems import Problem


def begin(problem: Problem, made: Made, key: jax.Array) -> tuple[jax.Array, Any]:
    """The key of the steps, and the state at a start that depends on the key alone."""
    first, second, rest = jax.random.split(key, 3)
    if problem.start is not None:
        x = problem.start(first)
    else:
        low, high = -problem.width, problem.width
        x = jax.random.uniform(first, (problem.dimension,), jnp.float32, low, high)
    return rest, made.init(second, x)


def to_target(problem: Problem, method: Method, seeds: int) -> dict[str, Any]:
    """A row: evaluations of every run, those that succeeded, the expected running time.

    ERT: all evaluations, those of failed runs too, over the number of successes; evaluations are
    counted in whole generations.
    """
    made = method.make(problem)
    generations = int(method.share * problem.budget) // made.particles

    def run(key):
        key, state = begin(problem, made, key)

        def body(carry):
            key, state, count, best, finite = carry
            key, own = jax.random.split(key)
            state, losses = made.step(own, state)
            best = jnp.minimum(best, jnp.min(jnp.where(jnp.isnan(losses), jnp.inf, losses)))
            finite = (
                finite & jnp.any(jnp.isfinite(losses)) & jnp.all(jnp.isfinite(made.mean(state)))
            )
            return key, state, count + 1, best, finite

        def goes_on(carry):
            _, _, count, best, finite = carry
            return (count < generations) & (best > problem.target) & finite

        start = key, state, jnp.int32(0), jnp.float32(jnp.inf), jnp.bool_(True)
        _, _, count, best, finite = jax.lax.while_loop(goes_on, body, start)
        return count * made.particles, best, finite

    begun = time.perf_counter()
    found = jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), seeds))
    evaluations, best, finite = map(np.asarray, found)
    success = best <= problem.target
    ert = float(evaluations.sum() / success.sum()) if success.any() else None
    return {
        "problem": problem.name,
        "method": method.name,
        "peer": method.peer,
        "particles": made.particles,
        "ert": ert,
        "successes": int(success.sum()),
        "runs": seeds,
        "budget": generations * made.particles,
        "finite": bool(finite.all()),
        "evaluations": evaluations.tolist(),
        "best": [float(x) for x in best],
        "seconds": time.perf_counter() - begun,
    }


def past_convergence(problem: Problem, method: Method, generations: int) -> dict[str, Any]:
    """Whether losses and means stay finite for long after float32 tells no losses apart."""
    made = method.make(problem)

    def body(carry, _):
        key, state, finite = carry
        key, own = jax.random.split(key)
        state, losses = made.step(own, state)
        finite = finite & jnp.all(jnp.isfinite(losses)) & jnp.all(jnp.isfinite(made.mean(state)))
        return (key, state, finite), jnp.min(losses)

    def run(key):
        key, state = begin(problem, made, key)
        (_, _, finite), best = jax.lax.scan(body, (key, state, jnp.bool_(True)), length=generations)
        return finite, jnp.nanmin(best)

    finite, best = jax.jit(run)(jax.random.key(1))
    return {
        "problem": problem.name,
        "method": method.name,
        "generations": generations,
        "finite": bool(finite),
        "best": float(best),
    }
