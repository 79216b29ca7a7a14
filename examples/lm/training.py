"""Train one row to the end of its schedule, from its last checkpoint where it has one."""

import dataclasses
import json
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lm import files
from lm.checkpoints import Checkpoints, digest
from lm.corpus import Corpus
from lm.devices import ONE, OneDevice
from lm.errors import UserError
from lm.evaluation import Evaluator
from lm.metrics import Metrics, Unkept
from lm.processes import by_first, first
from lm.rows import Model
from lm.scale import Input
from lm.settings import Training
from lm.source import Source, source_of

Spent = dict[str, Any]
"""What the steps so far took, kept with a checkpoint: seconds, and bytes of memory."""


class Trained(NamedTuple):
    """The parameters at the end of the schedule, and what the steps took.

    Args:
        params: as the model's `init` makes them.
        seconds: in steps alone, without compilation, evaluation and checkpoints.
        memory: bytes that a step needs beside its arguments and results.
    """

    params: Any
    seconds: float
    memory: int


def train(
    model: Model,
    corpus: Corpus,
    training: Training,
    evaluator: Evaluator,
    folder: Path,
    *,
    console: Console,
    devices: OneDevice = ONE,
    input: Input = "device",
) -> Trained:
    """Train a model; a kill at any point costs at most `checkpoint_every` steps.

    Args:
        model: the row.
        corpus: the text.
        training: schedule and optimiser.
        evaluator: measures the loss on held-out text.
        folder: the row's own: config.json, metrics.jsonl, tensorboard/, checkpoints/.
        console: where progress goes.
        devices: where it runs.
        input: whence batches come.

    Raises:
        UserError: the folder belongs to a run with other settings, no checkpoint there can be
            read, or the loss or the gradient stopped being finite (with the step's number).
    """
    devices.check(model, training)
    more: dict[str, Any] = {} if input == "device" else {"input": {"reader": input}}

    def settle() -> None:
        folder.mkdir(exist_ok=True)
        claim(folder, model, corpus, training, **more)

    by_first(settle)
    source = source_of(model, corpus, training, devices, input)

    def say(sentence: str) -> None:
        console.print(f"{model.label}: {sentence}")

    state, step = devices.begin(model, training), 0
    spent = {"seconds": 0.0, "memory": 0}
    with Checkpoints(folder / "checkpoints") as checkpoints:
        restored = checkpoints.restore(state, say=say)
        if restored is not None:
            state, step, spent = restored
            source.restore(spent)
            say(f"resuming after step {step}" if step < training.steps else "trained already")
        elif model.place is not None:
            state |= {"params": devices.placed(model, training, state["params"], source.sample())}
        if step < training.steps:
            kept = Metrics(folder, step=step) if first() else Unkept()
            with kept as metrics, _progress(console) as progress:
                loop = _Loop(
                    model, training, devices, source, evaluator, metrics, checkpoints, progress
                )
                state, spent = loop.to_the_end(state, step, spent)
    return Trained(devices.gathered(state["params"]), spent["seconds"], spent["memory"])


def claim(
    folder: Path, model: Model, corpus: Corpus, training: Training, **more: dict[str, Any]
) -> None:
    """Write the settings into a new folder, or make sure that an old one has the same.

    `more` are groups of settings of the row's own.
    """
    mine = {
        "model": model.name,
        "learning_rate": model.learning_rate,
        "config": dataclasses.asdict(model.config),
        "training": dataclasses.asdict(training),
        "text_sha256": corpus.fingerprint(),
        **more,
    }
    if model.penalty is not None:
        mine["penalty"] = {"weight": model.penalty.weight, "windows": model.penalty.windows}
    if model.members:
        mine["members"] = model.members
    if model.teacher is not None:
        _, taught, direction, labels = model.teacher
        mine["teacher"] = {"direction": direction, "labels": labels, "digest": digest(taught)}
    path = folder / "config.json"
    if not path.exists():
        files.replace(path, json.dumps(mine, indent=2) + "\n")
        return
    old = _flat(files.parse(path.read_text(encoding="utf-8", errors="replace"), source=str(path)))
    new = _flat(json.loads(json.dumps(mine)))
    changed = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    if changed:
        listed = "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed)
        raise UserError(
            f"{folder} holds a run with other settings ({listed}). Give another --directory, or "
            "the same settings to resume it."
        )


class _Loop:
    """Compiled calls of several steps, with what happens between them."""

    def __init__(
        self,
        model: Model,
        training: Training,
        devices: OneDevice,
        source: Source,
        evaluator: Evaluator,
        metrics: Metrics | Unkept,
        checkpoints: Checkpoints,
        progress: Progress,
    ) -> None:
        self._model, self._training, self._evaluator = model, training, evaluator
        self._metrics, self._checkpoints, self._progress = metrics, checkpoints, progress
        self._devices, self._source = devices, source
        self._compiled: dict[int, Any] = {}

    def to_the_end(self, state: Any, step: int, spent: Spent) -> tuple[Any, Spent]:
        training, progress = self._training, self._progress
        task = progress.add_task(
            self._model.label, total=training.steps, completed=step, figures="compiling"
        )
        while step < training.steps:
            count = min(training.steps_per_call, training.steps - step)
            state, loss, spent = self._call(state, step, count, spent)
            step += count
            last = step == training.steps
            if last or step % training.evaluate_every == 0:
                self._evaluate(state, step, loss, spent["seconds"])
            if last or step % training.checkpoint_every == 0:
                # Metrics first: a checkpoint promises that every earlier step is logged.
                self._metrics.flush()
                self._checkpoints.save(step, state, spent | self._source.state())
            progress.update(task, completed=step, figures=f"loss {loss:.3f}")
        return state, spent

    def _call(self, state: Any, step: int, count: int, spent: Spent) -> tuple[Any, float, Spent]:
        """Take and log `count` steps: the new state, their mean loss, what all took so far."""
        first = self._devices.text(np.asarray(step, np.int32))
        began = time.perf_counter()
        tokens = self._source.take(count)
        read = time.perf_counter() - began
        if count not in self._compiled:
            run = self._devices.program(
                self._model, self._training, count, given=self._source.given
            )
            self._compiled[count] = run.lower(state, tokens, first).compile()
        memory = self._compiled[count].memory_analysis().temp_size_in_bytes
        began = time.perf_counter()
        state, measured = self._compiled[count](state, tokens, first)
        losses, norms = (np.asarray(measured[name]) for name in ("loss", "gradient_norm"))
        elapsed = read + time.perf_counter() - began
        for index in range(count):
            number, loss, norm = step + index + 1, float(losses[index]), float(norms[index])
            if not (math.isfinite(loss) and math.isfinite(norm)):
                self._stop(f"at step {number} the loss is {loss} and the gradient's norm {norm}")
            passed = spent["seconds"] + elapsed * (index + 1) / count
            self._metrics.record("train", number, loss=loss, gradient_norm=norm, seconds=passed)
        seconds = spent["seconds"] + elapsed
        spent = {"seconds": seconds, "memory": max(spent["memory"], memory)}
        return state, float(losses.mean()), spent

    def _evaluate(self, state: Any, step: int, loss: float, seconds: float) -> None:
        found = self._evaluator.evaluate(state["params"], limit=self._training.evaluation_windows)
        if not math.isfinite(found.nats):
            self._stop(f"after step {step} the loss on held-out text is {found.nats}")
        self._metrics.record(
            "validation", step, loss=found.nats, kept_pairs=found.kept_pairs, seconds=seconds
        )
        self._progress.console.print(
            f"{self._model.label}: step {step}, training loss {loss:.3f}, held-out "
            f"{found.nats:.3f} nats, {seconds:.0f} s"
        )

    def _stop(self, reason: str) -> None:
        raise UserError(
            f"{self._model.label}: {reason}; stopped. The metrics hold every earlier step and the "
            "last checkpoint is kept. A smaller learning rate than "
            f"{self._model.learning_rate} may help (with another --directory)."
        )


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[figures]}"),
        TimeRemainingColumn(),
        console=console,
    )


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
