"""Train one row to the end of its schedule, from its last checkpoint where it has one."""

import dataclasses
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from lm.checkpoints import Checkpoints, digest
from lm.corpus import Corpus
from lm.errors import UserError
from lm.evaluation import Evaluator
from lm.metrics import Metrics, replace_file
from lm.rows import Model
from lm.settings import Training
from lm.step import initial_state, steps


class Trained(NamedTuple):
    """A finished row: its figures and its parameters."""

    result: dict[str, Any]
    params: Any


def train(
    model: Model, corpus: Corpus, training: Training, folder: Path, *, console: Console
) -> Trained:
    """Train a model; a kill at any point costs at most `checkpoint_every` steps.

    Args:
        model: the row.
        corpus: the text.
        training: schedule and optimiser.
        folder: the row's own: config.json, metrics.jsonl, tensorboard/, checkpoints/, result.json.
        console: where progress goes.

    Raises:
        UserError: the folder belongs to a run with other settings, no checkpoint there can be
            read, or the loss or the gradient stopped being finite (with the step's number).
    """
    folder.mkdir(parents=True, exist_ok=True)
    claim(folder, model, corpus, training)
    say = lambda sentence: console.print(f"{model.label}: {sentence}")  # noqa: E731
    state = initial_state(model, training)
    checkpoints = Checkpoints(folder / "checkpoints")
    try:
        restored = checkpoints.restore(state, say=say)
        start, seconds = 0, 0.0
        if restored is not None:
            state, start, seconds = restored.state, restored.step, restored.meta["seconds"]
            say(f"resuming after step {start}" if start < training.steps else "already trained")
        evaluator = Evaluator(
            model, corpus.validation, block=training.block, dtype=training.dtype
        )
        metrics = Metrics(folder, step=start)
        try:
            run = _Run(model, corpus, training, evaluator, metrics, checkpoints, console)
            state, seconds = run.to_the_end(state, start, seconds)
        finally:
            metrics.close()
    finally:
        checkpoints.close()
    result_path = folder / "result.json"
    if start < training.steps or not result_path.exists():
        final = evaluator.evaluate(state["params"])
        result = {
            "name": model.name,
            "label": model.label,
            "parameters": sum(leaf.size for leaf in jax.tree.leaves(state["params"])),
            "nats": final.nats,
            "bits": final.nats / float(np.log(2.0)),
            "kept_pairs": final.kept_pairs,
            "characters": final.characters,
            "tokens_per_second": training.steps * training.batch * training.block / seconds,
            "seconds": seconds,
            "digest": digest(state["params"]),
        }
        replace_file(result_path, json.dumps(result, indent=2) + "\n")
    return Trained(json.loads(result_path.read_text()), state["params"])


def claim(folder: Path, model: Model, corpus: Corpus, training: Training) -> None:
    """Write the settings into a new folder, or make sure that an old one has the same."""
    mine = {
        "model": model.name,
        "learning_rate": model.learning_rate,
        "config": dataclasses.asdict(model.config),
        "training": dataclasses.asdict(training),
        "text": corpus.name,
        "text_sha256": corpus.fingerprint(),
    }
    mine = json.loads(json.dumps(mine))
    path = folder / "config.json"
    if not path.exists():
        replace_file(path, json.dumps(mine, indent=2) + "\n")
        return
    old, new = _flat(json.loads(path.read_text())), _flat(mine)
    changed = [key for key in sorted(old | new) if old.get(key) != new.get(key)]
    if changed:
        listed = "; ".join(f"{key} was {old.get(key)}, is {new.get(key)}" for key in changed)
        raise UserError(
            f"{folder} holds a run with other settings ({listed}). Give another --directory, or "
            "the same settings to resume it."
        )


class _Run:
    """The loop over compiled calls of several steps."""

    def __init__(
        self,
        model: Model,
        corpus: Corpus,
        training: Training,
        evaluator: Evaluator,
        metrics: Metrics,
        checkpoints: Checkpoints,
        console: Console,
    ) -> None:
        self._model, self._training, self._evaluator = model, training, evaluator
        self._metrics, self._checkpoints, self._console = metrics, checkpoints, console
        self._tokens = jnp.asarray(corpus.train)
        self._compiled: dict[int, Any] = {}

    def to_the_end(self, state: Any, step: int, seconds: float) -> tuple[Any, float]:
        training = self._training
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            task = progress.add_task(
                self._model.label, total=training.steps, completed=step, figures="compiling"
            )
            while step < training.steps:
                count = min(training.steps_per_call, training.steps - step)
                state, seconds = self._call(state, step, count, seconds)
                step += count
                last = step == training.steps
                figures = f"loss {self._loss:.3f}"
                if last or step % training.evaluate_every == 0:
                    found = self._evaluator.evaluate(
                        state["params"], limit=training.evaluation_windows
                    )
                    self._metrics.record(
                        "validation",
                        step,
                        loss=found.nats,
                        kept_pairs=found.kept_pairs,
                        seconds=seconds,
                    )
                    progress.console.print(
                        f"{self._model.label}: step {step}, training {self._loss:.3f}, validation "
                        f"{found.nats:.3f} nats, {seconds:.0f} s"
                    )
                if last or step % training.checkpoint_every == 0:
                    # Metrics first: a checkpoint promises that every earlier step is logged.
                    self._metrics.flush()
                    self._checkpoints.save(step, state, {"seconds": seconds})
                progress.update(task, completed=step, figures=figures)
        return state, seconds

    def _call(self, state: Any, step: int, count: int, seconds: float) -> tuple[Any, float]:
        first = jnp.asarray(step, jnp.int32)
        if count not in self._compiled:
            run = jax.jit(steps(self._model, self._training, count), donate_argnums=0)
            self._compiled[count] = run.lower(state, self._tokens, first).compile()
        began = time.perf_counter()
        state, measured = self._compiled[count](state, self._tokens, first)
        losses, norms = (np.asarray(measured[name]) for name in ("loss", "gradient_norm"))
        elapsed = time.perf_counter() - began
        for index in range(count):
            number = step + index + 1
            loss, norm = float(losses[index]), float(norms[index])
            if not np.isfinite(loss) or not np.isfinite(norm):
                self._metrics.flush()
                raise UserError(
                    f"{self._model.label}: at step {number} the loss is {loss} and the norm of the "
                    f"gradient {norm}; stopped. The metrics hold every earlier step and the last "
                    f"checkpoint is kept. A smaller learning rate than {self._model.learning_rate} "
                    "may help (with another --directory)."
                )
            self._metrics.record(
                "train",
                number,
                loss=loss,
                gradient_norm=norm,
                seconds=seconds + elapsed * (index + 1) / count,
            )
        self._loss = float(losses.mean())
        return state, seconds + elapsed


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            leaves |= _flat(value, f"{prefix}{key}.")
        else:
            leaves[f"{prefix}{key}"] = value
    return leaves
