"""Sizes of a boundary memory, and those that fit a budget of bytes."""

import dataclasses
import math
from typing import Any, Literal

import jax.numpy as jnp

from physnet import _checks


@dataclasses.dataclass(frozen=True)
class Config:
    """How many entries each part of a memory has; all of it static.

    Attributes:
        window: The last so many tokens before the current block are kept as they came, a multiple
            of `block`.
        block: So many tokens leave the window together.
        sinks: The first so many tokens are kept as they came, for ever.
        landmarks: Of the tokens that left the window, so many of the highest score are kept apart.
        per_level: A level holds so many slots, at least 2; with one more its two oldest merge.
        levels: A slot of level l stands for 2^l blocks. With 0 levels what is no landmark is
            forgotten. In the last level the two oldest slots merge in place: there is no longest
            sequence, and beyond (per_level + 1) 2^(levels - 1) blocks its first slot is coarser.
            In float32 positions are exact for 2^24 tokens, and are rounded from there on.
        bits: 8, 4 or 2 bits for a channel of landmarks and slots; None keeps them as they came.
        merge: "mean" gives a token to the slot of its own block, "kernel" to that and its
            neighbours, with weights of the bulk-to-boundary kernel. Attention over white, 1/f and
            1/f^2 sequences of 1,024 tokens errs by up to 2% more with "kernel".
        recency: As a landmark a token's mass counts e times less for each so many tokens that
            another one is newer; None: only masses count, and age between equal ones. It says
            which tokens are kept, not what they weigh.

    Raises:
        ValueError, TypeError: Sizes out of these ranges.

    Example:
        >>> config = Config(window=64, block=16, sinks=4, landmarks=32, per_level=4, levels=12)
        >>> config.ring, config.slots, config.nbytes(64)
        (80, 48, 84948)
    """

    window: int = 64
    block: int = 16
    sinks: int = 4
    landmarks: int = 32
    per_level: int = 4
    levels: int = 12
    bits: Literal[8, 4, 2] | None = None
    merge: Literal["mean", "kernel"] = "mean"
    recency: float | None = None

    def __post_init__(self) -> None:
        _checks.positive_int("block", self.block)
        for name in ("window", "sinks", "landmarks", "levels"):
            _checks.positive_int(name, getattr(self, name), minimum=0)
        _checks.positive_int("per_level", self.per_level, minimum=2)
        if self.window % self.block:
            raise ValueError(f"window must be a multiple of block={self.block}, got {self.window}")
        if self.levels > 24:
            raise ValueError(f"levels must be at most 24, got {self.levels}")
        if self.bits is not None:
            _checks.one_of("bits", _checks.positive_int("bits", self.bits), (8, 4, 2))
        _checks.one_of("merge", self.merge, ("mean", "kernel"))
        recency = 1.0 if self.recency is None else _checks.number("recency", self.recency)
        if not 0 < recency < math.inf:
            raise ValueError(f"recency must be positive and finite, or None, got {self.recency}")

    @property
    def slots(self) -> int:
        """Slots of all levels."""
        return self.per_level * self.levels

    @property
    def ring(self) -> int:
        """Rows for the window and the current block."""
        return self.window + self.block

    def nbytes(self, head_dim: int, *, value_dim: int | None = None, dtype: Any = None) -> int:
        """Bytes of a memory of this size, with all that it needs: masses, positions, scales.

        Args:
            head_dim: d, channels of a key.
            value_dim: channels of a value; None for d.
            dtype: of keys and values that are kept as they came; None for float32.

        Returns:
            The sum over the leaves of `init`.
        """
        size = jnp.dtype(jnp.float32 if dtype is None else dtype).itemsize
        wide = max(4, size)
        dims = (head_dim, head_dim if value_dim is None else value_dim)
        near = sum(dims) * size + wide
        far = sum(dims) * size if self.bits is None else sum(d * self.bits // 8 + 4 for d in dims)
        rows = self.landmarks + self.slots
        return 4 + (self.sinks + self.ring) * near + rows * (far + 2 * wide)


def levels_for(tokens: int, *, block: int, per_level: int) -> int:
    """Levels with which a sequence of so many tokens never merges in the last level."""
    inserted, levels = -(-tokens // block), 1
    while inserted > per_level:
        inserted, levels = (inserted - per_level + 1) // 2, levels + 1
    return levels


SHAPES = ((16, 4), (16, 2), (8, 2), (4, 2))  # block, per_level: from the largest budget on


def configure(
    budget_bytes: int,
    head_dim: int,
    *,
    value_dim: int | None = None,
    dtype: Any = jnp.float32,
    bits: Literal[8, 4, 2] | None = None,
    block: int | None = None,
    sinks: int = 4,
    per_level: int | None = None,
    levels: int | None = None,
    longest: int = 2**17,
    window_share: float = 0.5,
    merge: Literal["mean", "kernel"] = "mean",
    recency: float | None = None,
) -> Config:
    """The memory that fits a budget: levels first, the rest shared by window and landmarks.

    Args:
        budget_bytes: of one head of one sequence, keys and values and all that goes with them.
        head_dim, value_dim, dtype, bits: as in `init` and `Config`.
        block, per_level: as in `Config`; None for the largest of 16 and 4 down to 4 and 2 with
            which levels, sinks and a block take half of the budget at most.
        sinks, merge, recency: as in `Config`.
        levels: as in `Config`; None for as many as `longest` tokens fill.
        longest: tokens; a longer sequence is only coarser.
        window_share: of the bytes that are left then, the part for the window.

    Returns:
        A `Config` with `nbytes` at most `budget_bytes`.

    Raises:
        ValueError: not even the smallest memory, without window and landmarks, fits.

    Example:
        >>> config = configure(65_536, 64)
        >>> config.window, config.landmarks, config.levels, config.nbytes(64)
        (32, 48, 13, 65316)
    """
    for name, size in (
        ("budget_bytes", budget_bytes),
        ("head_dim", head_dim),
        ("value_dim", head_dim if value_dim is None else value_dim),
        ("longest", longest),
        ("block", 1 if block is None else block),
    ):
        _checks.positive_int(name, size)
    _checks.positive_int("per_level", 2 if per_level is None else per_level, minimum=2)
    if bits is not None:
        _checks.one_of("bits", _checks.positive_int("bits", bits), (8, 4, 2))
    if not 0.0 <= _checks.number("window_share", window_share) <= 1.0:
        raise ValueError(f"window_share must be in [0, 1], got {window_share}")

    def nbytes(config: Config) -> int:
        return config.nbytes(head_dim, value_dim=value_dim, dtype=dtype)

    def smallest(block: int, per_level: int) -> Config:
        deep = levels_for(longest, block=block, per_level=per_level) if levels is None else levels
        return Config(0, block, sinks, 0, per_level, deep, bits, merge, recency)

    given = (block, per_level)
    shapes = [
        tuple(x if y is None else y for x, y in zip(own, given, strict=True)) for own in SHAPES
    ]
    bases = [smallest(*shape) for shape in shapes]
    base = next((x for x in bases if 2 * nbytes(x) <= budget_bytes), min(bases, key=nbytes))
    left = budget_bytes - nbytes(base)
    if left < 0:
        raise ValueError(
            f"budget_bytes must be at least {nbytes(base)}, what {base} takes, got {budget_bytes}"
        )
    more = [
        nbytes(dataclasses.replace(base, **{name: count})) - nbytes(base)
        for name, count in (("window", base.block), ("landmarks", 1))
    ]
    blocks = int(left * window_share) // more[0]
    landmarks = (left - blocks * more[0]) // more[1] if window_share < 1.0 else 0
    return dataclasses.replace(base, window=blocks * base.block, landmarks=landmarks)
