"""Everything that a run can be told, and the three presets."""

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

from lm.errors import UserError
from lm.scale import ALONE, ONE_DEVICE, Input, Mesh, Process

Preset = Literal["smoke", "cpu", "gpu"]
RowName = Literal[
    "ppmd", "transformer", "bk", "bk-experts", "bk-mixer", "bk-attention", "bk-dense",
    "bk-all-pairs", "bk-window", "bk-no-band", "bk-soft", "bk-hopping", "bk-narrow", "bk-memory",
    "bk-teleport", "bk-isometry", "bk-reversible",
]  # fmt: skip

Direction = Literal["forward", "reverse"]


def _require(group: str | None, settings: Any, name: str, sound: Any, expected: str) -> None:
    value = getattr(settings, name)
    if not sound(value):
        option = f"--{group}.{name}" if group else f"--{name}"
        raise UserError(f"{option.replace('_', '-')} must be {expected}, got {value}")


def _rates(group: str, settings: Any) -> None:
    for name in ("dropout", "token_dropout"):
        sound = lambda value: value is None or 0 <= value < 1  # noqa: E731
        _require(group, settings, name, sound, "in [0, 1)")


@dataclasses.dataclass(frozen=True)
class Training:
    """Schedule and optimiser, the same for every row but the learning rate."""

    steps: int = 2000
    """Updates of the parameters."""
    batch: int = 12
    """Windows of text in a step."""
    block: int = 64
    """Characters that a model sees at once."""
    warmup: int = 100
    """Steps over which the learning rate rises."""
    final_share: float = 0.1
    """The cosine ends at this share of the learning rate."""
    weight_decay: float = 0.1
    """On matrices alone."""
    beta1: float = 0.9
    """Decay of AdamW's mean gradient."""
    beta2: float = 0.99
    """Decay of AdamW's mean square."""
    clip: float = 1.0
    """Largest norm of the gradient."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Of activations and products; parameters and sums stay float32."""
    seed: int = 0
    """Of parameters, batches and dropout."""
    steps_per_call: int = 50
    """Steps in one compiled call; the next two settings are multiples of it."""
    evaluate_every: int = 250
    """Steps between two points of the validation curve."""
    checkpoint_every: int = 250
    """A kill costs at most this many steps."""
    evaluation_windows: int = 2048
    """Held-out windows for the curve, evenly spread; the final figure uses all there are."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "block", "steps_per_call", "evaluation_windows"):
            _require("training", self, name, lambda value: value >= 1, "at least 1")
        for name in ("warmup", "weight_decay", "seed"):
            _require("training", self, name, lambda value: value >= 0, "at least 0")
        for name in ("beta1", "beta2", "final_share"):
            _require("training", self, name, lambda value: 0 <= value <= 1, "in [0, 1]")
        _require("training", self, "clip", lambda value: value > 0, "above 0")
        for name in ("evaluate_every", "checkpoint_every"):
            _require(
                "training",
                self,
                name,
                lambda value: value >= 1 and value % self.steps_per_call == 0,
                f"a positive multiple of --training.steps-per-call {self.steps_per_call}",
            )


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the trained rows share."""

    layers: int = 4
    """Blocks of a model."""
    heads: int = 4
    """Attention heads."""
    width: int = 128
    """Channels of the residual stream."""
    dropout: float = 0.0
    """Share of activations set to zero in training."""


@dataclasses.dataclass(frozen=True)
class Transformer:
    """The plain baseline."""

    learning_rate: float = 2e-3
    """Peak of its schedule."""
    hidden: int | None = None
    """Width inside the MLP; None is four times the model's."""
    dropout: float | None = None
    """Share of activations set to zero in training; None is that of --sizes."""
    token_dropout: float = 0.0
    """Share of characters that a training step replaces by random ones where the model reads them:
    a remedy where a text is read many times."""

    def __post_init__(self) -> None:
        _require("transformer", self, "learning_rate", lambda value: value > 0, "above 0")
        _rates("transformer", self)


@dataclasses.dataclass(frozen=True)
class BKCore:
    """BK-Core and its ablations; the width inside their MLP follows from the transformer's size."""

    learning_rate: float = 2e-3
    """Peak of its schedule."""
    chains: int = 16
    """Hamiltonians in a layer, a multiple of the heads."""
    density: float = 0.4
    """Share of the causal pairs that the gates are calibrated to keep."""
    local_window: int = 8
    """Nearest tokens that attention always keeps."""
    hidden_multiple: int = 1
    """The width inside the MLP is a multiple of this, and of 8 with bfloat16; that of --mesh.tensor
    splits it."""
    dropout: float | None = None
    """Share of activations set to zero in training; None is that of --sizes."""
    token_dropout: float = 0.0
    """Share of characters that a training step replaces by random ones where the model reads them:
    a remedy where a text is read many times."""
    experts: int = 8
    """Feed-forwards of a layer in the row bk-experts; each token passes through one."""
    teleport: float = 0.01
    """Strength with which gradients jump over blocks in the row bk-teleport."""
    teleport_mode: Literal["dyson", "chain", "gated"] = "dyson"
    """Which gradients jump: all, those of plain backpropagation, or all where blocks allow it."""
    isometry: float = 1e-4
    """Weight of the penalty on blocks that change lengths in the row bk-isometry, about 1 / (block
    x width)."""
    isometry_windows: int = 2
    """Windows of a batch that the penalty sees (256 characters of each at most)."""

    def __post_init__(self) -> None:
        _require("bk", self, "learning_rate", lambda value: value > 0, "above 0")
        _rates("bk", self)
        for name in ("teleport", "isometry"):
            _require("bk", self, name, lambda value: 0 < value < math.inf, "finite and above 0")
        for name in ("experts", "isometry_windows", "hidden_multiple"):
            _require("bk", self, name, lambda value: value >= 1, "at least 1")


@dataclasses.dataclass(frozen=True)
class Superposition:
    """Of the rows that --ensemble, --distill and --refine add."""

    labels: float = 0.5
    """Share of the text itself in a student's loss; the rest is the ensemble's mixture."""
    pairs: float = 0.3
    """Share of the causal pairs that refined thresholds may keep."""
    generations: int = 20
    """Updates of the thresholds."""
    particles: int = 12
    """Sets of thresholds that an update tries."""
    windows: int = 128
    """Windows of the held-back text on which they are tried; few are soon learned by heart."""

    def __post_init__(self) -> None:
        for name in ("labels", "pairs"):
            _require("superposition", self, name, lambda value: 0 <= value <= 1, "in [0, 1]")
        for name in ("generations", "windows"):
            _require("superposition", self, name, lambda value: value >= 1, "at least 1")
        _require("superposition", self, "particles", lambda value: value >= 4, "at least 4")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Train language models on the same text and print how well each predicts held-out text."""

    preset: Preset = "cpu"
    """smoke: < 60 s, no download. cpu: <= 15 minutes on 2 cores. gpu: one H200."""
    rows: tuple[RowName, ...] = ("ppmd", "transformer", "bk")
    """Rows of the table: a compressor as a yardstick, the baseline, BK-Core, it with experts, and
    those of --ablate: the mixer alone, gated or dense attention alone; and BK-Core with all pairs,
    a sliding window of as many, no local window, a soft gate, learned hopping, narrow experts, a
    boundary memory, gradients that jump over blocks, a penalty on blocks that change lengths,
    blocks that keep no activations."""
    ablate: bool = False
    """Also a row for each mechanism of BK-Core left out, and for each one more."""
    ensemble: int = 0
    """Also a row of so many BK-Cores of consecutive seeds, trained by one program; 2 or more."""
    distill: tuple[Direction, ...] = ()
    """Also BK-Cores that learn the ensemble's mixture: forward, by KL(mixture || student), and
    reverse, by KL(student || mixture)."""
    refine: bool = False
    """Also a row of BK-Core with a threshold of its own for each head, found by path integrals on a
    twentieth of the training text, which is then held back from every row."""
    text: Path | None = None
    """A UTF-8 text of your own instead of Shakespeare's plays."""
    plays: Literal["nine", "all"] = "nine"
    """The nine of the tiny-shakespeare text (1.1 million characters), or all 38 (4.6 million)."""
    directory: Path | None = None
    """Where checkpoints, metrics and the report go; None: runs/PRESET. Run again to resume."""
    cache: Path | None = None
    """Where the downloaded plays are kept; None: $XDG_CACHE_HOME/physnet or ~/.cache/physnet."""
    sample: int = 400
    """Characters of text that each model writes at the end."""
    temperature: float = 0.8
    """Of the sample: below 1 prefers likely characters."""
    depths: tuple[int, ...] = (2, 4, 8, 16)
    """Numbers of layers at which the memory of a training step is measured."""
    training: Training = Training()
    sizes: Sizes = Sizes()
    transformer: Transformer = Transformer()
    bk: BKCore = BKCore()
    superposition: Superposition = Superposition()
    input: Input = "device"
    """device: the text lies on every device, and batches are drawn there. grain: it stays on disk,
    and each process reads its part of every batch (pip install grain); for texts larger than
    memory."""
    mesh: Mesh = ONE_DEVICE
    distributed: bool = False
    """Start together with other processes, which run the same command."""
    process: Process = ALONE

    def __post_init__(self) -> None:
        _require(None, self, "rows", lambda value: len(value) > 0, "at least one row")
        _require(None, self, "sample", lambda value: value >= 0, "at least 0")
        _require(None, self, "temperature", lambda value: value > 0, "above 0")
        _require(None, self, "depths", lambda value: all(d >= 1 for d in value), "at least 1 each")
        _require(None, self, "ensemble", lambda value: value == 0 or value >= 2, "0, or at least 2")
        if self.distill and not self.ensemble:
            raise UserError("--distill needs an ensemble to learn from: give --ensemble as well")
        if self.process != ALONE and not self.distributed:
            raise UserError("--process.* tell which process this is of --distributed: give it too")
        alone = {"--ensemble": self.ensemble, "--refine": self.refine}
        one = [option for option, given in alone.items() if given]
        if one and (self.distributed or self.mesh != ONE_DEVICE or self.input != "device"):
            raise UserError(
                f"{' and '.join(one)} run on one device and text there: leave --mesh, "
                "--distributed and --input out"
            )


PRESETS: dict[str, Settings] = {
    "smoke": Settings(
        preset="smoke",
        sample=80,
        depths=(1, 2),
        training=Training(
            steps=60, batch=8, block=32, warmup=10, steps_per_call=10, evaluate_every=20,
            checkpoint_every=20,
        ),
        sizes=Sizes(layers=2, heads=2, width=32),
        bk=BKCore(chains=8, local_window=4),
    ),
    "cpu": Settings(
        transformer=Transformer(learning_rate=4e-3), bk=BKCore(learning_rate=1e-3)
    ),
    "gpu": Settings(
        preset="gpu",
        depths=(6,),
        training=Training(
            steps=2000, batch=64, block=256, dtype="bfloat16", weight_decay=1.0, steps_per_call=50,
            checkpoint_every=500,
        ),
        sizes=Sizes(layers=6, heads=6, width=384),
        transformer=Transformer(learning_rate=1e-3, dropout=0.2),
        bk=BKCore(
            learning_rate=1e-3, chains=24, isometry=1e-5, dropout=0.2, token_dropout=0.15
        ),
    ),
}  # fmt: skip
