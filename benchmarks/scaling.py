"""Training steps of the main job on several devices against one: tokens a second, and the loss.

    python benchmarks/scaling.py --preset gpu --meshes data=2 tensor=2 --batches 64 256
    XLA_FLAGS=--xla_force_host_platform_device_count=4 \\
        python benchmarks/scaling.py --preset smoke --meshes data=2,sequence=2

Each model takes steps of the same batches from the same start, on one device first. Dropout draws
other masks in each part of a batch, and gates are calibrated by every device alone, once a call.
Options of the main job go behind `--`; several processes on one machine take turns with `--turns`.
"""

import argparse
import contextlib
import dataclasses
import itertools
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import jax
import numpy as np
from ablation_runs import turn
from kv.results import environment, save
from lm import mesh, scale
from lm.corpus import Corpus
from lm.devices import ONE, OneDevice
from lm.errors import UserError
from lm.rows import Model, models
from lm.settings import Training
from lm.spread import OnMesh
from lm.texts import load
from rich.console import Console
from shakespeare import command_line

RESULTS = Path(__file__).parent / "results"


def devices(text: str) -> OneDevice:
    """Those of `data=2,tensor=2`; "one" is one device.

    Raises:
        UserError: that is no mesh of the devices that there are.
    """
    if text == "one":
        return ONE
    try:
        pairs = [pair.split("=") for pair in text.split(",")]
        asked = scale.Mesh(**{name: int(size) for name, size in pairs})
    except (TypeError, ValueError) as error:
        raise UserError(f"--meshes takes such as data=2,tensor=2, got {text!r}") from error
    return OnMesh(mesh.build(asked))


def measured(
    model: Model,
    training: Training,
    corpus: Corpus,
    where: OneDevice,
    calls: int,
    turns: list[Path],
) -> dict[str, Any]:
    """Seconds of each compiled call after the first, and the loss of the first and last step."""
    count = training.steps_per_call
    text = where.text(np.asarray(corpus.train, np.int32))
    state = where.begin(model, training)
    if model.place is not None:
        state |= {"params": where.placed(model, training, state["params"], text)}
    began = time.perf_counter()
    run = where.program(model, training, count, given=False)
    compiled = run.lower(state, text, where.text(np.asarray(0, np.int32))).compile()
    compiling = time.perf_counter() - began
    losses, seconds = [], []
    with contextlib.ExitStack() as held:
        for path in sorted(turns):
            held.enter_context(turn(path))
        for call in range(calls + 1):  # the first one warms up
            first = where.text(np.asarray(call * count, np.int32))
            began = time.perf_counter()
            state, found = jax.block_until_ready(compiled(state, text, first))
            seconds.append(time.perf_counter() - began)
            losses.extend(np.asarray(found["loss"]).tolist())
    return {
        "batch": training.batch,
        "seconds_to_compile": compiling,
        "seconds": seconds[1:],
        "tokens_per_s": count * training.batch * training.block / float(np.median(seconds[1:])),
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("smoke", "cpu", "gpu"), default="gpu")
    parser.add_argument("--rows", nargs="+", default=["transformer", "bk"])
    parser.add_argument("--meshes", nargs="+", default=["data=2"])
    parser.add_argument("--batches", nargs="+", type=int, help="windows of a step, in all parts")
    parser.add_argument("--calls", type=int, default=6, help="of --training.steps-per-call steps")
    parser.add_argument("--turns", type=Path, nargs="*", default=[], help="files to hold meanwhile")
    parser.add_argument("--output", type=Path, help="default benchmarks/results/")
    parser.add_argument("main", nargs="*", help="options of the main job, behind --")
    options = parser.parse_args()
    output = options.output or RESULTS / f"scaling_{options.preset}.json"
    settings = command_line(["--preset", options.preset, "--rows", *options.rows, *options.main])
    corpus = load(settings, Console(markup=False, highlight=False))
    trainings = [
        dataclasses.replace(settings.training, batch=batch)
        for batch in options.batches or [settings.training.batch]
    ]
    report: dict[str, Any] = {**environment(), "preset": options.preset, "calls": options.calls}
    report |= {"training": dataclasses.asdict(settings.training), "runs": []}
    try:
        if settings.mesh != scale.ONE_DEVICE:
            raise UserError("give meshes by --meshes, not behind --")
        wanted = {name: devices(name) for name in ("one", *options.meshes)}
        found = models(settings, len(corpus.characters))
        for model, training, where in itertools.product(found, trainings, wanted.values()):
            where.check(model, training)
        print(f"{'row':14}{'batch':>6}  {'mesh':22}{'tokens/s':>12}{'x one':>7}   first, last loss")
        for model, training in itertools.product(found, trainings):
            speed = 0.0
            for name, where in wanted.items():
                run = measured(model, training, corpus, where, options.calls, options.turns)
                speed = speed or run["tokens_per_s"]
                report["runs"].append({"row": model.name, "mesh": name, **run})
                save(output, report)
                print(
                    f"{model.name:14}{training.batch:6}  {name:22}{run['tokens_per_s']:12,.0f}"
                    f"{run['tokens_per_s'] / speed:7.2f}   "
                    f"{run['loss_first']:.4f} {run['loss_last']:.4f}",
                    flush=True,
                )
    except UserError as error:
        raise SystemExit(str(error)) from error


if __name__ == "__main__":
    main()
