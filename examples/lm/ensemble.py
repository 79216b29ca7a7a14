"""The rows of an ensemble that one program trains, and of students of its mixture."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console

from lm import results
from lm.corpus import Corpus
from lm.members import member, together
from lm.results import Result
from lm.rows import Model, Teacher
from lm.settings import Settings
from lm.training import train


def rows(
    model: Model, corpus: Corpus, settings: Settings, folder: Path, *, console: Console
) -> Iterator[Result]:
    """The row of an ensemble of the model, then one for each student of it that is asked for.

    Args:
        model: a trained row of the table; members and students are of its size.
        corpus, settings: of the job.
        folder: of the job; each row has a folder of its own in it.
        console: where progress goes.
    """
    settings = dataclasses.replace(settings, depths=())  # the row of one model has shown those
    several = together(model, settings.ensemble)
    evaluator = results.held_out(several, corpus, settings)
    place = folder / several.name
    done = train(several, corpus, settings.training, evaluator, place, console=console)
    row = results.measured(several, done, corpus, settings, place, evaluator=evaluator)
    alone = results.held_out(model, corpus, settings)
    found = [alone.evaluate(member(done.params, index)) for index in range(several.members)]
    parts = (results.part(f"model {index + 1}", one) for index, one in enumerate(found))
    yield dataclasses.replace(row, parts=tuple(parts))
    for direction in settings.distill:
        student = model._replace(
            name=f"{model.name}-{direction}",
            label=f"{model.label}, {direction} KL",
            teacher=Teacher(several, done.params, direction, settings.superposition.labels),
        )
        yield results.trained(student, corpus, settings, folder / student.name, console=console)
