"""One run at a time in a directory: told at once, and free again after any death."""

import os
import subprocess
import sys

import pytest
from lm.errors import UserError
from lm.lock import NAME, alone

HOLDER = """
import sys, time
from pathlib import Path
from lm.lock import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path, job):
    """Another process that is at work in the directory."""
    environment = job.environment | {"PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_run_is_told_who_works_there_and_a_kill_frees_it(holder, tmp_path):
    with pytest.raises(UserError) as caught, alone(tmp_path):
        raise AssertionError("two in one directory")
    assert str(caught.value).startswith(f"another run (process {holder.pid} on ")
    assert f"is at work in {tmp_path}: wait until it ends, or give another" in str(caught.value)
    with alone_elsewhere(tmp_path):
        pass  # one directory does not lock another
    holder.kill()
    holder.wait()
    assert (tmp_path / NAME).exists()  # what it left behind locks nothing
    with alone(tmp_path):
        assert f"process {os.getpid()} on " in (tmp_path / NAME).read_text()
    with alone(tmp_path):
        pass  # and a run that has ended holds nothing


def alone_elsewhere(folder):
    other = folder / "other"
    other.mkdir()
    return alone(other)


def test_an_error_within_frees_it(tmp_path):
    with pytest.raises(RuntimeError), alone(tmp_path):
        raise RuntimeError
    with alone(tmp_path):
        pass


def test_a_directory_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    message = r"cannot write into .*file.*give another --directory"
    with pytest.raises(UserError, match=message), alone(tmp_path / "file"):
        pass


def test_a_file_system_without_locks_is_said(tmp_path, monkeypatch):
    def none(descriptor, operation):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", none)
    said = []
    with alone(tmp_path, say=said.append):
        pass
    assert "cannot be locked (Operation not supported): see to it" in said[0]
