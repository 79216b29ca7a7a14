"""Which rows a preset measures, the most telling ones first."""

import dataclasses
from typing import Any

from kv import dense, methods
from kv.methods import Method
from kv.model import Config
from kv.tasks import Task
from kv.training import Stage


@dataclasses.dataclass(frozen=True)
class Plan:
    """Of one kind of data.

    Args:
        model: Sizes; the vocabulary of a text is put in later.
        before: Stages with all tokens in reach, the same for all methods.
        stage: The long one, trained with each method in the loop.
        tests: Sequences of each kind to measure recall on (a text has its own number).
        chunk: Sequences that are examined at a time.
        power: Of the score that is a token's mass in the boundary memory.
    """

    model: Config
    before: tuple[Stage, ...]
    stage: Stage
    tests: int
    chunk: int
    power: float = 1.0

    @property
    def length(self) -> int:
        return self.stage.task.context


def recall(preset: str) -> Plan:
    def task(context: int, pairs: int) -> Task:
        return Task(context=context, pairs=pairs, span=pairs)

    def stage(context: int, pairs: int, batch: int, steps: int, rate: float) -> Stage:
        return Stage(task(context, pairs), batch, steps, rate)

    model = Config(task(64, 8).vocab_size)
    if preset == "smoke":
        small = Config(task(64, 8).vocab_size, layers=1, heads=1, head_dim=32, hidden=32)
        return Plan(small, (stage(64, 8, 1, 2, 1e-3),), stage(256, 8, 1, 1, 1e-3), 1, 4)
    if preset == "cpu":
        before = (stage(64, 8, 12, 450, 3e-3), stage(256, 16, 4, 60, 2e-3))
        return Plan(model, before, stage(512, 16, 2, 30, 1e-3), 16, 8)
    before = (
        stage(64, 8, 32, 800, 3e-3),
        stage(256, 24, 16, 600, 2e-3),
        stage(1024, 48, 6, 300, 1e-3),
    )
    return Plan(model, before, stage(2048, 64, 3, 150, 1e-3), 64, 16)


def text(preset: str) -> Plan:
    def stage(context: int, batch: int, steps: int, rate: float) -> Stage:
        return Stage(Task(context=context), batch, steps, rate, decay=0.1)

    if preset == "smoke":
        small = Config(0, layers=1, heads=1, head_dim=32, hidden=32)
        return Plan(small, (stage(64, 2, 2, 1e-3),), stage(256, 2, 1, 1e-3), 2, 2)
    if preset == "cpu":
        before = (stage(128, 12, 200, 3e-3),)
        return Plan(Config(0), before, stage(512, 2, 20, 1e-3), 24, 6)
    if preset == "long":  # the full context, for as small a model as two cores train in an hour
        before = (stage(256, 24, 600, 3e-3), stage(1024, 4, 200, 1.5e-3))
        small = Config(0, layers=2, heads=1)
        return Plan(small, before, stage(2048, 2, 100, 1e-3), 48, 4, power=0.1)
    model = Config(0, layers=3, heads=3, hidden=768)
    before = (stage(256, 48, 500, 3e-3), stage(1024, 8, 300, 1.5e-3))
    return Plan(model, before, stage(2048, 4, 250, 1e-3), 216, 12, power=0.1)


def post_hoc(method: Method) -> Method:
    return dataclasses.replace(method, loop=False)


def rows(kind: str, preset: str) -> list[Method]:
    """Methods in the order in which they are measured; the full cache first."""
    plan = {"recall": recall, "text": text}[kind](preset)
    length, d = plan.length, plan.model.head_dim
    whole = methods.full_bytes(length, d)

    def some(build: Any, *ratios: float, **options: Any) -> list[Method]:
        return [build(r, int(whole / r), length, d, **options) for r in ratios]

    def ours(words: str, *ratios: float) -> list[Method]:
        own = {"power": plan.power}
        return [methods.boundary_of(words, r, int(whole / r), length, d, **own) for r in ratios]

    def bits(count: int, *ratios: float) -> list[Method]:
        return [methods.few_bits(count, r, int(whole / r), length, d) for r in ratios]

    full = Method("full cache", 1, whole, dense.full)
    quant = [methods.few_bits(b, None, 0, length, d) for b in (4, 3, 2)]
    if preset == "smoke":
        return [full, *some(methods.window, 4), *some(methods.svd, 4), *ours("scored bf16", 4)]
    if preset == "cpu":
        found = [
            *ours("scored 4", 8),
            *ours("scored bf16", 4, 8),
            *some(methods.window, 4, 8),
            post_hoc(quant[2]),
            *map(post_hoc, some(methods.h2o, 4, 8)),
            *map(post_hoc, some(methods.snapkv, 4)),
            *some(methods.svd, 4),
            *some(methods.log_linear, 4),
        ]
        return [full, *found]
    if kind == "text" and preset == "long":
        return [
            full,
            *some(methods.window, 8),
            *ours("recent biased 4", 8),
            *ours("scored biased aged 4", 8, 16),
            *ours("scored biased 4", 8),
            *ours("recent 4", 8),
            *ours("recent alone 4", 8),
            *some(methods.window, 16),
            *ours("recent biased 4", 16),
        ]
    if kind == "text":
        return [
            full,
            *some(methods.window, 8, 16),
            *ours("recent biased 4", 8, 16),
            *ours("scored biased aged 4", 8, 16),
            *ours("scored biased 4", 8, 16),
            *ours("scored 4", 16, 8, 32),
            *ours("recent 4", 16, 8, 32),
            *some(methods.window, 4, 32, 64),
            *ours("recent biased 4", 32),
            *ours("scored biased 4", 32),
            *ours("recent alone 4", 16, 8, 32),
            *ours("scored alone 4", 16, 8, 32),
            *bits(4, 8, 16, 32),
            *quant[2:],
            *map(post_hoc, quant),
            *ours("scored bf16", 16, 8),
            *bits(2, 8, 16, 32),
            *ours("scored 2", 16),
            *ours("scored slowly aged 4", 8, 16, 32),
            *some(methods.h2o, 8, 16),
            *map(post_hoc, some(methods.h2o, 4, 8, 16)),
            *map(post_hoc, some(methods.snapkv, 4, 8, 16)),
            *some(methods.svd, 4, 8, 16),
            *some(methods.latent, 4, 8, 16),
            *some(methods.log_linear, 8, 16, 32),
            *ours("means", 16),
        ]
    found = [
        *ours("scored 4", 16, 8, 32, 64),
        *ours("scored bf16", 16, 8),
        *some(methods.window, 8, 16, 4, 32, 64),
        *quant,
        *map(post_hoc, quant),
        *ours("scored 2", 16, 32, 64),
        *bits(4, 8, 16, 32),
        *bits(2, 8, 16, 32),
        *some(methods.h2o, 8, 16),
        *map(post_hoc, some(methods.h2o, 4, 8, 16)),
        *map(post_hoc, some(methods.snapkv, 4, 8, 16)),
        *some(methods.snapkv, 8, 16),
        *map(post_hoc, some(methods.snapkv, 8, 16, 32, shown=True)),
        *some(methods.svd, 4, 8, 16),
        *some(methods.latent, 4, 8, 16),
        *some(methods.log_linear, 8, 16, 32),
        *ours("means", 8, 16, 32),
        *ours("scored biased 4", 8, 16),
        *ours("scored biased aged 4", 8, 16),
        *ours("scored slowly aged 4", 8, 16, 32),
        *ours("scored alone 4", 16, 32),
        *ours("recent 4", 8, 16, 32),
        *ours("scored bf16", 32),
        *ours("scored means", 16),
    ]
    return [full, *found]
