"""Metrics of a run as JSON lines and for TensorBoard, each step once, whatever kills it."""

import json
import os
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter

from lm import files


class Metrics:
    """Append records; on resuming after `step`, what lies beyond that step is taken back."""

    def __init__(self, folder: Path, *, step: int) -> None:
        path = folder / "metrics.jsonl"
        kept = [record for record in read(path) if record["step"] <= step]
        files.replace(path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = path.open("a", encoding="utf-8")
        # TensorBoard drops what earlier event files hold from purge_step on.
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=step + 1)

    def record(self, kind: str, step: int, **values: float) -> None:
        """One line {"kind", "step", ...}; `kind` is train or validation."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def __enter__(self) -> "Metrics":
        return self

    def __exit__(self, *_: object) -> None:
        self.flush()
        self._file.close()
        self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [
        files.parse(line, source=f"{path}, line {number}") for number, line in enumerate(lines, 1)
    ]
