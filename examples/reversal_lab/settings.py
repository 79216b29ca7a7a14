"""Sizes of a run: oscillators, a reaction-diffusion system, text."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Oscillators:
    """A neural vector field for two coupled oscillators."""

    frictions: tuple[float, ...] = (0.0, 0.1, 0.5)
    seeds: int = 10
    tuning_seeds: int = 3  # others than those reported
    trajectories: int = 8
    times: int = 20  # steps in each of them
    step: float = 0.1  # time between two
    noise: float = 0.1  # standard deviation of what is observed
    width: int = 32
    window: int = 10  # steps of a rollout in training
    batch: int = 16
    updates: int = 600
    rate: float = 5e-3
    tests: int = 64
    weights: tuple[float, ...] = (0.1, 1.0)  # of the losses of consistency


@dataclasses.dataclass(frozen=True)
class Fields:
    """A convolutional next-state model of the FitzHugh-Nagumo equations on a ring."""

    counts: tuple[int, ...] = (1, 2, 4, 8)  # of trajectories to train on
    seeds: int = 5
    tuning_seeds: int = 2
    points: int = 32
    length: float = 32.0
    frames: int = 40  # steps in a trajectory
    step: float = 0.5  # time between two
    width: int = 12
    window: int = 2  # steps of a rollout in training
    batch: int = 8
    updates: int = 300
    rates: tuple[float, ...] = (3e-3, 1e-2)
    tests: int = 16


@dataclasses.dataclass(frozen=True)
class Text:
    """Transformers that read both ways."""

    shares: tuple[float, ...] = (1.0,)  # of the text that is there to train on
    seeds: int = 3
    layers: int = 4
    heads: int = 4
    width: int = 128
    dropout: float = 0.0
    block: int = 64
    batch: int = 12
    updates: int = 600
    every: int = 100  # updates between two measurements
    rate: float = 4e-3
    dtype: str = "float32"
    held: int = 512  # windows held out at most


@dataclasses.dataclass(frozen=True)
class Preset:
    oscillators: Oscillators = Oscillators()
    fields: Fields = Fields()
    text: Text = Text()


PRESETS = {
    "smoke": Preset(
        Oscillators(
            frictions=(0.0, 0.5), seeds=2, tuning_seeds=1, times=8, width=8, window=4, batch=4,
            updates=20, tests=8,
        ),
        Fields(
            counts=(1, 2), seeds=2, tuning_seeds=1, points=16, length=16.0, frames=24, width=4,
            updates=10, tests=2,
        ),
        Text(
            seeds=2, layers=1, heads=2, width=16, block=16, batch=4, updates=20,
            every=10, held=16,
        ),
    ),
    "cpu": Preset(text=Text(shares=(1.0, 0.1))),
    "gpu": Preset(
        Oscillators(seeds=20, tuning_seeds=6, updates=1500, weights=(0.01, 0.1, 1.0, 10.0)),
        Fields(
            seeds=10, tuning_seeds=3, points=64, length=64.0, width=24, window=4, batch=16,
            updates=1500, rates=(1e-3, 3e-3, 1e-2, 3e-2),
        ),
        Text(
            shares=(1.0, 0.1), heads=6, width=192, dropout=0.1, block=128, batch=64, updates=1500,
            every=50, rate=2e-3, dtype="bfloat16",
        ),
    ),
}  # fmt: skip
