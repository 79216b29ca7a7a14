"""One compiled program, run with all learning rates and seeds."""

import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stacks.settings import Preset
from stacks.training import Curves

FRESH, REPEATS = 1000, 8  # the first seed of a confirmation, and their least number


class Grid:
    """A compiled program of (rates, seeds), its choice of a rate, and runs with other seeds."""

    def __init__(self, program: Any, preset: Preset, rates: tuple[float, ...]):
        began = time.perf_counter()
        self.preset, self.rates = preset, rates
        count = len(self.rates) * (1 + preset.seeds) if preset.joint else max(
            len(self.rates), preset.seeds
        )  # fmt: skip
        self.count = count
        self.program = jax.jit(program).lower(*self._arguments([1.0], [0])).compile()
        self.compilation = time.perf_counter() - began
        self.seconds, self.runs, self.rate = 0.0, 0, 0.0

    def _arguments(self, rates: Any, seeds: Any) -> tuple[jax.Array, jax.Array]:
        return (
            jnp.asarray(np.resize(rates, self.count), jnp.float32),
            jnp.asarray(np.resize(seeds, self.count), jnp.int32),
        )

    def run(self, rates: Any, seeds: Any) -> Curves:
        began = time.perf_counter()
        found = jax.device_get(self.program(*self._arguments(rates, seeds)))
        self.seconds += time.perf_counter() - began
        self.runs += self.count
        return found

    def tuned(self, merit: Any) -> tuple[Curves, list[float]]:
        """Curves of the fresh seeds at the rate of the largest merit(curves of one run)."""
        rates, seeds = self.rates, range(1, 1 + self.preset.seeds)
        if self.preset.joint:
            every = self.run(np.repeat(rates, 1 + len(seeds)), range(1 + len(seeds)))
            table = jax.tree.map(lambda x: x.reshape(len(rates), 1 + len(seeds), -1), every)
            trial = jax.tree.map(lambda x: x[:, 0], table)
        else:
            trial = self.run(rates, 0)
        merits = [merit(Curves(*(x[i] for x in trial))) for i in range(len(rates))]
        best = int(np.argmax(merits))
        self.rate = rates[best]
        if self.preset.joint:
            return jax.tree.map(lambda x: x[best, 1:], table), merits
        return jax.tree.map(lambda x: x[: len(seeds)], self.run(self.rate, seeds)), merits

    def again(self) -> Curves:
        """At least `REPEATS` other seeds, at the rate that was chosen."""
        starts = range(FRESH, FRESH + REPEATS, self.count)
        found = [self.run(self.rate, range(start, start + self.count)) for start in starts]
        return jax.tree.map(lambda *parts: np.concatenate(parts), *found)
