"""What goes wrong between processes is named and ends a run; sizes that do not divide."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import meshes
import numpy as np
import pytest
import shakespeare
from lm import checkpoints, evaluation, mesh, processes, scale, spread
from lm.devices import OneDevice
from lm.errors import UserError
from test_distributed import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (KeyError("SLURM_JOB_ID"), r"--distributed: SLURM_JOB_ID is not set\. Start all"),
        (ModuleNotFoundError("No module named 'mpi4py'"), r"No module named 'mpi4py'\. Start all"),
        (ValueError("invalid literal '12a'"), r"invalid literal '12a'\. Start all"),
        (RuntimeError("deadline"), r"the processes did not meet: deadline"),
    ],
)
def test_variables_that_are_wrong_are_named(monkeypatch, error, words):
    def initialize(*_, **__):
        raise error

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    with pytest.raises(UserError, match=words):
        processes.start(scale.Process(detect="slurm"))


@pytest.mark.parametrize("address", ["node0", "node0:", ":123", "node0:http"])
def test_a_coordinator_has_a_port(address):
    with pytest.raises(UserError, match=rf"must be HOST:PORT, got {address}$"):
        shakespeare.command_line(["--distributed", "--process.coordinator", address])


SIGNAL = """
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
from lm import processes, scale
processes.start(scale.Process(f"127.0.0.1:{sys.argv[2]}", 1, 0))
print("met", flush=True)
os.kill(os.getpid(), signal.SIGTERM)
time.sleep(60)
"""


def test_a_process_ends_when_it_is_told_to():
    """JAX would take the signal for a notice of preemption."""
    command = [sys.executable, "-c", SIGNAL, str(EXAMPLES), str(free_port())]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=50, check=False
    )
    assert (done.stdout, done.returncode) == ("met\n", -signal.SIGTERM), done.stderr[-2000:]


@pytest.fixture
def second(monkeypatch):
    """This process as one of two: told[0] is what the first one has, or None for the same."""
    told = [None]
    monkeypatch.setattr(processes, "several", lambda: True)
    monkeypatch.setattr(processes, "all_agree", bool)
    monkeypatch.setattr(processes, "from_first", lambda own: told[0] or own)
    return told


def test_processes_with_other_settings_end(second):
    given = "--preset smoke --distributed --process.index 1 --text a.txt --cache a"
    settings = shakespeare.command_line(given.split())
    processes.alike(settings)
    for other, same in (("--text b.txt --cache b", True), ("--bk.learning-rate 0.1", False)):
        theirs = shakespeare.command_line(["--preset", "smoke", "--distributed", *other.split()])
        second[0] = repr(processes.told_to_all(theirs))
        if same:
            processes.alike(settings)
        else:
            with pytest.raises(UserError, match="the processes have different settings"):
                processes.alike(settings)


def test_processes_that_share_no_directory_end(second, monkeypatch, tmp_path):
    monkeypatch.setattr(processes, "PATIENCE", 0.0)
    monkeypatch.setattr(processes, "by_first", lambda function: function())
    processes.share(tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(processes, "by_first", lambda function: None)  # on a disk of its own
    with pytest.raises(UserError, match=r"do not share .* give a --directory that all hosts"):
        processes.share(tmp_path)


def test_a_checkpoint_of_one_process_is_hashed_and_read_by_all_or_none(tmp_path, monkeypatch):
    whole = meshes.trained(meshes.BIGRAM, tmp_path / "run")
    path = max((tmp_path / "run" / "checkpoints" / "6").rglob("d/*"))
    path.write_bytes(path.read_bytes() + b"x")  # which no reader of arrays would notice
    said = []
    meshes.equal(whole, meshes.trained(meshes.BIGRAM, tmp_path / "run", said=said))
    assert "checkpoint 6 is damaged (ValueError: a file of it is gone or has changed)" in said[0]
    monkeypatch.setattr(checkpoints, "all_agree", lambda sound: False)
    with pytest.raises(UserError, match="no checkpoint in"):
        meshes.trained(meshes.BIGRAM, tmp_path / "run", said=said)
    assert (tmp_path / "run" / "damaged").is_dir()


class Thirds(OneDevice):
    """Batches in three parts, on one device."""

    parts = 3


@pytest.mark.parametrize("limit", [None, 5])
def test_an_evaluation_sees_the_same_windows_on_every_mesh(limit):
    params = meshes.init(meshes.Config(), jax.random.key(0))
    one, parts = (
        evaluation.Evaluator(
            meshes.BIGRAM, text, block=8, dtype="float32", batch=4, devices=devices
        ).evaluate(params, limit=limit)
        for text, devices in (
            (meshes.TOY.validation, OneDevice()),
            (meshes.TOY.validation, Thirds()),
        )
    )
    assert parts.nats == pytest.approx(one.nats, abs=1e-6)
    assert (parts.kept_pairs, parts.accuracy) == (one.kept_pairs, one.accuracy)


def test_a_feed_needs_parts_of_one_size(monkeypatch):
    devices = spread.OnMesh(mesh.build(scale.Mesh()))
    assert devices.rows(6) == (0, 6)

    class Uneven:  # this process has two of three parts, another one the third
        def addressable_devices_indices_map(self, shape):
            return {0: (slice(0, 2),), 1: (slice(2, 4),)}

    monkeypatch.setattr(devices, "_batch", Uneven)
    with pytest.raises(UserError, match="a process has one part of a batch"):
        devices.rows(6)


def test_the_job_of_a_cluster_resumes_on_fewer_nodes(tmp_path):
    """Run by bash, with a stand-in for srun that prints what it is given."""
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    (tmp_path / ".venv" / "bin" / "activate").write_text("srun() { printf '%s\\n' \"$@\"; }\n")
    found = []
    for nodes in (1, 2):
        environment = {
            "PATH": os.environ["PATH"], "SLURM_SUBMIT_DIR": str(tmp_path),
            "SLURM_NNODES": str(nodes), "SLURM_CPUS_PER_TASK": "8",
        }  # fmt: skip
        done = subprocess.run(
            ["bash", str(EXAMPLES / "slurm" / "shakespeare.sbatch"), "--mesh.tensor", "2"],
            env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        found.append(done.stdout.splitlines())
    assert found[0] == found[1]
    assert "--cpus-per-task=8" in found[0]
    given = found[0][found[0].index("examples/shakespeare.py") + 1 :]
    settings = shakespeare.command_line(given)
    assert (settings.distributed, settings.preset) == (True, "gpu")
    assert settings.mesh == scale.Mesh(data=-1, tensor=2)
    sizes = mesh.sizes(settings.mesh, 8, all_of_them=True)
    assert np.prod(list(sizes.values())) == 8
