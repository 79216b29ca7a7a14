"""Multi-query associative recall: what the gated pairs add to the mixer at a context of 1024.

    python benchmarks/recall.py            # minutes on a GPU
    python benchmarks/recall.py --quick    # tiny, on any machine

Each sequence has its own table of keys and values. Its pairs come again and again at random, among
filler; wherever a key comes that was seen before, the model has to name its value. The rows have
equal parameters within 1% and see the same sequences at the same seed, all seeds in one vmapped
program. Prints a table with the paired difference to the mixer alone and writes
benchmarks/results/recall.json.

The task: Arora et al. 2023, Zoology: Measuring and Improving Recall in Efficient Language Models.
"""

import argparse
import dataclasses
import functools
import json
import platform
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from lm.rows import decayed, match_hidden, parameters
from lm.step import losses

from physnet.models import bk_core

RESULTS = Path(__file__).parent / "results" / "recall.json"


@dataclasses.dataclass(frozen=True)
class Task:
    """Sizes of one stage of training."""

    context: int = 1024
    pairs: int = 32
    keys: int = 64
    values: int = 64
    filler: int = 32
    filler_share: float = 0.25
    batch: int = 4
    steps: int = 300

    @property
    def vocab_size(self) -> int:
        return self.filler + self.keys + self.values


# Lookups form on short sequences; all rows go through the same stages.
STAGES = (
    Task(context=128, pairs=8, batch=32, steps=500),
    Task(context=256, pairs=16, batch=16, steps=100),
    Task(),
)
QUICK = (
    Task(context=24, pairs=3, keys=8, values=4, filler=4, batch=4, steps=10),
    Task(context=48, pairs=4, keys=8, values=4, filler=4, batch=4, steps=10),
)
LEARNING_RATE = 1e-3
TESTS = 64  # sequences of the last stage's kind


def sequences(task: Task, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    """Tokens (batch, context) and the value to name at each place, -1 where there is none."""
    slots = task.context // 2

    def one(key):
        parts = jax.random.split(key, 5)
        keys = task.filler + jax.random.permutation(parts[0], task.keys)[: task.pairs]
        values = jax.random.randint(parts[1], (task.pairs,), 0, task.values, jnp.int32)
        values = values + task.filler + task.keys
        pair = jax.random.randint(parts[2], (slots,), 0, task.pairs, jnp.int32)
        noise = jax.random.randint(parts[3], (slots, 2), 0, task.filler, jnp.int32)
        blank = jax.random.bernoulli(parts[4], task.filler_share, (slots,))
        tokens = jnp.where(blank[:, None], noise, jnp.stack([keys[pair], values[pair]], 1))
        shown = (pair[:, None] == jnp.arange(task.pairs, dtype=jnp.int32)[None]) & ~blank[:, None]
        before = jnp.cumsum(shown, axis=0) - shown
        known = jnp.any(shown & (before > 0), axis=1)
        wanted = jnp.where(known, values[pair], -1)
        nothing = jnp.full_like(wanted, -1)
        return tokens.reshape(-1), jnp.stack([wanted, nothing], 1).reshape(-1)

    return jax.vmap(one)(jax.random.split(key, batch))


def accuracy(
    config: bk_core.BKCoreConfig,
    stages: tuple[Task, ...],
    call: int,
    draw: Callable[..., tuple[jax.Array, jax.Array]] = sequences,
) -> Any:
    """A function of seeds: share of values named right on the last stage's kind of sequences.

    Measured on fresh sequences after every `call` steps; gates are calibrated as often. Sequences
    are those of draw(task, key, batch).
    """
    steps = sum(task.steps for task in stages)
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, LEARNING_RATE, steps // 20, steps, 0.1 * LEARNING_RATE
    )
    optimiser = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.99, weight_decay=0.01, mask=decayed),
    )

    def loss(params, tokens, wanted):
        nats = losses(bk_core.apply(config, params, tokens), jnp.maximum(wanted, 0))
        asked = wanted >= 0
        return jnp.sum(jnp.where(asked, nats, 0.0)) / jnp.sum(asked, dtype=nats.dtype)

    def one(seed):
        start, data, fresh = jax.random.split(jax.random.key(seed), 3)
        params = bk_core.init(config, start)

        def right(params):
            task = stages[-1]

            def some(key):
                tokens, wanted = draw(task, key, task.batch)
                logits, info = bk_core.apply(config, params, tokens, return_info=True)
                hits = jnp.argmax(logits, -1).astype(wanted.dtype) == wanted
                return jnp.sum(hits) / jnp.sum(wanted >= 0), info["kept_pairs"]

            hits, kept = jax.lax.map(some, jax.random.split(fresh, TESTS // task.batch))
            return jnp.mean(hits), jnp.mean(kept)

        def stretch(task, state, first):
            def step(state, index):
                params, memory = state
                batch = draw(task, jax.random.fold_in(data, index), task.batch)
                value, gradient = jax.value_and_grad(loss)(params, *batch)
                updates, memory = optimiser.update(gradient, memory, params)
                return (optax.apply_updates(params, updates), memory), value

            params, memory = state
            sample = draw(task, jax.random.fold_in(fresh, first), task.batch)[0]
            params = bk_core.calibrate(config, params, sample)
            indices = first + jnp.arange(call, dtype=jnp.int32)
            state, values = jax.lax.scan(step, (params, memory), indices)
            return state, (*right(state[0]), jnp.mean(values))

        state, first, found = (params, optimiser.init(params)), 0, []
        for task in stages:
            firsts = first + call * jnp.arange(task.steps // call, dtype=jnp.int32)
            state, measured = jax.lax.scan(functools.partial(stretch, task), state, firsts)
            found.append(measured)
            first += task.steps
        return jax.tree.map(lambda *parts: jnp.concatenate(parts), *found)

    return jax.jit(jax.vmap(one))


def rows(task: Task, width: int) -> dict[str, bk_core.BKCoreConfig]:
    """The models, of equal size."""
    full = bk_core.BKCoreConfig(
        task.vocab_size, layers=2, heads=2, width=width, chains=16, density=0.5, local_window=8
    )
    target = parameters(bk_core.init, full)
    variants = {
        "mixer only": {"attention": False},
        "BK-Core, half of the pairs": {},
    }
    return {
        name: match_hidden(bk_core.init, dataclasses.replace(full, **change), target)
        for name, change in variants.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    stages, width, call = (QUICK, 32, 10) if arguments.quick else (STAGES, 64, 50)
    models = rows(stages[-1], width)
    seeds = jnp.arange(arguments.seeds, dtype=jnp.int32)

    def build(config):
        return accuracy(config, stages, call).lower(seeds).compile()

    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {arguments.seeds} seeds")
    print(stages[-1])
    print(f"{'':30}{'parameters':>11}{'right':>9}{'+-':>8}{'paired':>9}{'+-':>8}{'pairs':>8}")
    found, base = [], None
    with ThreadPoolExecutor(8) as pool:
        for (name, config), program in zip(
            models.items(), pool.map(build, models.values()), strict=True
        ):
            began = time.perf_counter()
            right, kept, training = (np.asarray(a, np.float64) for a in program(seeds))
            last = right[:, -1]
            base = last if base is None else base
            error = lambda x: float(x.std(ddof=1) / len(x) ** 0.5)  # noqa: E731
            row = {
                "name": name,
                "parameters": parameters(bk_core.init, config),
                "accuracy": last.tolist(),
                "mean": float(last.mean()),
                "standard_error": error(last),
                "paired_difference": float((last - base).mean()),
                "paired_standard_error": error(last - base),
                "kept_pairs": float(kept[:, -1].mean()),
                "curve": right.mean(0).tolist(),
                "training": training.mean(0).tolist(),
                "seconds": time.perf_counter() - began,
            }
            found.append(row)
            print(
                f"{name:30}{row['parameters']:11}{row['mean']:9.3f}{row['standard_error']:8.3f}"
                f"{row['paired_difference']:9.3f}{row['paired_standard_error']:8.3f}"
                f"{row['kept_pairs']:8.1%}  {row['seconds']:.0f} s",
                flush=True,
            )
            result = {
                "command": "python benchmarks/recall.py" + " --quick" * arguments.quick,
                "device": jax.devices()[0].device_kind,
                "versions": {"jax": jax.__version__, "python": platform.python_version()},
                "learning_rate": LEARNING_RATE,
                "stages": [dataclasses.asdict(task) for task in stages],
                "rows": found,
            }
            arguments.output.parent.mkdir(exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
