"""The same cloud behind the ask/tell interface of evolution strategies."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet.superposition.path_integral import _state, _step, _trees


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StrategyParams:
    """What may be traced: the initial step size, and lambda where it is fixed."""

    std_init: Any = 1.0
    temperature: Any = None

    def replace(self, **changes: Any) -> "StrategyParams":
        return dataclasses.replace(self, **changes)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StrategyState:
    """A cloud, the key of the particles that were asked for last, and the best one so far."""

    cloud: _state.State
    key: Any
    best_solution: Any
    best_fitness: Any
    generation_counter: Any

    def replace(self, **changes: Any) -> "StrategyState":
        return dataclasses.replace(self, **changes)


class Strategy:
    """`init`, `ask`, `step` and `tell` in the shape that libraries of evolution strategies share.

    An object of static options with `init(key, mean, params)`, `ask(key, state, params)`,
    `tell(key, population, fitness, state, params)`: pure functions under `jit`, `vmap` and `scan`,
    which a loop written for such strategies drives as it is. Fitness is minimised.

    Args:
        population_size: K; None takes that of `defaults`.
        solution: a tree of the shapes and dtypes of the parameters.
        **options: of `init`: effective, antithetic, covariance, rank, ...

    Example:
        >>> import jax, jax.numpy as jnp
        >>> strategy = Strategy(16, jnp.zeros(3))
        >>> params = strategy.default_params.replace(std_init=0.5)
        >>> state = strategy.init(jax.random.key(0), jnp.ones(3), params)
        >>> def generation(state, key):
        ...     population, state = strategy.ask(key, state, params)
        ...     fitness = jnp.sum(population**2, axis=1)
        ...     return strategy.tell(key, population, fitness, state, params)
        >>> keys = jax.random.split(jax.random.key(1), 40)
        >>> state, metrics = jax.lax.scan(generation, state, keys)
        >>> bool(state.best_fitness < 1e-6)
        True
    """

    def __init__(self, population_size: int | None, solution: Any, **options: Any):
        self._options: dict[str, Any] = options | {"particles": population_size}
        start = self._cloud(solution, StrategyParams())
        self.population_size = start.config.particles
        self.num_dims = _trees.size(solution)

    @property
    def default_params(self) -> StrategyParams:
        return StrategyParams()

    def _cloud(self, mean: Any, params: StrategyParams) -> _state.State:
        return _state.init(
            mean, sigma=params.std_init, temperature=params.temperature, **self._options
        )

    def init(self, key: Array, mean: Any, params: StrategyParams) -> StrategyState:
        """A cloud around `mean`; the key is only a stand-in until the first `ask`."""
        cloud = self._cloud(mean, params)
        return StrategyState(
            cloud=cloud,
            key=key,
            best_solution=cloud.params,
            best_fitness=jnp.full((), jnp.inf, cloud.sigma.dtype),
            generation_counter=jnp.zeros((), jnp.int32),
        )

    def ask(
        self, key: Array, state: StrategyState, params: StrategyParams
    ) -> tuple[Any, StrategyState]:
        """Particles (K, ...), and the state that remembers their key."""
        return _step.ask(key, state.cloud), state.replace(key=key)

    def tell(
        self,
        key: Array,
        population: Any,
        fitness: Float[Array, " k"],
        state: StrategyState,
        params: StrategyParams,
    ) -> tuple[StrategyState, dict[str, Any]]:
        """The next state, and metrics. Noise is made from the key of `ask`; `key` is not used.

        The population serves to name the best solution: it must be the one that was asked for.
        """
        cloud, info = _step.tell(state.key, state.cloud, fitness)
        found = jax.tree.map(lambda x: x[info.best], population)
        better = info.best_loss < state.best_fitness
        solution = jax.tree.map(
            lambda new, old: jnp.where(better, new, old), found, state.best_solution
        )
        best = jnp.where(
            better, info.best_loss.astype(state.best_fitness.dtype), state.best_fitness
        )
        metrics = {
            "generation_counter": state.generation_counter,
            "best_fitness_in_generation": info.best_loss,
            "best_solution_in_generation": found,
            "best_fitness": best,
            "best_solution": solution,
            "mean": cloud.params,
            "std": info.sigma,
            "effective": info.effective,
            "temperature": info.temperature,
            "status": cloud.status,
        }
        count = state.generation_counter + 1
        return StrategyState(cloud, state.key, solution, best, count), metrics

    def get_mean(self, state: StrategyState) -> Any:
        """W, the mean of the cloud."""
        return state.cloud.params
