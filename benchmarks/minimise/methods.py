"""Ways to minimise: the clouds of this library and evosax's strategies, behind one interface."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from minimise.problems import Problem
from physnet.superposition import path_integral


class Made(NamedTuple):
    """K, init(key, x) -> state, step(key, state) -> (state, losses (K,)), mean(state) -> x."""

    particles: int
    init: Callable[[jax.Array, jax.Array], Any]
    step: Callable[[jax.Array, Any], tuple[Any, jax.Array]]
    mean: Callable[[Any], jax.Array]


@dataclasses.dataclass(frozen=True)
class Method:
    """A row of the table."""

    name: str
    make: Callable[[Problem], Made]
    peer: bool
    fits: Callable[[Problem], bool] = lambda problem: True
    share: float = 1.0  # of the problem's budget, where more of it would change nothing


def cloud(problem: Problem, **options: Any) -> Made:
    loss = problem.loss

    def init(key, x):
        particles = problem.particles
        return path_integral.init(x, particles=particles, sigma=problem.sigma, **options)

    def step(key, state):
        state, info = path_integral.step(key, state, loss)
        return state, info.losses

    shape = jax.ShapeDtypeStruct((problem.dimension,), jnp.float32)
    state = jax.eval_shape(init, jax.random.key(0), shape)
    return Made(state.config.particles, init, step, lambda state: state.params)


def strategy(problem: Problem, name: str, **options: Any) -> Made:
    """One of evosax with its own defaults; 4 + 3 ln D particles, an even number."""
    try:
        from evosax import algorithms
    except ImportError as error:
        raise SystemExit(
            "the peers' rows need evosax (pip install evosax); --only ours runs without it"
        ) from error
    particles = problem.particles or 4 + int(3 * math.log(problem.dimension))
    particles += particles % 2
    found = getattr(algorithms, name)(particles, jnp.zeros(problem.dimension), **options)
    params = found.default_params
    if hasattr(params, "std_init"):
        params = params.replace(std_init=jnp.asarray(problem.sigma))

    def step(key, state):
        first, last = jax.random.split(key)
        population, state = found.ask(first, state, params)
        losses = jax.vmap(problem.loss)(population)
        state, _ = found.tell(last, population, losses, state, params)
        return state, losses

    return Made(particles, lambda key, x: found.init(key, x, params), step, lambda s: s.mean)


def adam(problem: Problem) -> Made:
    """OpenAI's strategy with Adam; its width stays what it is."""
    width = problem.open_sigma
    schedule = optax.constant_schedule(width)
    options = {"optimizer": optax.adam(problem.open_rate), "std_schedule": schedule}
    return strategy(problem, "Open_ES", **options)


def methods() -> list[Method]:
    def ours(name, fits=lambda problem: True, share=1.0, **options):
        return Method(name, lambda problem: cloud(problem, **options), False, fits, share)

    def theirs(name, fits=lambda problem: True):
        return Method(name, lambda problem: strategy(problem, name), True, fits)

    chosen = ("Rosenbrock 30", "rotated bent cigar 20", "digits network")
    some = ("sphere 10", "sphere 100", "Rosenbrock 10", "rotated ellipsoid 20")
    fixed = {"temperature": 1.0, "covariance": "none", "adapt_sigma": False}
    return [
        ours("path integral"),
        # An eigendecomposition a generation: minutes for a hundred parameters.
        theirs("CMA_ES", lambda p: p.dimension < 100),
        theirs("CR_FM_NES"),
        theirs("Sep_CMA_ES"),
        theirs("SNES", lambda p: p.dimension != 1000),  # four times what others take there
        Method("Open_ES", adam, True),
        ours("antithetic", lambda p: p.name in some, antithetic=True),
        ours("step size alone", lambda p: p.name in (*some, *chosen), covariance="none"),
        ours("low rank", lambda p: p.name in chosen, covariance="low_rank"),
        ours("lambda = 1", share=0.2, **fixed),
    ]
