"""One row of the table: trained, measured, and asked for a sample of text."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lm import memory, metrics, ppmd, processes, sampling
from lm.checkpoints import digest
from lm.corpus import Corpus
from lm.devices import ONE, OneDevice
from lm.evaluation import Evaluation, Evaluator
from lm.members import mixture
from lm.rows import Model
from lm.settings import Settings, Training
from lm.training import Trained, train

GATE_MAP = 48
"""Characters of the gate map: as many as stay legible."""
SPECIALISATION = 64
"""Windows of held-out text that show which expert takes which characters."""


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a validation curve."""

    step: int
    tokens: int
    seconds: float
    nats: float


@dataclasses.dataclass(frozen=True)
class Gate:
    """The share of one layer's heads that keep each pair (query, key) of a held-out text."""

    text: str
    kept: np.ndarray


@dataclasses.dataclass(frozen=True)
class Experts:
    """Of each layer the share of the tokens that each expert takes; and in the last layer the
    share of each class of characters that it takes."""

    load: tuple[tuple[float, ...], ...]
    taken: dict[str, tuple[float, ...]]


@dataclasses.dataclass(frozen=True)
class Part:
    """Figures of something that is no row of its own."""

    label: str
    nats: float
    accuracy: float
    kept_pairs: float


@dataclasses.dataclass(frozen=True)
class Result:
    """The figures of a row; None and empty where a row has none."""

    name: str
    label: str
    nats: float
    parameters: int | None = None
    kept_pairs: float | None = None
    tokens_per_second: float | None = None
    seconds: float | None = None
    layers: int | None = None
    memory: dict[int, int] = dataclasses.field(default_factory=dict)
    """Temporary bytes of a training step for each number of layers."""
    experts: Experts | None = None
    curve: tuple[Point, ...] = ()
    gate: Gate | None = None
    sample: str = ""
    digest: str = ""
    """Of the final parameters."""
    accuracy: float | None = None
    """Share of the characters that the likeliest guess hits."""
    parts: tuple[Part, ...] = ()
    """What the row is to be compared with: the models of an ensemble, say."""

    @property
    def bits(self) -> float:
        return self.nats / math.log(2.0)

    def nats_at(self, seconds: float) -> float | None:
        """The curve at a time of training; None before its first point."""
        times = [point.seconds for point in self.curve]
        if not times or seconds < times[0]:
            return None
        return float(np.interp(seconds, times, [point.nats for point in self.curve]))


def compressor(corpus: Corpus) -> Result:
    """The row of PPMd."""
    return Result("ppmd", f"PPMd, order {ppmd.ORDER}", ppmd.nats(*corpus.texts()))


def trained(
    model: Model,
    corpus: Corpus,
    settings: Settings,
    folder: Path,
    *,
    console: Console,
    devices: OneDevice = ONE,
) -> Result:
    """The row of a model: trained (or resumed, or found trained) in its folder, then measured."""
    evaluator = held_out(model, corpus, settings, devices=devices)
    options: Any = {"devices": devices, "input": settings.input}
    done = train(model, corpus, settings.training, evaluator, folder, console=console, **options)
    return measured(model, done, corpus, settings, folder, evaluator=evaluator, devices=devices)


def held_out(
    model: Model, corpus: Corpus, settings: Settings, *, devices: OneDevice = ONE
) -> Evaluator:
    """Measures a row on held-out text, an ensemble by its mixture."""
    training = settings.training
    options: Any = {"block": training.block, "dtype": training.dtype, "devices": devices}
    return Evaluator(mixture(model), corpus.validation, **options)


def part(label: str, found: Evaluation) -> Part:
    return Part(label, found.nats, found.accuracy, found.kept_pairs)


def measured(
    model: Model,
    done: Trained,
    corpus: Corpus,
    settings: Settings,
    folder: Path,
    *,
    evaluator: Evaluator,
    devices: OneDevice = ONE,
) -> Result:
    """The row of a model whose schedule is over; only the first process makes all of it."""
    training, params, whole = settings.training, done.params, mixture(model)
    final = evaluator.evaluate(params)
    if not processes.first():
        return Result(model.name, model.label, final.nats)
    # Programs of several processes are compiled by all of them at once, or by none.
    depths = settings.depths if not processes.several() else ()
    text = None if settings.input == "grain" else len(corpus.train)
    tokens = training.batch * training.block
    return Result(
        name=model.name,
        label=model.label,
        nats=final.nats,
        parameters=sum(leaf.size for leaf in jax.tree.leaves(params)),
        kept_pairs=final.kept_pairs,
        tokens_per_second=training.steps * tokens / done.seconds,
        seconds=done.seconds,
        layers=model.config.layers,
        memory={model.config.layers: done.memory}
        | memory.at_other_depths(model, training, depths, text=text, devices=devices),
        experts=_experts(model, params, corpus, training, final.experts),
        curve=tuple(
            Point(record["step"], record["step"] * tokens, record["seconds"], record["loss"])
            for record in metrics.read(folder / "metrics.jsonl")
            if record["kind"] == "validation"
        ),
        gate=_gate(whole, params, corpus.validation[: min(training.block, GATE_MAP)], corpus),
        sample=sampling.write(
            whole,
            params,
            corpus,
            settings.sample,
            context=training.block,
            temperature=settings.temperature,
            dtype=jnp.dtype(training.dtype),
            seed=training.seed,
        ),
        digest=digest(params),
        accuracy=final.accuracy,
    )


def _gate(model: Model, params: Any, piece: np.ndarray, corpus: Corpus) -> Gate | None:
    if model.pairs is None:
        return None
    pairs = jax.jit(model.pairs, static_argnums=0)
    kept = np.asarray(
        pairs(model.config, params, jnp.asarray(piece, jnp.int32)[None])[-1, 0], np.float64
    )
    return Gate(corpus.decode(piece), kept.mean(axis=0))


def _experts(
    model: Model,
    params: Any,
    corpus: Corpus,
    training: Training,
    load: tuple[tuple[float, ...], ...],
) -> Experts | None:
    if not load:
        return None
    count = min(SPECIALISATION, max(1, len(corpus.validation) // training.block))
    text = corpus.validation[: count * training.block]
    rows = jnp.asarray(text, jnp.int32).reshape(count, -1)

    @jax.jit
    def chosen(params: Any, rows: jax.Array) -> jax.Array:
        dtype = jnp.dtype(training.dtype)
        _, info = model.apply(model.config, params, rows, dtype=dtype, return_info=True)
        return info["expert"][-1, ..., 0]

    expert = np.asarray(chosen(params, rows)).reshape(-1)
    kinds = np.array([kind_of(character) for character in corpus.decode(text)])
    taken = {}
    for kind in KINDS:
        if (here := kinds == kind).any():
            counts = np.bincount(expert[here], minlength=len(load[-1]))
            taken[kind] = tuple((counts / here.sum()).tolist())
    return Experts(load, taken)


KINDS = ("vowels", "other letters", "capitals", "digits", "punctuation", "spaces", "line breaks")


def kind_of(character: str) -> str:
    """The one of KINDS that a character belongs to."""
    if character == "\n":
        return "line breaks"
    if character.isspace():
        return "spaces"
    if character.isalpha():
        if character.isupper():
            return "capitals"
        return "vowels" if character in "aeiou" else "other letters"
    return "digits" if character.isdigit() else "punctuation"
