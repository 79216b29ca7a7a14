"""Several processes that run the same command: how they begin, agree, and end together."""

import dataclasses
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from lm.errors import UserError
from lm.scale import ALONE, Process
from lm.settings import Settings

PATIENCE = 65.0
"""Seconds after which every host sees a new file, as NFS has it."""


class Told(UserError):
    """What another process has already reported."""


def start(process: Process) -> None:
    """Meet the other processes, before any device is touched.

    Raises:
        UserError: it is not known who they are, or they could not be reached.
    """
    # Else a signal to end would be a notice of preemption, which nothing here waits for.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            process.coordinator,
            num_processes=process.count,
            process_id=process.index,
            local_device_ids=list(process.devices) or None,
            cluster_detection_method=process.detect,
        )
    except (ValueError, TypeError, LookupError, ImportError) as error:
        raise UserError(
            f"--distributed: {_told(error)}. Start all processes by srun, or by mpirun of Open MPI "
            "up to 4, or give --process.coordinator HOST:PORT, --process.count and --process.index"
        ) from error
    except RuntimeError as error:
        raise UserError(f"--distributed: the processes did not meet: {error}") from error


def _told(error: Exception) -> str:
    unset = isinstance(error, KeyError)  # a variable of the environment
    return f"{error.args[0]} is not set" if unset else str(error).rstrip(".")


def several() -> bool:
    """Whether there are others."""
    return jax.distributed.is_initialized() and jax.process_count() > 1


def first() -> bool:
    """Whether this is the process that writes and prints."""
    return not several() or jax.process_index() == 0


def by_first(function: Callable[[], Any]) -> None:
    """The first process calls it, and the others wait; what it reports ends all of them.

    Raises:
        UserError: as the function does, in every process.
    """
    if not several():
        function()
        return
    failed = None
    if first():
        try:
            function()
        except (UserError, OSError) as error:
            failed = error
    told = from_first(str(failed) if failed is not None else "")
    if failed is not None:
        raise failed
    if told:
        raise Told(told)


def all_agree(sound: bool) -> bool:
    """Whether it is so in every process."""
    if not several():
        return sound
    return bool(multihost_utils.process_allgather(np.asarray(sound)).all())


def share(folder: Path) -> None:
    """Raise a UserError where a process does not see the folder that the first one works in."""
    if not several():
        return
    mark = folder / f".seen-{from_first(os.urandom(8).hex())}"
    by_first(mark.touch)
    late = time.monotonic() + PATIENCE
    while not mark.exists() and time.monotonic() < late:
        time.sleep(0.5)
    seen = all_agree(mark.exists())
    by_first(mark.unlink)
    if not seen:
        raise UserError(
            f"the processes do not share the directory {folder}: give a --directory that all hosts "
            "see"
        )


def alike(settings: Settings) -> None:
    """Raise a UserError where a process was given another command than the first one.

    Programs that are not the same would end in each other's sums.
    """
    same(repr(told_to_all(settings)), what="settings: give all of them the same command")


def told_to_all(settings: Settings) -> Settings:
    """Without who a process is, where its plays are cached and the path of a text."""
    return dataclasses.replace(settings, process=ALONE, cache=None, text=None)


def same(value: str, *, what: str) -> None:
    """Raise a UserError where a process has another value than the first one."""
    if not several():
        return
    if not all_agree(from_first(value) == value):
        raise UserError(f"the processes have different {what}")


def stop(message: str, error: BaseException) -> NoReturn:
    """Leave with a message and exit code 1.

    One of several processes leaves at once and so ends the others: an ordinary exit would wait for
    them, and they for it.
    """
    if not several():
        sys.exit(message)
    if not isinstance(error, Told):
        print(f"process {jax.process_index()}: {message}", file=sys.stderr)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(1)


def from_first(text: str) -> str:
    """What the first process has."""
    if not several():
        return text
    data = np.frombuffer(text.encode(), np.uint8)
    length = int(multihost_utils.broadcast_one_to_all(np.asarray(len(data), np.int32)))
    room = np.zeros(length, np.uint8)
    found = multihost_utils.broadcast_one_to_all(data if first() else room)
    return bytes(np.asarray(found)).decode()


def united(part: np.ndarray) -> np.ndarray:
    """Unsigned numbers of which each process has some, and zeros for the others."""
    if not several():
        return part
    return np.asarray(multihost_utils.process_allgather(part)).max(axis=0)
