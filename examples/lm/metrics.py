"""Metrics of a run as JSON lines and for TensorBoard, each step once, whatever kills it."""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (  # pyright: ignore[reportAttributeAccessIssue]
    Event,
    SessionLog,
)

from lm import files
from lm.errors import UserError


class Metrics:
    """Append records; on resuming after `step`, what lies beyond that step is taken back."""

    def __init__(self, folder: Path, *, step: int) -> None:
        path = folder / "metrics.jsonl"
        kept = [record for record in read(path) if record["step"] <= step]
        files.replace(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", encoding="utf-8")
        self._board = Board(folder / "tensorboard", step=step)

    def record(self, kind: str, step: int, **values: float) -> None:
        """One line {"kind", "step", ...}; `kind` is train or validation."""
        with self._explained():
            self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
            for name, value in values.items():
                self._board.scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        with self._explained():
            self._file.flush()
            os.fsync(self._file.fileno())
            self._board.flush()

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(
                f"could not write metrics into {Path(self._file.name).parent} ({error.strerror}): "
                "run again to resume"
            ) from error

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._file.close()
        self._board.close()


class Unkept:
    """What takes their place in a process that writes nothing."""

    def record(self, kind: str, step: int, **values: float) -> None:
        """Nothing."""

    def flush(self) -> None:
        """Nothing."""

    def __enter__(self) -> "Unkept":
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing."""


class Board:
    """TensorBoard's event file of one start of a run.

    Not a SummaryWriter: that one writes in a thread of its own, and its flush does not wait for
    what still stands in the queue, so that a kill loses steps that a checkpoint has promised.
    """

    def __init__(self, folder: Path, *, step: int) -> None:
        folder.mkdir(exist_ok=True)
        # The time to the nanosecond: two starts within a second must not share a file.
        self._file = EventsWriter(str(folder / "events"), f".{time.time_ns()}")
        # TensorBoard drops what earlier event files hold from this step on.
        self._file.write_event(
            Event(step=step + 1, session_log=SessionLog(status=SessionLog.START))
        )
        self.flush()

    def scalar(self, tag: str, value: float, step: int) -> None:
        event = Event(wall_time=time.time(), step=step, summary=summary.scalar(tag, value))
        self._file.write_event(event)

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [
        files.parse(line, source=f"{path}, line {number}") for number, line in enumerate(lines, 1)
    ]
