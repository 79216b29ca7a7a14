"""One run at a time in a directory."""

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lm.errors import UserError

NAME = ".lock"


@contextmanager
def alone(folder: Path, *, say: Callable[[str], None] = print) -> Iterator[None]:
    """Hold a directory for the time of a run.

    The lock belongs to the open file, not to its being there: it goes with the process, however
    that ends, and a file that a kill left behind locks nothing.

    Args:
        folder: The run's.
        say: Takes a sentence where the file system has no locks: then nothing is held.

    Raises:
        UserError: Another process holds it, or the file cannot be opened.
    """
    path = folder / NAME
    try:
        # Not truncated: it may hold the number of the process that has the lock.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UserError(
            f"cannot write into {folder} ({error.strerror}): give another --directory"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.read(descriptor, 100).decode("ascii", errors="replace").strip()
            raise UserError(
                f"another run ({owner or 'its process has not said which'}) is at work in "
                f"{folder}: wait until it ends, or give another --directory"
            ) from error
        except OSError as error:
            say(
                f"{folder} cannot be locked ({error.strerror}): see to it that no other run works "
                "there"
            )
        else:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {os.uname().nodename}\n".encode(), 0)
        yield
    finally:
        os.close(descriptor)  # and with it the lock; the file stays, for others may wait on it
