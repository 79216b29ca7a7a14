"""Does teleportation help deep stacks? Plain tanh layers, residual ones, post-norm transformers.

    python examples/deep_stack.py                         # minutes on two cores
    python examples/deep_stack.py --preset smoke          # a minute
    python examples/deep_stack.py --preset gpu --digits digits.npz
    python examples/deep_stack.py --draw runs/deep_stack.json

Each method trains at each learning rate of one grid with one seed; the rate with the highest
accuracy on the validation part goes on, with fresh seeds, of which the test accuracy is reported
over steps and over seconds. Methods that teleport are compared with the same method that does not,
seed by seed, at the end and after a quarter of the steps. Those whose backward pass takes all
stages or layers at once are compared with plain backpropagation too, when both have had the time of
a third of its steps, counted in passes through layers that must follow each other ("parallel").
A gain of more than two standard errors is tried again on other seeds, and counts as confirmed if it
holds there at p < 0.05 after Holm's correction for the number tried again; p of the first trial are
corrected for all comparisons.

Then pipelines of stages that do not wait for each other (see stacks/pipeline.py), of digits by
momentum and of a sorting transformer by Adam: what stale gradients cost, and whether teleported
ones, which skip the way back, save time. Runs that miss the target count with a time longer than
that of any that can reach it. A rate with a star is at the edge of its grid.

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
from typing import Any

import jax
import numpy as np
from stacks import comparisons, data, gradients, pipeline, settings, statistics, table
from stacks.comparisons import steps_to, values
from stacks.grid import Grid
from stacks.methods import METHODS
from stacks.settings import PRESETS, Preset, Stack
from stacks.training import Curves, Recipe

ROWS = 0.75  # of --budget; the rest is for the confirmation


def rounded(x: Any) -> list:
    finite = np.nan_to_num(np.asarray(x, float), nan=99.0, posinf=99.0)
    return np.minimum(finite, 99.0).round(5).tolist()


def facts(grid: Grid, curves: Curves, merits: list[float], recipe: Recipe) -> dict[str, Any]:
    return {
        "rate": grid.rate,
        "edge": grid.rate in (min(grid.rates), max(grid.rates)),
        "tuning": rounded(merits),
        "seconds_per_run": grid.seconds / grid.runs,
        "runs_at_once": grid.count,
        "compilation": grid.compilation,
        "every": recipe.every,
        "accuracy": rounded(curves.accuracy),
        "nats": rounded(curves.nats),
    }


def trained(grid: Grid, stack: Stack, method: str, stages: int) -> dict[str, Any]:
    """A method in a stack: the rate with the highest accuracy on the validation part."""
    curves, merits = grid.tuned(lambda c: float(np.nan_to_num(c.validation[-1])))
    row: dict[str, Any] = {"stack": stack.name, "method": method, "depth": stack.depth}
    row["sequential"] = gradients.sequential(METHODS[method], stack.depth, stages=stages)
    return row | facts(grid, curves, merits, stack.recipe)


def piped(grid: Grid, line: settings.Pipeline, scheme: str, delay: int) -> dict[str, Any]:
    """A scheme: the rate that reaches the target first, or else has the least nats at the end."""
    every, target = line.recipe.every, line.target

    def merit(curves: Curves) -> float:
        steps = steps_to(curves.validation_nats, every, target)
        end = min(np.nan_to_num(float(curves.validation_nats[-1]), nan=99.0, posinf=99.0), 99.0)
        return -steps if steps else -1e6 - end

    curves, merits = grid.tuned(merit)
    row: dict[str, Any] = {"stack": line.name, "method": scheme, "target": target}
    row["delay"] = None if scheme == "synchronous" else delay
    row["units"] = pipeline.units_per_step(scheme, line.stages)
    slowest = max(pipeline.units_per_step(s, line.stages) for s in pipeline.SCHEMES)
    row["horizon"] = slowest * (line.recipe.steps + every)  # where runs that miss the target count
    row["stages"] = line.stages
    row |= facts(grid, curves, merits, line.recipe)
    return row | {"steps": [steps_to(c, every, target) for c in curves.nats]}


def run(preset: Preset, options: argparse.Namespace) -> dict[str, Any]:
    """Train all rows; the JSON is written after each."""
    began = time.perf_counter()
    digits = data.digits(options.digits)

    def out_of_time(share: float = 1.0) -> bool:
        spent = time.perf_counter() - began
        return options.budget is not None and spent > share * options.budget

    results: dict[str, Any] = {
        "command": " ".join(["python", "examples/deep_stack.py", *sys.argv[1:]]),
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "preset": json.loads(json.dumps(preset)),
    } | {name: [] for name in ("rows", "pipeline", "comparisons", "left_out")}
    earlier = 0.0
    if options.resume and options.output.exists():
        kept = json.loads(options.output.read_text())
        results |= {name: kept[name] for name in ("rows", "pipeline", "comparisons")}
        earlier = kept["seconds"]
    rows, pipelines = results["rows"], results["pipeline"]
    there = {settings.key_of(row) for row in rows + pipelines}

    def write() -> None:
        results["seconds"] = earlier + time.perf_counter() - began
        options.output.write_text(json.dumps(results, separators=(",", ":")) + "\n")

    def build(make: Any, rates: tuple[float, ...]) -> Grid | None:
        if out_of_time(ROWS):
            return None
        with jax.default_matmul_precision("float32"):  # not the 10 bits that GPUs take by default
            return Grid(make(), preset, rates)  # in here, as each thread has its own default

    every = {settings.key(place, name): (place, make)
             for place, name, make in settings.jobs(preset, digits)}  # fmt: skip
    grids: dict[Any, Grid] = {}

    def again(row: dict[str, Any]) -> Any:
        """Curves of other seeds; of a row that an earlier run made, by its program built anew."""
        own = settings.key_of(row)
        if own not in grids and own in every and not out_of_time():
            place, make = every[own]
            rates = preset.rates if isinstance(place, settings.Stack) else place.rates
            grids[own] = grid = Grid(make(), preset, rates)
            grid.rate = row["rate"]
        return None if own not in grids or out_of_time() else grids[own].again()

    with ThreadPoolExecutor(max(options.threads, 1)) as pool:
        waiting = []
        for place, name, make in settings.jobs(preset, digits):
            if options.methods and name not in options.methods:
                continue
            if settings.key(place, name) in there or place.name not in (
                options.only or [place.name]
            ):
                continue
            rates = preset.rates if isinstance(place, settings.Stack) else place.rates
            task = partial(build, make, rates)
            ready = pool.submit(task).result if options.threads else task
            waiting.append((place, name, ready))
        for place, name, ready in waiting:
            grid = None if out_of_time(ROWS) else ready()
            if grid is None:
                results["left_out"].append([place.name, name])
                continue
            if isinstance(place, settings.Stack):
                row = trained(grid, place, name, preset.stages)
                rows.append(row)
            else:
                row = piped(grid, place, *name)
                pipelines.append(row)
            grids[settings.key_of(row)] = grid
            mean, error = statistics.mean_and_error(values(row, "end"))
            print(
                f"{time.perf_counter() - began:6.0f} s  {row['stack']:21} {name!s:20} rate "
                f"{row['rate']:.0e}{'*' if row['edge'] else ' '} accuracy {mean:.3f} ±{error:.3f}  "
                f"({grid.compilation:.1f} + {grid.seconds:.1f} s)",
                flush=True,
            )
            results["comparisons"] = comparisons.compared(rows, pipelines, results["comparisons"])
            write()
    with jax.default_matmul_precision("float32"):
        comparisons.confirm(results["comparisons"], rows, pipelines, again)
    write()
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--digits", type=Path, help=".npz with data and target; None: scikit-learn")
    parser.add_argument("--threads", type=int, default=0, help="that compile meanwhile")
    parser.add_argument(
        "--budget", type=float, metavar="SECONDS", help="3/4 to start rows in, 1/4 for repetitions"
    )
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="of stacks")
    parser.add_argument("--rates", nargs="+", type=float, help="in place of the preset's")
    parser.add_argument("--only", nargs="+", metavar="STACK", help='such as "tanh 300"')
    parser.add_argument("--resume", action="store_true", help="keep the rows that --output holds")
    parser.add_argument("--output", type=Path, default=Path("runs") / "deep_stack.json")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="print and draw a finished run")
    parser.add_argument("--picture", type=Path, help="PNG for --draw; None: next to the JSON")
    options = parser.parse_args()
    if options.draw:
        from stacks import picture  # matplotlib is for pictures alone

        results = json.loads(options.draw.read_text())
        table.show(results)
        path = options.picture or options.draw.with_suffix(".png")
        print(f"\nwritten: {picture.save(results, path)}")
        return
    options.output.parent.mkdir(parents=True, exist_ok=True)
    preset = PRESETS[options.preset]
    preset = preset._replace(rates=tuple(options.rates or preset.rates))
    table.show(run(preset, options))
    print(f"\nwritten: {options.output}")


if __name__ == "__main__":
    main()
