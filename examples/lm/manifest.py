"""Hashes of the files of a checkpoint, so that processes can agree on damage before they read.

What one process finds damaged, another may never look at; it would wait for the first one within
the reader. So each process hashes some of the files, and all hear of all; one that runs alone
hashes them too, for several may go on from there.
"""

import hashlib
import json
from pathlib import Path

import jax
import numpy as np

from lm import files
from lm.processes import all_agree, first, from_first, united


def write(folder: Path, target: Path) -> None:
    """Hash all files below a folder into a file outside of it; each process hashes its share."""
    here = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    names = from_first("\n".join(here)).split("\n")  # the others may see new files a little later
    hashes = np.zeros((len(names), 32), np.uint8)
    for index in _mine(len(names)):
        hashes[index] = np.frombuffer(_hash(folder / names[index]), np.uint8)
    found = {name: bytes(row).hex() for name, row in zip(names, united(hashes), strict=True)}
    if first():
        target.parent.mkdir(exist_ok=True)
        files.replace(target, json.dumps(found, indent=1) + "\n")


def sound(folder: Path, source: Path) -> bool:
    """Whether all files are what was hashed; True without hashes to compare with."""
    text = source.read_text(encoding="utf-8") if first() and source.exists() else "{}"
    told = json.loads(from_first(text))
    names = sorted(told)
    return all_agree(all(_same(folder / names[i], told[names[i]]) for i in _mine(len(names))))


def _mine(count: int) -> range:
    return range(jax.process_index(), count, jax.process_count())


def _same(path: Path, expected: str) -> bool:
    return path.is_file() and _hash(path).hex() == expected


def _hash(path: Path) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()
