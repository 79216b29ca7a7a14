"""Ensembles, means of weights and distilled students: digits, and the next character of a text.

    python benchmarks/distillation.py                   # 6 minutes of one core; fetches the plays
    python benchmarks/distillation.py --preset smoke    # seconds, no download
    python benchmarks/distillation.py --draw            # the table and picture of the last run

Networks of one kind are trained from different starts on few labels (250 digits; 10,000
characters), and by as many steps:

    single              one of them: the mean of their scores, what choosing one at random gives
    ensemble            the mean of their probabilities
    mean of weights     `collapse`: the network with the mean of their parameters
    mean, one run       the same of copies that left one network after 2/3 of its training, and
                        went on with other batches
    KL(mix || s)        a student of the same size, from a start of its own, taught by the
    KL(s || mix)        ensemble's probabilities alone (no labels), on the labelled inputs or on
                        these and a transfer set of inputs without labels
    all labels          a single network told the labels of the transfer set too: what the transfer
                        set would be worth with labels. (A text's next characters stand in the
                        text: there this is what one would do.)

Accuracy, negative log-likelihood (nats) and expected calibration error (15 equal bins of the
probability of the likeliest class) on test data. Means over seeds; differences to "single" are
paired by seed, with standard errors. Writes benchmarks/results/distillation.json and
docs/pictures/distillation.png; finished seeds are kept in --folder, where a stopped run goes on.
"""

import argparse
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from distillation_report import FORWARD, REVERSE, ROWS, SCORES, draw, show, summary
from distillation_tasks import Data, Recipe, Task, digits, text
from ensemble import corpora, read_text

from physnet.superposition import distill

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "distillation.json"
PICTURE = ROOT / "docs" / "pictures" / "distillation.png"
PRESETS = {
    "smoke": {
        "digits": (
            Recipe(seeds=2, members=2, students=2, steps=30, batch=25, rate=1e-2),
            {"hidden": 8},
        ),
        "text": (
            Recipe(seeds=2, members=2, students=2, steps=3, batch=4, rate=1e-2),
            {
                "context": 8,
                "layers": 1,
                "width": 8,
                "labels": 400,
                "transfer": 400,
                "tested": 200,
                "stride": 8,
            },
        ),
    },
    "cpu": {
        "digits": (
            Recipe(seeds=20, members=8, students=4, steps=2000, batch=50, rate=3e-3),
            {"hidden": 64},
        ),
        "text": (
            Recipe(seeds=5, members=4, students=1, steps=800, batch=16, rate=4e-3),
            {
                "context": 32,
                "layers": 2,
                "width": 64,
                "labels": 10_000,
                "transfer": 40_000,
                "tested": 16_000,
                "stride": 8,
            },
        ),
    },
}


# --------------------------------------------------------------------------------------- training


class Programs:
    """A task's compiled programs, shared by all seeds; M networks are stacked on axis 0."""

    def __init__(self, task: Task):
        self.task, self.recipe = task, task.recipe
        self.optimiser = optax.adam(
            optax.cosine_decay_schedule(task.recipe.rate, self.recipe.steps)
        )
        self.start = jax.jit(jax.vmap(self._start))
        self.train = jax.jit(self._train_all, static_argnames=("direction",))
        self.log_probs = jax.jit(lambda params, x: jax.nn.log_softmax(task.apply(params, x)))
        self.targets = jax.jit(
            functools.partial(distill.ensemble_log_probs, apply=task.apply, chunk=1)
        )
        self.collapse = jax.jit(self._collapse)

    def _start(self, key):
        return distill.init(self.task.init(key), optimiser=self.optimiser)

    def _train_all(self, keys, states, data, rows, span, *, direction=None):
        """Steps `span` of the schedule, on batches of the first `rows` of the data."""
        one = functools.partial(self._train, data=data, rows=rows, span=span, direction=direction)
        return jax.vmap(one)(keys, states)

    def _train(self, key, state, *, data, rows, span, direction):
        inputs, labels, targets = data
        goal: Any = {"labels": labels, "hard_weight": 1.0}
        if direction is not None:
            goal = {"targets": targets, "direction": direction}

        def one(index, state):
            draw = jax.random.fold_in(key, index)
            at = jax.random.randint(draw, (self.recipe.batch,), 0, rows, jnp.int32)
            batch = {k: v[at] if isinstance(v, jax.Array) else v for k, v in goal.items()}
            return distill.step(
                state, inputs[at], apply=self.task.apply, optimiser=self.optimiser, **batch
            )[0]

        return jax.lax.fori_loop(*span, one, state)

    def _collapse(self, stacked, test, answers):
        def loss(params):
            found = jax.nn.log_softmax(self.task.apply(params, test))
            return -jnp.mean(jnp.take_along_axis(found, answers[..., None], -1))

        return distill.collapse(stacked, loss_fn=loss)


def run(programs: Programs, data: Data, seed: int) -> dict[str, Any]:
    """Scores of every row for one seed, and what `collapse` says of both means."""
    recipe, train = programs.recipe, programs.train
    labelled, transfer, (test, answers) = jax.tree.map(jnp.asarray, data)
    inputs, labels = (jnp.concatenate(pair) for pair in zip(labelled, transfer, strict=True))
    few, all_rows = len(labelled[0]), len(inputs)
    begin, middle, end = 0, 2 * recipe.steps // 3, recipe.steps
    keys = jax.random.split(jax.random.key(seed), 6)
    each = [jax.random.split(key, recipe.members) for key in keys[:3]]
    others = [jax.random.split(key, recipe.students) for key in keys[3:]]

    def scored(stacked):  # the mean of the scores of each
        found = [scores(programs.log_probs(x, test), answers) for x in members(stacked)]
        return {name: float(np.mean([one[name] for one in found])) for name in SCORES}

    def mean(stacked):
        found = programs.collapse(stacked, test, answers)
        signs = {
            "spread": float(found.spread),
            "loss": float(found.loss),
            "mean_loss": float(found.mean_loss),
            "barrier": float(jnp.max(found.barriers)),
            "one_basin": bool(found.one_basin),
        }
        return scores(programs.log_probs(found.params, test), answers), signs

    known = (inputs, labels, None)
    states = train(each[1], programs.start(each[0]), known, few, (begin, middle))
    teachers = train(each[1], states, known, few, (middle, end)).params
    # Copies of the first: its moments too, and batches of their own from here on.
    states = jax.tree.map(lambda x: jnp.repeat(x[:1], recipe.members, 0), states)
    copies = train(each[2], states, known, few, (middle, end)).params

    rows = {"single": scored(teachers)}
    mixed = jnp.stack([programs.log_probs(x, test) for x in members(teachers)])
    rows["ensemble"] = scores(distill.mixture_log_probs(mixed), answers)
    rows["mean of weights"], apart = mean(teachers)
    rows["mean, one run"], near = mean(copies)

    start = programs.start(others[0])  # of all students: the rows differ by what they are shown
    taught = (inputs, labels, programs.targets(teachers, inputs))
    for names, direction in ((FORWARD, "forward"), (REVERSE, "reverse")):
        for name, count in zip(names, (few, all_rows), strict=True):
            student = train(others[1], start, taught, count, (begin, end), direction=direction)
            rows[name] = scored(student.params)
    told = train(others[1], start, known, all_rows, (begin, end))
    rows["all labels"] = scored(told.params)
    return {"rows": rows, "collapse": {"mean of weights": apart, "mean, one run": near}}


def members(stacked: Any) -> list[Any]:
    """Each network of stacked ones."""
    count = len(jax.tree.leaves(stacked)[0])
    return [jax.tree.map(lambda x, k=k: x[k], stacked) for k in range(count)]


def scores(log_probs: jax.Array, labels: jax.Array) -> dict[str, float]:
    """Accuracy, mean negative log-likelihood, and expected calibration error of 15 bins."""
    found = np.asarray(log_probs, np.float64).reshape(-1, log_probs.shape[-1])
    right = np.asarray(labels).reshape(-1)
    sure, hit = np.exp(found.max(-1)), found.argmax(-1) == right
    bins = np.minimum((sure * 15).astype(int), 14)
    gaps = np.bincount(bins, hit - sure, 15)
    nats = -found[np.arange(len(right)), right].mean()
    return {
        "accuracy": float(hit.mean()),
        "nats": float(nats),
        "ece": float(np.abs(gaps).sum() / len(right)),
    }


# ---------------------------------------------------------------------------------------- command


def tasks(preset: str, cache: Path) -> list[Task]:
    recipe, sizes = PRESETS[preset]["text"]
    plays = read_text(cache, quick=preset == "smoke", block=sizes["context"])
    own, shape = PRESETS[preset]["digits"]
    return [digits(own, **shape), text(plays, recipe, **sizes)]


def kept(folder: Path | None, name: str, what: Any, made: Any) -> Any:
    """What was made before from these settings and sources, or is made now."""
    if folder is None:
        return made()
    sources = [Path(__file__), Path(__file__).with_name("distillation_tasks.py")]
    whole = repr((what, *(Path.read_text(path) for path in sources)))
    file = folder / f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:12]}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(made()))
    return json.loads(file.read_text())


def read_options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--seeds", type=int, help="at least two")
    parser.add_argument("--only", choices=("digits", "text"), help="one task")
    parser.add_argument("--folder", type=Path, default=Path("runs/distillation"))
    parser.add_argument("--cache", type=Path, default=corpora.default_cache(), help="of the plays")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    parser.add_argument("--draw", action="store_true", help="from the JSON of a run before")
    options = parser.parse_args()
    if options.seeds is not None and options.seeds < 2:
        parser.error(f"--seeds must be at least 2 for a standard error, got {options.seeds}")
    if options.preset == "smoke":
        options.folder = None
    if options.preset == "smoke" or options.only:  # not over what was measured
        if options.output == RESULTS:
            options.output = Path(f"distillation-{options.only or 'smoke'}.json")
        if options.picture == PICTURE:
            options.picture = Path(f"distillation-{options.only or 'smoke'}.png")
    return options


def measured(task: Task, options: argparse.Namespace, began: float) -> dict[str, Any]:
    """A task's recipe, sizes and summary, and what every seed gave; prints the seeds' nats."""
    programs, runs = Programs(task), []
    sizes = PRESETS[options.preset][task.name][1]
    what = (dataclasses.replace(task.recipe, seeds=0), sizes)
    for seed in range(options.seeds or task.recipe.seeds):
        made = functools.partial(lambda seed: run(programs, task.data(seed), seed), seed)
        name = f"{task.name}-{seed}"
        runs.append(kept(options.folder, name, what, made))
        rows = runs[-1]["rows"]
        line = ", ".join(f"{row} {rows[row]['nats']:.4f}" for row in ROWS)
        print(f"{time.perf_counter() - began:5.0f} s  {name}, nats: {line}", flush=True)
    count = sum(x.size for x in jax.tree.leaves(jax.eval_shape(task.init, jax.random.key(0))))
    about = {"recipe": dataclasses.asdict(task.recipe), "parameters": count, "sizes": sizes}
    return about | summary(runs) | {"runs": runs}


def main() -> None:
    options = read_options()
    if options.draw:
        report = json.loads(options.output.read_text())
        show(report)
        draw(report, options.picture)
        return
    device, began = jax.devices()[0], time.perf_counter()
    found = {
        task.name: measured(task, options, began)
        for task in tasks(options.preset, options.cache)
        if options.only in (None, task.name)
    }
    report = {
        "command": f"python benchmarks/distillation.py --preset {options.preset}",
        "device": f"{device.platform}: {device.device_kind}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "optax", "numpy")},
        "tasks": found,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    show(report)
    draw(report, options.picture)
    print(f"\nwritten: {options.output}, {options.picture}")


if __name__ == "__main__":
    main()
