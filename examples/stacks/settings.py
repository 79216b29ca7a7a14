"""Sizes of a run, and the rows that it consists of."""

from functools import partial
from typing import Any, NamedTuple

from stacks import data, pipeline, problems, training
from stacks.methods import METHODS
from stacks.training import Recipe

POST_NORM = (
    "sgd", "adam", "warmed", "normalised", "orthogonal", "isometry", "dyson", "chain", "ghost",
    "gated", "warmed-dyson", "normalised-chain", "orthogonal-dyson", "orthogonal-gated",
    "orthogonal-warmed", "orthogonal-warmed-dyson", "matched", "matched-dyson", "deepnorm",
    "deepnorm-dyson", "highway", "truncated", "staged",
)  # fmt: skip
PLAIN = (
    "sgd", "adam", "warmed", "normalised", "orthogonal", "retracted", "isometry", "dyson", "chain",
    "ghost", "gated", "lookahead", "normalised-chain", "orthogonal-chain", "orthogonal-gated",
    "orthogonal-dyson",
)  # fmt: skip
RESIDUAL = (
    "sgd", "adam", "normalised", "orthogonal", "dyson", "chain", "ghost", "gated", "lookahead",
    "normalised-chain", "highway", "truncated", "staged",
)  # fmt: skip
DIGITS_NATS, SORTING_NATS = 0.12, 0.45
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
    kind: str  # as of a stack
    depth: int
    width: int
    recipe: Recipe
    stages: int
    delays: tuple[int, ...]
    target: float  # test nats
    rates: tuple[float, ...]
    adam: bool = False
    schemes: tuple[str, ...] = tuple(pipeline.SCHEMES)

    @property
    def name(self) -> str:
        return f"pipeline, {self.kind} {self.depth}"


class Preset(NamedTuple):
    """Rows in order: stacks, pipelines after the first three, methods; see --budget."""

    stacks: tuple[Stack, ...]
    pipelines: tuple[Pipeline, ...]
    rates: tuple[float, ...]
    seeds: int
    joint: bool  # all rates with all seeds in one run: where width is free
    stages: int = 8


PRESETS = {
    "smoke": Preset(
        (Stack("residual", 8, 16, Recipe(20, 16, 10), ("adam", "truncated", "staged")),),
        (
            Pipeline("residual", 8, 16, Recipe(20, 16, 10), 4, (1,), 2.0, (1e-3, 1e-2), False,
                     ("synchronous", "stale", "corrected")),
            Pipeline("pre-norm", 4, 8, Recipe(20, 8, 10), 4, (1,), 2.5, (1e-3, 1e-2), True,
                     ("slowed", "teleported")),
        ),
        (1e-3, 1e-2), 2, False, 4,
    ),
    "cpu": Preset(
        (
            Stack(
                "post-norm", 16, 32, Recipe(200, 32, 20),
                without(POST_NORM, "sgd", "normalised", "isometry", "normalised-chain",
                        "orthogonal-gated"),
            ),
            Stack("tanh", 300, 64, Recipe(120, 64, 30), DEEPEST),
            Stack(
                "residual", 64, 64, Recipe(80, 64, 5),
                without(RESIDUAL, "normalised", "normalised-chain", "orthogonal", "ghost"),
            ),
            Stack(
                "tanh", 50, 64, Recipe(160, 64, 20),
                without(PLAIN, "warmed", "normalised-chain", "orthogonal-dyson"),
            ),
        ),
        (
            Pipeline("residual", 32, 64, Recipe(90, 64, 2), 8, (1, 4), DIGITS_NATS,
                     (3e-3, 1e-2, 3e-2, 1e-1)),
            Pipeline("pre-norm", 16, 32, Recipe(400, 32, 10), 8, (1,), SORTING_NATS,
                     (3e-4, 1e-3, 3e-3, 1e-2), True),
        ),
        (1e-4, 5e-4, 3e-3, 3e-2), 4, False,
    ),
    "gpu": Preset(
        (
            Stack("post-norm", 32, 64, Recipe(300, 64, 20), POST_NORM),
            Stack("tanh", 300, 64, Recipe(250, 64, 25),
                  without(PLAIN, "warmed", "orthogonal-dyson", "lookahead")),
            Stack("residual", 64, 64, Recipe(120, 64, 5), RESIDUAL),
            Stack("tanh", 50, 64, Recipe(250, 64, 10), PLAIN),
            Stack("tanh", 1000, 64, Recipe(150, 64, 50), DEEPEST),
        ),
        (
            Pipeline("pre-norm", 16, 32, Recipe(1000, 32, 10), 8, (1, 4), SORTING_NATS,
                     (1e-4, 3e-4, 1e-3, 2e-3, 3e-3, 5e-3, 1e-2, 3e-2), True),
            Pipeline("residual", 32, 64, Recipe(200, 64, 1), 8, (1, 4), DIGITS_NATS,
                     (1e-3, 3e-3, 1e-2, 2e-2, 3e-2, 5e-2, 0.1, 0.2, 0.5)),
        ),
        (3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3), 5, True,
    ),
}  # fmt: skip


def problem(
    place: Stack | Pipeline, digits: data.Split, *, deepnorm: bool = False
) -> problems.Problem:
    name, depth, width = place.name, place.depth, place.width
    if place.kind.endswith("-norm"):
        branch = None if place.kind == "post-norm" else 0.1
        rows = data.to_sort(8, 16)
        skip = (2 * depth) ** 0.25 if deepnorm else 1.0
        return problems.transformer(name, depth, rows, width=width, branch=branch, skip=skip)
    branch = None if place.kind == "tanh" else 0.1
    return problems.multilayer(name, depth, digits, width=width, branch=branch)


def key(place: Stack | Pipeline, name: Any) -> tuple[Any, ...]:
    """Which row it is; synchronous training has no delay."""
    method, delay = (name, None) if isinstance(place, Stack) else name
    return place.name, method, None if method == "synchronous" else delay


def key_of(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["stack"], row["method"], row.get("delay")


def jobs(preset: Preset, digits: data.Split) -> list[tuple[Stack | Pipeline, Any, Any]]:
    """All rows, (stack, method) and (pipeline, (scheme, delay)), with what makes their programs."""
    rows: list[tuple[Stack | Pipeline, Any, Any]] = []
    for place in (*preset.stacks[:3], *preset.pipelines, *preset.stacks[3:]):
        posed = problem(place, digits)
        if isinstance(place, Stack):
            scaled = problem(place, digits, deepnorm=True)
            for name in place.methods:
                deepnorm = METHODS[name].start == "deepnorm"
                make = partial(
                    training.program,
                    scaled if deepnorm else posed,
                    METHODS[name],
                    place.recipe,
                    stages=preset.stages,
                )
                rows.append((place, name, make))
            continue
        for scheme in place.schemes:
            for delay in place.delays[:1] if scheme == "synchronous" else place.delays:
                make = partial(
                    pipeline.program, posed, scheme, place.recipe,
                    stages=place.stages, delay=delay, adam=place.adam,
                )  # fmt: skip
                rows.append((place, (scheme, delay), make))
    return rows
