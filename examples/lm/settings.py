"""Everything that a run can be told, and the three presets."""

import dataclasses
from pathlib import Path
from typing import Literal

from lm.errors import UserError

Preset = Literal["smoke", "cpu", "gpu"]
RowName = Literal["ppmd", "transformer", "bk"]


@dataclasses.dataclass(frozen=True)
class Training:
    """Schedule and optimiser, the same for every row but the learning rate."""

    steps: int = 2000
    batch: int = 12
    block: int = 64
    """Characters that a model sees at once."""
    warmup: int = 100
    final_share: float = 0.1
    """The cosine ends at this share of the learning rate."""
    weight_decay: float = 0.1
    """On matrices alone."""
    beta1: float = 0.9
    beta2: float = 0.99
    clip: float = 1.0
    """Largest norm of the gradient."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and products; parameters and sums stay float32."""
    seed: int = 0
    steps_per_call: int = 50
    """Steps in one compiled call; the other intervals are multiples of it."""
    evaluate_every: int = 250
    evaluation_windows: int = 200
    """Validation windows for the curves; the final figure uses all of them."""
    checkpoint_every: int = 250

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "block", "steps_per_call", "evaluation_windows"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("evaluate_every", "checkpoint_every"):
            value = getattr(self, name)
            if value < 1 or value % self.steps_per_call:
                raise UserError(
                    f"{name} must be a positive multiple of steps_per_call={self.steps_per_call}, "
                    f"got {value}"
                )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the rows share."""

    layers: int = 4
    heads: int = 4
    width: int = 128
    dropout: float = 0.0


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The plain baseline."""

    learning_rate: float = 2e-3
    hidden: int | None = None
    """Width inside the MLP; None is four times the model's."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train language models on the same text and print how well each predicts held-out text."""

    preset: Preset = "cpu"
    """smoke: < 60 s, no download. cpu: <= 15 minutes on 2 cores. gpu: one H100."""
    rows: tuple[RowName, ...] = ("ppmd", "transformer", "bk")
    ablate: bool = False
    """Also a row for each mechanism left out."""
    text: Path | None = None
    """A UTF-8 text of your own instead of Shakespeare's plays."""
    directory: Path | None = None
    """Where checkpoints, metrics and the report go; None: runs/PRESET. Run again to resume."""
    cache: Path | None = None
    """Where the downloaded plays are kept; None: $XDG_CACHE_HOME/physnet or ~/.cache/physnet."""
    sample: int = 400
    """Characters of text that each model writes at the end."""
    training: Training = Training()
    sizes: Sizes = Sizes()
    transformer: Transformer = Transformer()


PRESETS: dict[str, Settings] = {
    "smoke": Settings(
        preset="smoke",
        sample=80,
        training=Training(
            steps=60, batch=8, block=32, warmup=10, steps_per_call=10, evaluate_every=20,
            evaluation_windows=20, checkpoint_every=20,
        ),
        sizes=Sizes(layers=2, heads=2, width=32),
    ),
    "cpu": Settings(),
    "gpu": Settings(
        preset="gpu",
        training=Training(
            steps=5000, batch=64, block=256, dtype="bfloat16", steps_per_call=50,
            evaluate_every=250, evaluation_windows=256, checkpoint_every=500,
        ),
        sizes=Sizes(layers=6, heads=6, width=384, dropout=0.2),
        transformer=Transformer(learning_rate=1e-3),
    ),
}  # fmt: skip
