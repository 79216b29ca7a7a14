"""Batches of a text that stays on disk, read ahead of need by grain."""

import importlib.util
from typing import Any, NamedTuple

import numpy as np

from lm.errors import UserError
from lm.settings import Training


class Windows(NamedTuple):
    """Every window of a text, by the place where it begins."""

    tokens: np.ndarray
    length: int

    def __len__(self) -> int:
        return len(self.tokens) - self.length + 1

    def __getitem__(self, start: Any) -> np.ndarray:
        return np.asarray(self.tokens[int(start) : int(start) + self.length], np.int32)


class Feed:
    """The batches of a run, in order; each process reads its own rows of them and no others.

    Windows come in a random order that is a function of the seed alone, each once before any comes
    again: the same batches on any number of processes.

    Args:
        tokens: the text, memory-mapped or not.
        training: sizes of a batch, and the seed.
        rows: which rows of a batch this process reads, from and to; a batch is made of whole such
            parts.
    """

    def __init__(self, tokens: np.ndarray, training: Training, rows: tuple[int, int]) -> None:
        if importlib.util.find_spec("grain") is None:
            raise UserError("--input grain needs the package grain: pip install grain")
        import grain

        size = rows[1] - rows[0]
        source = Windows(tokens, training.block + 1)
        # What is sliced must have an end: one that no run comes to, nor a look ahead.
        last = (training.steps + training.steps_per_call) * training.batch
        every = grain.MapDataset.source(source).seed(training.seed).shuffle()
        every = every.repeat(1 + last // len(source))
        own = every.batch(size)[rows[0] // size :: training.batch // size]
        self._batches = iter(own.to_iter_dataset())

    def take(self, count: int) -> np.ndarray:
        """Those rows of the next `count` batches: (count, rows, block + 1)."""
        return np.stack([next(self._batches) for _ in range(count)])

    def peek(self, count: int) -> np.ndarray:
        """What `take` will give, without moving on."""
        state = self.state
        found = self.take(count)
        self.state = state
        return found

    @property
    def state(self) -> dict[str, Any]:
        """The place in the text, the same in every process; to be kept, and to be set again."""
        return self._batches.get_state()

    @state.setter
    def state(self, value: dict[str, Any]) -> None:
        self._batches.set_state(value)
