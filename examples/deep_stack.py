"""Does teleportation help deep stacks? Plain tanh layers, residual ones, post-norm transformers.

    python examples/deep_stack.py                         # minutes on two cores
    python examples/deep_stack.py --preset smoke          # under a minute
    python examples/deep_stack.py --preset gpu --digits digits.npz
    python examples/deep_stack.py --draw benchmarks/results/deep_stack.json

Each method trains at each learning rate of one grid with one seed; the rate with the highest
accuracy on the validation part goes on, with fresh seeds, of which the test accuracy is reported
over steps and over seconds. Methods that teleport are compared with the same method that does not,
seed by seed, at the end and after a quarter of the steps. A gain of more than two standard errors
is tried again on other seeds, and counts as confirmed if it holds there at p < 0.05 after Holm's
correction for the number tried again; p of the first trial are corrected for all comparisons.

Then a pipeline of stages that do not wait for each other (see stacks/pipeline.py): what stale
gradients cost, and whether teleported ones, which arrive at once, save time.

References: Fagnou et al., "Accelerated training through iterative gradient propagation along the
residual path" (ICLR 2025) for Highway-BP; Holm, Scand. J. Statist. 6 (1979), 65.
"""

import argparse
import json
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from stacks import data, pipeline, problems, statistics, training
from stacks.methods import METHODS
from stacks.training import Curves, Recipe

PLAIN = tuple(name for name in METHODS if name not in ("highway", "truncated", "staged"))
MAIN = ("adam", "normalised", "orthogonal", "chain", "ghost", "gated", "normalised-chain",
        "orthogonal-chain", "orthogonal-gated")  # fmt: skip
FEW = ("adam", "orthogonal", "chain", "ghost", "orthogonal-gated")
RESIDUAL = ("sgd", "adam", "normalised", "orthogonal", "dyson", "chain", "ghost", "gated",
            "lookahead", "normalised-chain", "highway", "truncated", "staged")  # fmt: skip
POST_NORM = ("sgd", "adam", "normalised", "orthogonal", "isometry", "dyson", "chain", "ghost",
             "gated", "normalised-chain", "orthogonal-gated", "highway", "truncated",
             "staged")  # fmt: skip
FRESH, REPEATS = 1000, 8  # the first seed of a confirmation, and their least number


class Stack(NamedTuple):
    kind: str  # "tanh", "residual" or "post-norm"
    depth: int
    width: int
    recipe: Recipe
    methods: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{self.kind} {self.depth}"


class Pipeline(NamedTuple):
    depth: int
    width: int
    recipe: Recipe
    stages: int
    delays: tuple[int, ...]
    target: float  # test nats
    schemes: tuple[str, ...] = tuple(pipeline.SCHEMES)


class Preset(NamedTuple):
    stacks: tuple[Stack, ...]
    pipeline: Pipeline
    rates: tuple[float, ...]
    seeds: int
    joint: bool  # all rates with all seeds in one run: where width is free
    stages: int = 8


PRESETS = {
    "smoke": Preset(
        (Stack("residual", 8, 16, Recipe(20, 16, 10), ("adam", "truncated", "staged")),),
        Pipeline(8, 16, Recipe(20, 16, 10), 4, (1,), 2.0, ("stale", "corrected")),
        (1e-3, 1e-2), 2, False, 4,
    ),
    "cpu": Preset(
        (
            Stack("tanh", 50, 64, Recipe(160, 64, 20), PLAIN),
            Stack("residual", 64, 64, Recipe(80, 64, 10), RESIDUAL),
            Stack("tanh", 300, 64, Recipe(120, 64, 30), FEW),
            Stack("post-norm", 16, 32, Recipe(240, 32, 40), POST_NORM),
        ),
        Pipeline(32, 64, Recipe(120, 64, 5), 8, (1, 4), 0.3),
        (1e-4, 5e-4, 3e-3, 3e-2), 4, False,
    ),
    "gpu": Preset(
        (
            Stack("tanh", 50, 64, Recipe(250, 64, 10), PLAIN),
            Stack("residual", 64, 64, Recipe(120, 64, 5), RESIDUAL),
            Stack("tanh", 300, 64, Recipe(250, 64, 10), PLAIN),
            Stack("post-norm", 32, 64, Recipe(600, 64, 30), POST_NORM),
            Stack("tanh", 1000, 64, Recipe(250, 64, 25), MAIN),
        ),
        Pipeline(32, 64, Recipe(200, 64, 5), 8, (1, 4), 0.2),
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 5, True,
    ),
}  # fmt: skip


class Grid:
    """A compiled program of (rates, seeds), its choice of a rate, and runs with other seeds."""

    def __init__(self, program: Any, preset: Preset):
        began = time.perf_counter()
        self.preset, self.rates = preset, preset.rates
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


def problem(stack: Any, digits: data.Split) -> problems.Problem:
    if stack.kind == "post-norm":
        return problems.transformer(stack.name, stack.depth, data.to_sort(8, 16), width=stack.width)
    branch = None if stack.kind == "tanh" else 0.1
    return problems.multilayer(stack.name, stack.depth, digits, width=stack.width, branch=branch)


def at(curves: Any, measure: str) -> np.ndarray:
    """Accuracy of each seed at the end, or after a quarter of the steps."""
    accuracy = np.asarray(curves)
    return accuracy[:, -1 if measure == "end" else max(accuracy.shape[1] // 4 - 1, 0)]


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each teleporting method with the one it is measured against, in each stack."""
    by_name = {(row["stack"], row["method"]): row for row in rows}
    found = []
    for (stack, name), row in by_name.items():
        against = METHODS[name].against
        other = by_name.get((stack, against)) if against else None
        if other is None:
            continue
        for measure in ("end", "early"):
            difference = statistics.paired(
                at(row["accuracy"], measure), at(other["accuracy"], measure)
            )
            found.append(
                {"stack": stack, "method": name, "against": against, "measure": measure}
                | difference | {"again": None, "confirmed": False}
            )  # fmt: skip
    for c, p in zip(found, statistics.holm([c["p"] for c in found]), strict=True):
        c["p_holm"] = p
    return found


def confirm(comparisons: list[dict[str, Any]], grids: dict[Any, Grid], out_of_time: Any) -> None:
    """Repeat on other seeds what helped by more than two standard errors."""
    runs: dict[Any, Curves] = {}
    repeated = []
    for c in filter(statistics.helps, comparisons):
        pair = [(c["stack"], c["method"]), (c["stack"], c["against"])]
        for key in pair:
            if key not in runs and not out_of_time():
                runs[key] = grids[key].again()
        if all(key in runs for key in pair):
            values = [at(runs[key].accuracy, c["measure"]) for key in pair]
            c["again"] = statistics.paired(*values) | {"seeds": len(values[0])}
            repeated.append(c)
    corrected = statistics.holm([c["again"]["p"] for c in repeated])
    for c, p in zip(repeated, corrected, strict=True):
        c["again"]["p_holm"] = p
        c["confirmed"] = statistics.helps(c["again"]) and p < 0.05


def steps_to(curve: Any, every: int, target: float) -> int | None:
    """Steps until nats are first at most the target, if ever."""
    there = np.flatnonzero(np.asarray(curve) <= target)
    return int(every * (there[0] + 1)) if len(there) else None


def rounded(values: Any) -> list:
    values = np.nan_to_num(np.asarray(values, float), nan=99.0, posinf=99.0)
    return np.minimum(values, 99.0).round(5).tolist()


def facts(grid: Grid, curves: Curves, merits: list[float], recipe: Recipe) -> dict[str, Any]:
    return {
        "rate": grid.rate,
        "tuning": rounded(merits),
        "seconds_per_run": grid.seconds / grid.runs,
        "runs_at_once": grid.count,
        "compilation": grid.compilation,
        "every": recipe.every,
        "accuracy": rounded(curves.accuracy),
        "nats": rounded(curves.nats),
    }


def run(preset: Preset, options: argparse.Namespace) -> dict[str, Any]:
    """Train all rows; the JSON is written after each."""
    began = time.perf_counter()
    digits = data.digits(options.digits)

    def out_of_time() -> bool:
        return options.budget is not None and time.perf_counter() - began > options.budget

    results: dict[str, Any] = {
        "command": " ".join(["python", "examples/deep_stack.py", *sys.argv[1:]]),
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "preset": json.loads(json.dumps(preset)),
        "rows": [], "pipeline": [], "comparisons": [], "left_out": [],
    }  # fmt: skip

    def write() -> None:
        results["comparisons"] = compared(results["rows"])
        results["seconds"] = time.perf_counter() - began
        options.output.write_text(json.dumps(results, separators=(",", ":")) + "\n")

    def build(make: Any) -> Grid | None:
        return None if out_of_time() else Grid(make(), preset)

    grids: dict[Any, Grid] = {}
    with ThreadPoolExecutor(max(options.threads, 1)) as pool:
        waiting = []
        for stack, name, make in jobs(preset, digits):
            ready = pool.submit(build, make).result if options.threads else partial(build, make)
            waiting.append((stack, name, ready))
        for stack, name, ready in waiting:
            grid = None if out_of_time() else ready()
            if grid is None:
                results["left_out"].append([stack.name if stack else "pipeline", name])
                continue
            if stack is None:
                results["pipeline"].append(piped(grid, preset.pipeline, *name))
                row = results["pipeline"][-1]
            else:
                curves, merits = grid.tuned(lambda c: float(np.nan_to_num(c.validation[-1])))
                row = {"stack": stack.name, "method": name}
                row |= facts(grid, curves, merits, stack.recipe)
                results["rows"].append(row)
                grids[stack.name, name] = grid
            accuracy = statistics.mean_and_error(at(row["accuracy"], "end"))
            print(
                f"{time.perf_counter() - began:6.0f} s  {stack.name if stack else 'pipeline':14} "
                f"{name!s:24} rate {row['rate']:.0e}  accuracy {accuracy[0]:.3f} "
                f"±{accuracy[1]:.3f}  ({grid.compilation:.1f} + {grid.seconds:.1f} s)",
                flush=True,
            )
            write()
    write()
    confirm(results["comparisons"], grids, out_of_time)
    results["seconds"] = time.perf_counter() - began
    options.output.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    return results


def jobs(preset: Preset, digits: data.Split) -> list[tuple[Stack | None, Any, Any]]:
    """All rows, (stack, method) and (None, (scheme, delay)), with what makes their programs."""
    rows: list[tuple[Stack | None, Any, Any]] = []
    for stack in preset.stacks:
        posed = problem(stack, digits)
        for name in stack.methods:
            make = partial(
                training.program, posed, METHODS[name], stack.recipe, stages=preset.stages
            )
            rows.append((stack, name, make))
    line = preset.pipeline
    posed = problems.multilayer("pipeline", line.depth, digits, width=line.width, branch=0.1)
    position = sum(len(stack.methods) for stack in preset.stacks[:2])  # before the longest
    for scheme in reversed(line.schemes):
        waits = scheme in pipeline.DELAYED
        for delay in reversed(line.delays if waits else line.delays[:1]):
            make = partial(
                pipeline.program, posed, scheme, line.recipe, stages=line.stages, delay=delay
            )
            rows.insert(position, (None, (scheme, delay), make))
    return rows


def piped(grid: Grid, line: Pipeline, scheme: str, delay: int) -> dict[str, Any]:
    """One scheme: the rate that reaches the target first, else the lowest nats at the end."""
    every, units = line.recipe.every, pipeline.units_per_step(scheme, line.stages)

    def merit(curves: Curves) -> float:
        steps = steps_to(curves.validation_nats, every, line.target)
        end = np.nan_to_num(float(curves.validation_nats[-1]), nan=99.0, posinf=99.0)
        return -steps if steps else -1e6 - min(end, 99.0)

    curves, merits = grid.tuned(merit)
    row = {"scheme": scheme, "delay": delay, "units": units}
    row |= facts(grid, curves, merits, line.recipe)
    return row | {"steps": [steps_to(c, every, line.target) for c in curves.nats]}


def print_table(results: dict[str, Any]) -> None:
    for name in dict.fromkeys(row["stack"] for row in results["rows"]):
        print(f"\n{name:36} {'rate':>7} {'accuracy':>14} {'a quarter':>14} {'nats':>7} {'s':>7}")
        for row in results["rows"]:
            if row["stack"] != name:
                continue
            cells = "".join(
                " {:6.3f} ±{:6.4f}".format(*statistics.mean_and_error(at(row["accuracy"], m)))
                for m in ("end", "early")
            )
            print(
                f"{METHODS[row['method']].label:36} {row['rate']:7.0e}{cells} "
                f"{np.mean(at(row['nats'], 'end')):7.3f} {row['seconds_per_run']:7.2f}"
            )
    print(f"\n{len(results['comparisons'])} comparisons; what moved by more than 2 errors:")
    for c in results["comparisons"]:
        if abs(c["mean"]) > 2 * c["error"]:
            print(
                f"{c['stack']:14} {c['method']:17} less {c['against']:11} {c['measure']:5} "
                f"{c['mean']:+.3f} ±{c['error']:.3f}  p {c['p']:.3f} ({c['p_holm']:.3f})", end=""
            )  # fmt: skip
            if c["again"]:
                a = c["again"]
                print(f"  again {a['mean']:+.3f} ±{a['error']:.3f}, p {a['p_holm']:.4f}, "
                      f"{'confirmed' if c['confirmed'] else 'not confirmed'}", end="")  # fmt: skip
            print()
    if results["pipeline"]:
        target = results["preset"][1][5]
        print(f"\n{'pipeline':40} {'delay':>5} {'rate':>7} {'accuracy':>9} {'steps':>7} {'time':>7}"
              f"   (to {target} nats; all seeds or -)")  # fmt: skip
        for row in results["pipeline"]:
            steps = np.mean(row["steps"]) if None not in row["steps"] else None
            cells = (
                "      -       -" if steps is None else f"{steps:7.1f} {steps * row['units']:7.0f}"
            )
            print(f"{pipeline.SCHEMES[row['scheme']]:40} {row['delay']:5d} {row['rate']:7.0e} "
                  f"{np.mean(at(row['accuracy'], 'end')):9.3f} {cells}")  # fmt: skip
    if results["left_out"]:
        print(f"left out, for want of time: {results['left_out']}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--digits", type=Path, help=".npz with data and target; None: scikit-learn")
    parser.add_argument("--threads", type=int, default=0, help="that compile meanwhile")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="start no row after it")
    parser.add_argument("--output", type=Path, default=Path("runs") / "deep_stack.json")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="print and draw a finished run")
    parser.add_argument("--picture", type=Path, help="PNG for --draw; None: next to the JSON")
    options = parser.parse_args()
    if options.draw:
        from stacks import picture  # matplotlib is for pictures alone

        results = json.loads(options.draw.read_text())
        print_table(results)
        path = options.picture or options.draw.with_suffix(".png")
        print(f"\nwritten: {picture.save(results, path)}")
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    print_table(run(PRESETS[options.preset], options))
    print(f"\nwritten: {options.output}")


if __name__ == "__main__":
    main()
