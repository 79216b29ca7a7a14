"""Small files: written whole or not at all, and named when they are damaged."""

import json
import os
from pathlib import Path
from typing import Any

from lm.errors import UserError


def replace(path: Path, text: str) -> None:
    """Write a file so that a kill leaves either the old one or the new one."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)


def parse(line: str, *, source: str) -> Any:
    """The value of a JSON text, or an error that names where it was read."""
    try:
        return json.loads(line)
    except ValueError as error:
        raise UserError(
            f"{source} is damaged: it is not JSON ({error}). Put a sound copy back, or move it "
            "away to start this row from the beginning."
        ) from error
