"""One row of `ablation.py` trained with several seeds, one after the other, by one program."""

import contextlib
import dataclasses
import fcntl
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ablation_plan as plan
import jax
import jax.numpy as jnp
import numpy as np
from lm import results
from lm.corpus import Corpus
from lm.evaluation import Evaluator
from lm.rows import Model, parameters
from lm.settings import Settings, Training
from lm.step import initial_state, placed, steps


@contextlib.contextmanager
def turn(path: Path | None) -> Iterator[None]:
    """Waits until no other process holds the file; several then share a device without slowing
    each other, and each compiles while another one trains."""
    if path is None:
        yield
        return
    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        yield


class Programs:
    """What all seeds of a row share, compiled once."""

    def __init__(self, model: Model, training: Training, corpus: Corpus) -> None:
        self.model, self.training = model, training
        self.tokens = jnp.asarray(corpus.train, jnp.int32)
        self.begin = jax.jit(lambda seed: initial_state(model, training, seed=seed))
        number = jax.ShapeDtypeStruct((), jnp.int32)
        state = jax.eval_shape(self.begin, number)
        self.calls = {
            count: jax.jit(self._steps(count), donate_argnums=0)
            .lower(state, self.tokens, number, number)
            .compile()
            for count in sorted(set(self.counts()))
        }

    def counts(self) -> list[int]:
        """Steps of each compiled call, until the schedule's end."""
        each, whole = self.training.steps_per_call, self.training.steps
        return [min(each, whole - done) for done in range(0, whole, each)]

    def _steps(self, count: int) -> Callable[..., Any]:
        def run(state: Any, tokens: jax.Array, first: jax.Array, seed: jax.Array) -> Any:
            return steps(self.model, self.training, count, seed=seed)(state, tokens, first)

        return run

    def bytes(self) -> int:
        """Temporary memory of a call."""
        return max(c.memory_analysis().temp_size_in_bytes for c in self.calls.values())


def train(programs: Programs, seed: int, evaluator: Evaluator) -> dict[str, Any]:
    """One seed from its start to the end of the schedule: what it came to.

    Raises:
        FloatingPointError: the loss is no longer finite.
    """
    training, number = programs.training, jnp.asarray(seed, jnp.int32)
    state = programs.begin(number)
    if programs.model.place is not None:
        own = dataclasses.replace(training, seed=seed)
        params = placed(programs.model, own, state["params"], programs.tokens)
        state |= {"params": params}
    step, seconds, curve = 0, 0.0, []
    for count in programs.counts():
        began = time.perf_counter()
        first = jnp.asarray(step, jnp.int32)
        state, measured = programs.calls[count](state, programs.tokens, first, number)
        loss = float(np.asarray(measured["loss"]).mean())
        seconds += time.perf_counter() - began
        step += count
        if not math.isfinite(loss):
            raise FloatingPointError(f"at step {step} of seed {seed} the loss is {loss}")
        if step % training.evaluate_every == 0 or step == training.steps:
            limit = training.evaluation_windows
            curve.append([step, evaluator.evaluate(state["params"], limit=limit).nats])
    final = evaluator.evaluate(state["params"])
    return {
        "seed": seed,
        "nats": final.nats,
        "accuracy": final.accuracy,
        "kept_pairs": final.kept_pairs,
        "seconds": seconds,
        "curve": curve,
    }


def run(
    row: plan.Row,
    seeds: list[int],
    settings: Settings,
    corpus: Corpus,
    *,
    turns: Path | None = None,
    kept: Callable[[dict[str, Any]], None],
) -> None:
    """Trains a row with each of the seeds and hands over what each came to."""
    model, settings = plan.built(row, settings, len(corpus.characters))
    training = settings.training
    programs = Programs(model, training, corpus)
    evaluator = results.held_out(model, corpus, settings)
    start = programs.begin(jnp.zeros((), jnp.int32))
    evaluator.evaluate(start["params"], limit=1)  # compiles
    del start
    tokens = training.steps * training.batch * training.block
    for seed in seeds:
        with turn(turns):
            found = train(programs, seed, evaluator)
        kept({
            "row": row.name,
            **found,
            "parameters": parameters(model.init, model.config),
            "tokens_per_s": tokens / found["seconds"],
            "temporary_bytes": programs.bytes(),
        })  # fmt: skip
