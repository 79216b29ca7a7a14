"""Train BK-Core and a plain transformer on Shakespeare's plays; print a table, draw a picture.

    python examples/shakespeare.py                      # <= 15 minutes on two cores
    python examples/shakespeare.py --preset smoke       # under a minute, no download
    python examples/shakespeare.py --text my.txt        # a text of your own
    python examples/shakespeare.py --mesh.data 8        # on eight devices; docs/scale_out.md
    python examples/shakespeare.py --help               # every setting

Run the same command again after an interruption: it resumes from the last checkpoint.
"""

import argparse
import contextlib
import sys
import traceback
from pathlib import Path

import tyro
from lm import corpus as corpora
from lm import ensemble, lock, mesh, ppmd, processes, refine, report, results, rows
from lm.corpus import Corpus
from lm.devices import ONE, OneDevice
from lm.errors import UserError
from lm.scale import ONE_DEVICE
from lm.settings import PRESETS, Settings
from lm.spread import OnMesh
from lm.texts import load
from rich.console import Console

HELD_BACK = 0.05
"""Share of the training text on which --refine chooses thresholds."""


def main(settings: Settings, console: Console) -> None:
    """Fetch the text, fill the rows one after the other, write the report."""
    folder = settings.directory or Path("runs") / settings.preset
    processes.alike(settings)
    processes.by_first(lambda: make(folder))
    processes.share(folder)
    one = settings.mesh == ONE_DEVICE and not processes.several()
    devices = ONE if one else OnMesh(mesh.build(settings.mesh))
    corpus = load(settings, console, folder=folder)
    if processes.several():
        processes.same(corpus.fingerprint(), what="texts")
    if settings.refine:
        corpus = corpora.hold_back(corpus, HELD_BACK, block=settings.training.block)
    console.print(
        f"{corpus.name}: {len(corpus.train):,} characters to train on, "
        f"{len(corpus.validation):,} held out, {len(corpus.characters)} different ones"
    )
    with contextlib.ExitStack() as held:
        processes.by_first(lambda: held.enter_context(lock.alone(folder, say=console.print)))
        fill(settings, corpus, folder, devices, console)
        processes.by_first(lambda: None)  # the others wait here for what the first one writes


def fill(
    settings: Settings, corpus: Corpus, folder: Path, devices: OneDevice, console: Console
) -> None:
    """Train the rows and write the report."""
    models = rows.models(settings, len(corpus.characters))
    table = []
    if "ppmd" in settings.rows and ppmd.installed() and processes.first():
        table.append(results.compressor(corpus))
    elif "ppmd" in settings.rows:
        console.print("no row for PPMd: pip install pyppmd for it")
    try:
        for model in models:
            place = folder / model.name
            row = results.trained(model, corpus, settings, place, console=console, devices=devices)
            table.append(row)
        model = rows.plain(settings, len(corpus.characters))
        if settings.refine:
            table.append(refine.row(model, corpus, settings, folder, console=console))
        if settings.ensemble:
            for row in ensemble.rows(model, corpus, settings, folder, console=console):
                table.append(row)
    finally:  # a row that fails takes none of the others with it
        if table and processes.first():
            report.write(folder, table, text=corpus.name, console=console)


def make(folder: Path) -> None:
    """The folder of a run."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot write into {folder} ({error.strerror}): give another --directory"
        ) from error


def command_line(arguments: list[str]) -> Settings:
    """The settings of a preset with what the command line changes."""
    first = argparse.ArgumentParser(prog="shakespeare.py", add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=sorted(PRESETS), default="cpu")
    preset = first.parse_known_args(arguments)[0].preset
    return tyro.cli(Settings, args=arguments, default=PRESETS[preset], prog="shakespeare.py")


def run(arguments: list[str]) -> None:
    """The command; what the user can put right ends it with a sentence."""
    try:
        settings = command_line(arguments)
        if settings.distributed:
            processes.start(settings.process)
        main(settings, Console(markup=False, highlight=False, quiet=not processes.first()))
    except (UserError, OSError) as error:
        processes.stop(f"error: {error}", error)
    except KeyboardInterrupt as error:
        processes.stop(
            "interrupted: run the same command again to resume from the last checkpoint", error
        )
    except Exception as error:
        if not processes.several():
            raise
        told = "".join(traceback.format_exception(error))
        processes.stop(f"{told}(another process may have failed first: see what it says)", error)


if __name__ == "__main__":
    run(sys.argv[1:])
