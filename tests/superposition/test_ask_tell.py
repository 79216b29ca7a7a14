"""The cloud behind the interface of evolution strategies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.superposition import path_integral

START = {"a": jnp.ones(2, jnp.float32), "b": jnp.full((1, 2), 2.0, jnp.float32)}


def fitness_of(population):
    return jax.vmap(lambda p: jnp.sum(p["a"] ** 2) + jnp.sum(p["b"] ** 2))(population)


def test_strategy_is_step_by_step_the_cloud():
    strategy = path_integral.Strategy(8, START, covariance="diagonal")
    assert (strategy.population_size, strategy.num_dims) == (8, 4)
    params = strategy.default_params.replace(std_init=0.5)

    def generation(carry, key):
        state, cloud = carry
        population, state = strategy.ask(key, state, params)
        unused = jax.random.fold_in(key, 1)  # noise is that of `ask`
        state, metrics = strategy.tell(unused, population, fitness_of(population), state, params)
        cloud, info = path_integral.step(key, cloud, lambda p: fitness_of_one(p))
        return (state, cloud), (metrics, info)

    def fitness_of_one(p):
        return fitness_of(jax.tree.map(lambda x: x[None], p))[0]

    cloud = path_integral.init(START, particles=8, sigma=0.5, covariance="diagonal")
    state = strategy.init(jax.random.key(0), START, params)
    keys = jax.random.split(jax.random.key(1), 30)
    (state, cloud), (metrics, info) = jax.jit(
        lambda carry, keys: jax.lax.scan(generation, carry, keys)
    )((state, cloud), keys)
    found, expected = strategy.get_mean(state), cloud.params
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), found, expected)
    assert state.generation_counter == 30
    np.testing.assert_allclose(state.best_fitness, np.min(info.best_loss), rtol=1e-4)
    best = fitness_of(jax.tree.map(lambda x: x[None], state.best_solution))[0]
    np.testing.assert_allclose(best, state.best_fitness, rtol=1e-5)
    assert np.all(np.diff(metrics["best_fitness"]) <= 0)
    assert state.best_fitness < 1e-2 * fitness_of(jax.tree.map(lambda x: x[None], START))[0]


def test_failed_evaluations_are_never_the_best():
    strategy = path_integral.Strategy(8, START)
    params = strategy.default_params
    bad = jnp.full(8, jnp.nan, jnp.float32)

    @jax.jit
    def one(key):
        state = strategy.init(key, START, params)
        population, state = strategy.ask(key, state, params)
        return strategy.tell(key, population, bad, state, params)

    new, metrics = one(jax.random.key(0))
    assert np.isinf(new.best_fitness)
    assert metrics["status"] == 1
    jax.tree.map(np.testing.assert_array_equal, new.best_solution, START)


def test_losses_must_be_those_of_the_particles(bare_errors):
    cloud = path_integral.init(START, particles=8, sigma=1.0)
    with pytest.raises(ValueError, match="losses must be those of the 8 particles"):
        path_integral.tell(jax.random.key(0), cloud, jnp.zeros(7))
    with pytest.raises(TypeError, match="losses must be a real"):
        path_integral.tell(jax.random.key(0), cloud, jnp.zeros(8, jnp.int32))
