"""Steps of the main job on several devices against one: tokens a second, and the loss.

    python benchmarks/meshes.py --preset gpu --meshes data=2 tensor=2 sequence=2 --batches 64 256
    XLA_FLAGS=--xla_force_host_platform_device_count=4 \\
        python benchmarks/meshes.py --preset smoke --meshes data=2,sequence=2 --output /tmp/m.json

Each row of the table trains the same batches from the same start; one device comes first, and the
others are compared with it. Several of them on one machine take turns with `--turns FILE`.
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

import numpy as np
from ablation_runs import turn
from kv.results import environment, save
from lm import mesh as meshes
from lm import scale
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
CALL = 25
"""Steps of a compiled call."""
SCHEDULE = 100 * CALL
"""Steps that the learning rate's schedule is made for."""


def devices_of(text: str) -> OneDevice:
    """Of `data=2,tensor=2`; "one" is one device.

    Raises:
        UserError: that is no mesh of these devices.
    """
    if text == "one":
        return ONE
    try:
        sizes = {name: int(size) for name, size in (pair.split("=") for pair in text.split(","))}
        asked = scale.Mesh(**sizes)
    except (TypeError, ValueError) as error:
        raise UserError(f"--meshes takes such as data=2,tensor=2, got {text!r}") from error
    return OnMesh(meshes.build(asked))


def timed(
    model: Model,
    training: Training,
    corpus: Corpus,
    devices: OneDevice,
    calls: int,
    turns: list[Path],
) -> dict[str, Any]:
    """Tokens a second of the median call, and the loss of the first and the last step."""
    state = devices.begin(model, training)
    text = devices.text(np.asarray(corpus.train, np.int32))
    began = time.perf_counter()
    run = devices.program(model, training, CALL, given=False)
    compiled = run.lower(state, text, devices.text(np.asarray(0, np.int32))).compile()
    compiling = time.perf_counter() - began
    losses, seconds = [], []
    with contextlib.ExitStack() as held:
        for path in turns:
            held.enter_context(turn(path))
        for call in range(calls + 1):  # the first one warms up
            first = devices.text(np.asarray(call * CALL, np.int32))
            began = time.perf_counter()
            state, measured = compiled(state, text, first)
            losses.extend(np.asarray(measured["loss"]).tolist())
            seconds.append(time.perf_counter() - began)
    tokens = CALL * training.batch * training.block
    return {
        "batch": training.batch,
        "seconds_to_compile": compiling,
        "tokens_per_s": tokens / float(np.median(seconds[1:])),
        "loss_first": losses[0],
        "loss_last": losses[-1],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("smoke", "cpu", "gpu"), default="gpu")
    parser.add_argument("--rows", nargs="+", default=["transformer", "bk"])
    parser.add_argument("--meshes", nargs="+", default=["data=2"])
    parser.add_argument("--batches", nargs="+", type=int, help="windows of a step")
    parser.add_argument("--calls", type=int, default=6, help=f"timed calls of {CALL} steps")
    parser.add_argument("--turns", type=Path, nargs="*", default=[], help="files to hold meanwhile")
    parser.add_argument("--output", type=Path, help="default benchmarks/results/")
    parser.add_argument("main", nargs="*", help="options of the main job, behind --")
    options = parser.parse_args()
    output = options.output or RESULTS / f"meshes_{options.preset}.json"
    settings = command_line(["--preset", options.preset, "--rows", *options.rows, *options.main])
    corpus = load(settings, Console(markup=False, highlight=False))
    report: dict[str, Any] = {**environment(), "runs": []}
    trainings = [
        dataclasses.replace(settings.training, batch=batch, steps=SCHEDULE)
        for batch in options.batches or [settings.training.batch]
    ]
    try:
        wanted = {name: devices_of(name) for name in ("one", *options.meshes)}
        rows = models(settings, len(corpus.characters))
        for model, training, devices in itertools.product(rows, trainings, wanted.values()):
            devices.check(model, training)
    except UserError as error:
        raise SystemExit(str(error)) from error
    print(f"{'row':14}{'batch':>6}  {'mesh':22}{'tokens/s':>12}{'x one':>7}   loss, first and last")
    for model in rows:
        for training in trainings:
            alone = 0.0
            for name, devices in wanted.items():
                found = timed(model, training, corpus, devices, options.calls, options.turns)
                alone = alone or found["tokens_per_s"]
                report["runs"].append({"row": model.name, "mesh": name, **found})
                save(output, report)
                print(
                    f"{model.name:14}{training.batch:6}  {name:22}{found['tokens_per_s']:12,.0f}"
                    f"{found['tokens_per_s'] / alone:7.2f}   "
                    f"{found['loss_first']:.4f} {found['loss_last']:.4f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
