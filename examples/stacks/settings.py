"""Sizes of a run, and the rows that it consists of."""

from functools import partial
from typing import Any, NamedTuple

from stacks import data, pipeline, problems, training
from stacks.methods import METHODS
from stacks.training import Recipe

POST_NORM = (
    "sgd", "adam", "warmed", "normalised", "orthogonal", "isometry", "dyson", "chain", "ghost",
    "gated", "warmed-dyson", "normalised-chain", "orthogonal-dyson", "orthogonal-gated", "highway",
    "truncated", "staged",
)  # fmt: skip
PLAIN = tuple(n for n in METHODS if n not in ("highway", "truncated", "staged", "warmed-dyson"))
RESIDUAL = (
    "sgd", "adam", "normalised", "orthogonal", "dyson", "chain", "ghost", "gated", "lookahead",
    "normalised-chain", "highway", "truncated", "staged",
)  # fmt: skip
DEEPEST = ("adam", "orthogonal", "chain", "ghost", "orthogonal-gated")


def without(methods: tuple[str, ...], *names: str) -> tuple[str, ...]:
    return tuple(name for name in methods if name not in names)


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
    rates: tuple[float, ...]
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
        Pipeline(8, 16, Recipe(20, 16, 10), 4, (1,), 2.0, (1e-3, 1e-2), ("stale", "corrected")),
        (1e-3, 1e-2), 2, False, 4,
    ),
    "cpu": Preset(
        (
            Stack(
                "tanh", 50, 64, Recipe(160, 64, 20),
                without(PLAIN, "warmed", "normalised-chain", "orthogonal-dyson"),
            ),
            Stack(
                "residual", 64, 64, Recipe(80, 64, 5),
                without(RESIDUAL, "normalised", "normalised-chain", "orthogonal", "ghost"),
            ),
            Stack("tanh", 300, 64, Recipe(120, 64, 30), DEEPEST),
            Stack(
                "post-norm", 16, 32, Recipe(200, 32, 20),
                without(POST_NORM, "sgd", "normalised", "isometry", "normalised-chain",
                        "orthogonal-gated"),
            ),
        ),
        Pipeline(32, 64, Recipe(60, 64, 2), 8, (1, 4), 0.3, (1e-2, 3e-2, 1e-1, 3e-1)),
        (1e-4, 5e-4, 3e-3, 3e-2), 4, False,
    ),
    "gpu": Preset(
        (
            Stack("tanh", 50, 64, Recipe(250, 64, 10), PLAIN),
            Stack("residual", 64, 64, Recipe(120, 64, 5), RESIDUAL),
            Stack("tanh", 300, 64, Recipe(250, 64, 10),
                  without(PLAIN, "warmed", "orthogonal-dyson", "lookahead")),
            Stack("post-norm", 32, 64, Recipe(400, 64, 20), POST_NORM),
            Stack("tanh", 1000, 64, Recipe(250, 64, 25), DEEPEST),
        ),
        Pipeline(
            32, 64, Recipe(100, 64, 1), 8, (1, 4), 0.2, (3e-3, 1e-2, 2e-2, 5e-2, 0.1, 0.2, 0.5)
        ),
        (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1), 5, True,
    ),
}  # fmt: skip


def problem(stack: Any, digits: data.Split) -> problems.Problem:
    if stack.kind == "post-norm":
        return problems.transformer(stack.name, stack.depth, data.to_sort(8, 16), width=stack.width)
    branch = None if stack.kind == "tanh" else 0.1
    return problems.multilayer(stack.name, stack.depth, digits, width=stack.width, branch=branch)


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
