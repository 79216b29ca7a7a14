"""Checkpoints that survive a kill: written whole or not at all, verified when read.

A state on a mesh of devices is written in its parts, by each process those that it has, and may be
read on another mesh, or on one device.
"""

import hashlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp

from lm import manifest
from lm import mesh as meshes
from lm.checksum import checksum
from lm.errors import UserError
from lm.processes import all_agree, by_first, first

logging.getLogger("absl").setLevel(logging.CRITICAL)  # what orbax tells, we tell in a sentence


class Restored(NamedTuple):
    """A training state, the number of steps behind it, and what else was kept with it."""

    state: Any
    step: int
    meta: dict[str, Any]


class Checkpoints:
    """The newest checkpoints of one row."""

    def __init__(self, folder: Path, *, keep: int = 2) -> None:
        self._folder = folder.absolute()
        self._keep = keep
        self._manager = self._open()

    def save(self, step: int, state: Any, meta: dict[str, Any]) -> None:
        """Write a checkpoint; orbax renames it into place when it is complete.

        Raises:
            UserError: it could not be written (a full disk, say); the earlier ones are kept.
        """
        kept = {key: value for key, value in meta.items() if key not in PROOFS}
        content = ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            meta=ocp.args.JsonSave({**kept, **_proof(state)}),
        )
        self._forget_hashes(step)
        try:
            saved, reason = self._manager.save(step, args=content), "orbax declined"
        except Exception as error:  # whatever the writer makes of a failing file system
            saved, reason = False, _first_line(error)
        if not saved:
            raise UserError(
                f"could not write checkpoint {step} into {self._folder} ({reason}); the earlier "
                "ones are kept: run again to resume"
            )
        manifest.write(self._folder / str(step), self._hashes(step))

    def restore(self, like: Any, *, say: Callable[[str], None] = print) -> Restored | None:
        """The newest sound checkpoint; damaged ones are moved aside, None where there is none.

        Args:
            like: a state (arrays or shapes) with the structure that was saved; where its arrays
                lie, those of the checkpoint will.
            say: takes a sentence about each damaged checkpoint.

        Raises:
            UserError: there are checkpoints, but none is sound.
        """
        shapes = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        stored = sorted(self._manager.all_steps(), reverse=True)
        for step in stored:
            found, problem = self._read(step, shapes)
            if not all_agree(problem is None):
                problem = problem or "another process could not read it"
            else:  # which all find out together
                problem = _problem(found)
            if problem is None:
                return Restored(found.state, step, dict(found.meta))
            say(f"checkpoint {step} is damaged ({problem}); moved to {self._set_aside(step)}")
        if stored:
            raise UserError(
                f"no checkpoint in {self._folder} could be read (steps {stored}); they are kept "
                f"under {self._folder.parent / 'damaged'}. Give another --directory, or run again "
                "to start this row from the beginning."
            )
        return None

    def _read(self, step: int, shapes: Any) -> tuple[Any, str | None]:
        """What the files hold, or None and a sentence about what is wrong with them."""
        try:
            if not manifest.sound(self._folder / str(step), self._hashes(step)):
                raise ValueError("a file of it is gone or has changed")
            args = ocp.args.Composite(
                state=ocp.args.StandardRestore(shapes), meta=ocp.args.JsonRestore()
            )
            return self._manager.restore(step, args=args), None
        except Exception as error:  # whatever a damaged file makes the reader raise
            return None, _first_line(error)

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *_: object) -> None:
        self._manager.close()

    def _open(self) -> ocp.CheckpointManager:
        options = ocp.CheckpointManagerOptions(
            max_to_keep=self._keep, enable_async_checkpointing=False
        )
        return ocp.CheckpointManager(self._folder, options=options)

    def _set_aside(self, step: int) -> Path:
        self._manager.close()
        shelf = self._folder.parent / "damaged"
        number = sum(1 for _ in shelf.iterdir()) if shelf.exists() else 0
        target = shelf / f"{step}-{number}"

        def move() -> None:
            shelf.mkdir(exist_ok=True)
            os.replace(self._folder / str(step), target)

        by_first(move)
        self._manager = self._open()
        return target

    def _forget_hashes(self, step: int) -> None:
        """Those of this step, which will be written anew, and of steps that are gone."""
        kept = {self._hashes(other) for other in self._manager.all_steps() if other != step}
        if first():
            for path in set(self._hashes(step).parent.glob("*.json")) - kept:
                path.unlink()

    def _hashes(self, step: int) -> Path:
        return self._folder.parent / "hashes" / f"{step}.json"


def digest(state: Any) -> str:
    """A hash of every leaf's bytes; of an array in parts the one of the whole, here for a while."""
    total = hashlib.sha256()
    for leaf in jax.tree.leaves(state):
        total.update(np.ascontiguousarray(meshes.whole_here(leaf)).tobytes())
    return total.hexdigest()


def _proof(state: Any) -> dict[str, str]:
    """What a restored state is compared with: nothing is gathered for it where parts lie apart."""
    if meshes.on_mesh(state):
        return {"checksum": checksum(state)}
    return {"digest": digest(state)}


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"


def _problem(found: Any) -> str | None:
    proofs = {name: of for name, of in PROOFS.items() if name in (found.meta or {})}
    if not proofs:
        return "its digest is missing"
    if any(of(found.state) != found.meta[name] for name, of in proofs.items()):
        return "its content does not match its digest"
    return None


PROOFS = {"digest": digest, "checksum": checksum}
"""Either of them is kept with a state."""
