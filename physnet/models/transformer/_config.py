"""Sizes of the transformer."""

import dataclasses

from physnet import _checks, holography


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Sizes of the model; `hidden=None` means four times the width, `context` the longest input.

    `dropout` acts on the embedding, on what each part adds, and, with `drop_weights`, on the
    weights of attention, which no fused attention serves. `token_dropout` is the share of tokens
    that random ones replace in training.

    With `memory` each head attends through a boundary memory of this size, in `apply` and in
    `extend`, whose cache then does not grow with the sequence (`holography.memory.configure` sizes
    a budget of bytes). All tokens have mass 1, and weights of attention are not dropped.
    """

    vocab_size: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    hidden: int | None = None
    context: int = 64
    dropout: float = 0.0
    token_dropout: float = 0.0
    drop_weights: bool = True
    memory: holography.memory.Config | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "heads", "width", "context"):
            object.__setattr__(self, name, _checks.positive_int(name, getattr(self, name)))
        if self.hidden is None:
            object.__setattr__(self, "hidden", 4 * self.width)
        object.__setattr__(self, "hidden", _checks.positive_int("hidden", self.hidden))
        if self.width % self.heads:
            raise ValueError(f"width must be a multiple of heads={self.heads}, got {self.width}")
        for name in ("dropout", "token_dropout"):
            if not 0.0 <= _checks.number(name, getattr(self, name)) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
