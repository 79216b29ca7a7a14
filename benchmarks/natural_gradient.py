"""Natural gradients against the optimisers of the day: loss by steps, and by seconds.

    python benchmarks/natural_gradient.py                 # 10 minutes of a core; fetches the plays
    python benchmarks/natural_gradient.py --preset smoke  # three methods, few steps, no download

Two tasks: a network of 2,410 weights on scikit-learn's digits (batches of 32), and a transformer of
60,144 weights on the characters of nine plays (16 windows of 32). Every method has a learning rate
and one number more (momentum, decay or damping), and as many trials as any other, on one seed, by
the loss of a tuning set at the end; then it runs from fresh seeds, starts and batches shared by all
methods, so that differences are paired. All learning rates fall by one cosine to a tenth.

    SGD, Adam, Muon, Sophia    of optax (Sophia: Hutchinson at each tenth step)
    SR = minSR, SPRING         `imaginary_time` with the Fisher information of each batch: of summed
                               labels (`categorical_rows`), of drawn ones or of the data's
                               (`likelihood_rows`); of text, sequences are the rows, or products
                               with a quarter of the batch in conjugate gradients
    Fisher Adam                `fisher_adam`, scores at drawn labels every few steps
    root of the diagonal       Adam with the same Fisher diagonal under its root (power = 1/2)

Seconds of a step are processor seconds of one thread, the median over short blocks of steps; on a
shared machine they are rough. Adam and Muon also run with as many steps as fit into the seconds of
the slowest method's run (at most 8 times as many). --task and --methods run a part and keep the
other rows of the file, --merge joins the rows of parts that ran side by side. Writes
benchmarks/results/natural_gradient.json and docs/pictures/natural_gradient.png.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from ensemble import corpora
from natural_methods import METHODS, Method
from natural_report import draw, table
from natural_tasks import Task, digits, size, text

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "natural_gradient.json"
PICTURE = ROOT / "docs" / "pictures" / "natural_gradient.png"
LONGER = ("Adam", "Muon")
TUNING_SEED = 1000
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of a run on one task; `rates` times `seconds` numbers are tried."""

    steps: int
    every: int
    seeds: int
    rates: int
    seconds: int
    batch: int


FULL = {"digits": Settings(100, 10, 5, 4, 2, 32), "text": Settings(200, 20, 3, 4, 2, 16)}
SMOKE = {"digits": Settings(10, 5, 2, 1, 1, 8)}
SMOKE_METHODS = ("Adam", "SR = minSR, summed labels", "Fisher Adam, Kronecker")


class Runner:
    """One method on one task: compiled once, for any seed, length and pair of numbers."""

    def __init__(self, task: Task, method: Method, evaluate: Any, every: int):
        self.task, self.method, self.evaluate, self.every = task, method, evaluate, every
        self._start, self._block = jax.jit(self._begin), jax.jit(self._steps)

    def _made(self, steps, rate, second):
        schedule = lambda t: rate * (0.55 + 0.45 * jnp.cos(jnp.pi * t / steps))  # noqa: E731
        return self.method.make(self.task, schedule, second)

    def _begin(self, seed, steps, rate, second):
        params = self.task.init(jax.random.key(seed))
        return params, self._made(steps, rate, second)[0](params)

    def _steps(self, carry, begin, seed, steps, rate, second):
        _, step = self._made(steps, rate, second)

        def one(carry, t):
            params, state = carry
            batch, key = jax.random.split(jax.random.fold_in(jax.random.key(seed), t))
            updates, state = step(params, state, self.task.batch(batch), key, t)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(one, carry, begin + jnp.arange(self.every))[0]

    def losses(self, seed: int, rate: float, second: float, steps: int, *, times: int = 1) -> Any:
        """(1 + steps / every, sets), at every block of `times` times as many steps."""
        numbers = (seed, float(times * steps), rate, second)
        carry = self._start(*numbers)
        found = [self.evaluate(carry[0])]
        for begin in range(0, times * steps, self.every):
            carry = self._block(carry, begin, *numbers)
            if (begin // self.every + 1) % times == 0:
                found.append(self.evaluate(carry[0]))
        return np.asarray(jnp.stack(found))

    def seconds(self, rate: float, second: float, steps: int, blocks: int = 7) -> float:
        """Processor seconds of one step: the median over blocks at the start of a run."""
        numbers = (0, float(steps), rate, second)
        carry = jax.block_until_ready(self._start(*numbers))
        took = []
        for _ in range(blocks + 1):
            begun = time.process_time()
            jax.block_until_ready(self._block(carry, 0, *numbers))
            took.append(time.process_time() - begun)
        return float(np.median(took[1:])) / self.every


def grid(method: Method, settings: Settings) -> list[tuple[float, float]]:
    rates = np.geomspace(*method.rates, settings.rates)
    return [(float(r), s) for s in method.values[: settings.seconds] for r in rates]


def tuned(runner: Runner, settings: Settings) -> dict[str, Any]:
    """The pair of numbers with the least tuning loss at the end, and where it lies in the grid."""
    trials = grid(runner.method, settings)
    ends = [float(runner.losses(TUNING_SEED, *trial, settings.steps)[-1, 0]) for trial in trials]
    best = int(np.argmin(np.nan_to_num(ends, nan=np.inf)))
    return {
        "numbers": trials[best],
        "second": runner.method.second,
        "rate_at_edge_of_grid": best % settings.rates in (0, settings.rates - 1),
        "trials": [[*trial, end] for trial, end in zip(trials, ends, strict=True)],
    }


def spread(values: Any) -> tuple[float, float]:
    values = np.asarray(values, float)
    return float(values.mean()), float(values.std(ddof=1) / len(values) ** 0.5)


def measure(
    task: Task,
    settings: Settings,
    names: tuple[str, ...],
    old: dict[str, Any],
    keep: Callable[[dict[str, Any]], None],
) -> None:
    """Rows of these methods, beside old ones; `keep` is given all there are after each."""
    methods = METHODS[task.name]
    evaluate = jax.jit(task.evaluate)
    rows = dict(old.get("rows", {}))

    def report():
        compare(rows)
        sizes = {"parameters": size(task), "settings": dataclasses.asdict(settings)}
        keep(sizes | {"sets": task.sets, "rows": rows})

    def curves(runner, numbers, times=1):
        seeds = range(settings.seeds)
        found = [runner.losses(s, *numbers, settings.steps, times=times) for s in seeds]
        return row(task, np.stack(found), times * settings.every)

    runners = {name: Runner(task, methods[name], evaluate, settings.every) for name in methods}
    for name in names:
        begun, runner = time.process_time(), runners[name]
        chosen = tuned(runner, settings)
        rows[name] = curves(runner, chosen["numbers"]) | {"tuned": chosen}
        rows[name]["seconds_a_step"] = runner.seconds(*chosen["numbers"], settings.steps)
        (end, error), (rate, second) = rows[name]["end"]["test"], chosen["numbers"]
        print(f"{task.name}: {name:28} {rate:.2g}, {second:.2g}: test {end:.4f} +- {error:.4f}, "
              f"{1e3 * rows[name]['seconds_a_step']:.2f} ms a step "
              f"({time.process_time() - begun:.0f} s)", flush=True)  # fmt: skip
        report()
    slowest = max(r["seconds_a_step"] for r in rows.values())
    for name in (n for n in LONGER if n in rows):
        times = max(2, min(8, int(slowest / rows[name]["seconds_a_step"])))
        if name not in names and rows.get(f"{name}, more steps", {}).get("times") == times:
            continue
        found = curves(runners[name], rows[name]["tuned"]["numbers"], times)
        rows[f"{name}, more steps"] = found | {
            "seconds_a_step": rows[name]["seconds_a_step"],
            "times": times,
        }
        report()


def row(task: Task, curves: np.ndarray, every: int) -> dict[str, Any]:
    sets = list(task.sets)
    return {
        "steps": (np.arange(curves.shape[1]) * every).tolist(),
        "curves": {s: curves[:, :, i].round(5).tolist() for i, s in enumerate(sets)},
        "end": {s: spread(curves[:, -1, i]) for i, s in enumerate(sets)},
    }


def compare(rows: dict[str, Any]) -> None:
    """Paired differences to Adam at the end, and steps and seconds to Adam's tuning loss there."""
    if "Adam" not in rows:
        return
    base = rows["Adam"]
    for found in rows.values():
        found["above_adam"] = {
            s: spread(np.subtract([c[-1] for c in found["curves"][s]], [c[-1] for c in curves]))
            for s, curves in base["curves"].items()
        }
        steps = []
        for own, other in zip(found["curves"]["tune"], base["curves"]["tune"], strict=True):
            target = np.min(other)
            below = np.flatnonzero(np.asarray(own) <= target)
            steps.append(found["steps"][below[0]] if len(below) else None)
        found["steps_to_adams_best"] = steps
        reached = [s for s in steps if s is not None]
        found["seconds_to_adams_best"] = (
            float(np.mean(reached)) * found["seconds_a_step"]
            if len(reached) == len(steps)
            else None
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=("smoke", "cpu"), default="cpu")
    parser.add_argument("--task", choices=tuple(FULL), help="one alone; the other's rows are kept")
    parser.add_argument("--methods", nargs="+", help="these alone; the others' rows are kept")
    parser.add_argument("--merge", nargs="+", type=Path, help="join these results, measure no more")
    parser.add_argument("--cache", type=Path, default=corpora.default_cache(), help="of the plays")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    smoke = options.preset == "smoke"
    if smoke:  # not over what was measured
        if options.output == RESULTS:
            options.output = Path("natural_gradient-smoke.json")
        if options.picture == PICTURE:
            options.picture = Path("natural_gradient-smoke.png")
    start = time.perf_counter()
    tasks: dict[str, Any] = {}
    if (options.task or options.methods) and not smoke and options.output.exists():
        tasks = json.loads(options.output.read_text())["tasks"]
    for path in options.merge or ():
        for name, other in json.loads(path.read_text())["tasks"].items():
            task = tasks.setdefault(name, other)
            if task["settings"] != other["settings"]:
                parser.error(f"--merge needs parts of one setting, got another one in {path}")
            task["rows"] |= other["rows"]
    device = jax.devices()[0]
    versions = {p: importlib.metadata.version(p) for p in ("jax", "optax", "numpy", "scikit-learn")}
    report = {
        "command": f"python benchmarks/natural_gradient.py --preset {options.preset}",
        "device": f"{device.platform}: {device.device_kind}, one thread",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": versions,
    }

    def keep(name, task):
        tasks[name] = task
        report["tasks"] = {name: tasks[name] for name in FULL if name in tasks}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n")

    for name, settings in (SMOKE if smoke else FULL).items():
        if options.task not in (None, name) or (options.merge and name not in tasks):
            continue
        if name == "digits":
            task = digits(batch=settings.batch)
        else:
            task = text(options.cache, batch=settings.batch)
        some = SMOKE_METHODS if smoke else options.methods
        names = [n for n in some or METHODS[name] if n in METHODS[name] and not options.merge]
        old = tasks.get(name, {}) if some or options.merge else {}
        measure(task, settings, tuple(names), old, functools.partial(keep, name))
    for name, task in report["tasks"].items():
        if "Adam" in task["rows"]:
            table(name, task)
    draw(report, options.picture)
    print(f"{time.perf_counter() - start:.0f} s; written: {options.output}, {options.picture}")


if __name__ == "__main__":
    os.environ.setdefault("XLA_FLAGS", ONE_THREAD)  # JAX reads it at its first array
    main()
