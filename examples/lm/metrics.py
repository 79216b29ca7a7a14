"""Metrics of a run as JSON lines and for TensorBoard, each step once, whatever kills it."""

import json
import os
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


class Metrics:
    """Append records; on resuming after `step`, what lies beyond that step is taken back."""

    def __init__(self, folder: Path, *, step: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / "metrics.jsonl"
        kept = [record for record in read(self._path) if record["step"] <= step]
        replace_file(self._path, "".join(json.dumps(record) + "\n" for record in kept))
        self._file = self._path.open("a", encoding="utf-8")
        # TensorBoard drops the earlier events from purge_step on.
        purge = {"purge_step": step + 1} if kept else {}
        self._board = SummaryWriter(str(folder / "tensorboard"), **purge)

    def record(self, kind: str, step: int, **values: float) -> None:
        """One line {"kind", "step", ...}; `kind` is train or validation."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def flush(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._board.flush()

    def close(self) -> None:
        self.flush()
        self._file.close()
        self._board.close()


def read(path: Path) -> list[dict[str, Any]]:
    """The records of a metrics file; a last line that a kill cut short is left out."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def replace_file(path: Path, text: str) -> None:
    """Write a file so that a kill leaves either the old one or the new one."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
