"""Whence the steps of a row take their batches: a text on the devices, or a feed from the disk."""

from typing import Any

import jax

from lm.corpus import Corpus
from lm.devices import OneDevice
from lm.feed import Feed
from lm.rows import Model
from lm.scale import Input
from lm.settings import Training
from lm.step import read_by


class Source:
    """The text itself: a program draws its batches."""

    given = False
    """Whether a program is given batches, and not the text."""

    def __init__(self, model: Model, corpus: Corpus, devices: OneDevice) -> None:
        self._text = devices.text(corpus.train)
        self._read = read_by(model, self._text)

    def take(self, count: int) -> Any:
        """What a program of the next `count` steps reads."""
        return self._read

    def sample(self) -> jax.Array:
        """Tokens of the text from which to draw windows before the first step."""
        return self._text

    def state(self) -> dict[str, Any]:
        """What a checkpoint keeps, so that the next batches are the same again."""
        return {}

    def restore(self, kept: dict[str, Any]) -> None:
        """Go back to where `state` was taken."""


class Fed(Source):
    """Batches from the disk, of which each process reads its part."""

    given = True

    def __init__(self, corpus: Corpus, training: Training, devices: OneDevice) -> None:
        self._devices, self._size, self._steps = devices, training.batch, training.steps_per_call
        self._feed = Feed(corpus.train, training, devices.rows(training.batch))

    def take(self, count: int) -> jax.Array:
        return self._devices.batches(self._feed.take(count), self._size)

    def sample(self) -> jax.Array:
        return self._devices.batches(self._feed.peek(self._steps), self._size).reshape(-1)

    def state(self) -> dict[str, Any]:
        return {"feed": self._feed.state}

    def restore(self, kept: dict[str, Any]) -> None:
        self._feed.state = kept["feed"]


def source_of(
    model: Model, corpus: Corpus, training: Training, devices: OneDevice, input: Input
) -> Source:
    """The one that a setting names."""
    if input == "grain":
        return Fed(corpus, training, devices)
    return Source(model, corpus, devices)
