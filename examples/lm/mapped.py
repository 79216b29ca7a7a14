"""Texts larger than memory: their tokens in a file that is mapped and not read whole."""

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from lm import corpus, files
from lm.corpus import Corpus
from lm.errors import UserError

PIECE = 2**22
"""Characters that are held at once."""


def write(name: str, text: str | Path, folder: Path) -> None:
    """Write the tokens of a text, or of a UTF-8 file, into a folder that may hold them already.

    A file is known again by its size and the time of its last change, another text by its hash.

    Raises:
        UserError: the file cannot be read or is not UTF-8.
    """
    folder.mkdir(exist_ok=True)
    source: dict[str, object] = {"name": name}
    if isinstance(text, Path):
        found = _stat(text)
        source |= {"bytes": found.st_size, "changed": found.st_mtime_ns}
    else:
        source |= {"sha256": hashlib.sha256(text.encode()).hexdigest()}
    known = folder / "source.json"
    if known.exists():
        told = files.parse(known.read_text(encoding="utf-8"), source=str(known))
        if told["source"] == source:
            return
    known.unlink(missing_ok=True)
    characters, length = _characters(text)
    order = np.array([ord(character) for character in characters], np.uint32)
    smallest = next(t for t in (np.uint8, np.uint16, np.int32) if len(order) <= np.iinfo(t).max)
    # A new file: who still reads the old one keeps that.
    new = folder / "tokens.npy.tmp"
    tokens = np.lib.format.open_memmap(new, mode="w+", dtype=smallest, shape=(length,))
    place = 0
    for piece in _pieces(text):
        points = np.frombuffer(piece.encode("utf-32-le", "surrogatepass"), np.uint32)
        tokens[place : place + len(points)] = np.searchsorted(order, points)
        place += len(points)
    tokens.flush()
    os.replace(new, folder / "tokens.npy")
    files.replace(known, json.dumps({"source": source, "characters": characters}) + "\n")


def read(name: str, folder: Path, *, block: int) -> Corpus:
    """The corpus of what `write` wrote; its tokens stay on the disk."""
    known = folder / "source.json"
    told = files.parse(known.read_text(encoding="utf-8"), source=str(known))
    tokens = np.load(folder / "tokens.npy", mmap_mode="r")
    return corpus.parted(name, told["characters"], tokens, block=block)


def _characters(text: str | Path) -> tuple[str, int]:
    """The different characters of a text in order, and how many it has in all."""
    seen: set[str] = set()
    length, blank = 0, True
    for piece in _pieces(text):
        seen |= set(piece)
        length += len(piece)
        blank = blank and not piece.strip()
    if blank:
        raise UserError(f"the text {text if isinstance(text, Path) else ''} is empty")
    return "".join(sorted(seen)), length


def _pieces(text: str | Path) -> Iterator[str]:
    if isinstance(text, str):
        for start in range(0, len(text), PIECE):
            yield text[start : start + PIECE]
        return
    try:
        with text.open(encoding="utf-8-sig") as file:
            while piece := file.read(PIECE):
                if "\0" in piece:
                    raise UserError(f"the text {text} holds the character NUL: is it UTF-16?")
                yield piece
    except OSError as error:
        raise UserError(f"cannot read the text {text}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"the text {text} is not UTF-8: {error.reason}") from error


def _stat(path: Path):
    try:
        return path.stat()
    except OSError as error:
        raise UserError(f"cannot read the text {path}: {error.strerror}") from error
