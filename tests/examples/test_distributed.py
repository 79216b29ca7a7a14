"""The job in two processes on loopback: what one process learns; one writes, and both end."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import meshes
import numpy as np
import pytest
import shakespeare
from lm import processes
from lm.errors import UserError

HERE = Path(__file__).parent
SETTINGS = (
    "--preset smoke --rows transformer --depths 1 --sample 10 --sizes.layers 1 --sizes.width 16 "
    "--training.steps 4 --training.steps-per-call 2 --training.evaluate-every 2 "
    "--training.checkpoint-every 2 --training.block 16 --training.batch 4"
)
ARGUMENTS = SETTINGS.split()

# Of two processes: the whole command, then pieces of it on a small model, then an error in one.
PROGRAM = """
import shutil, sys
rank, port, root, *arguments = sys.argv[1:]  # to the second one Slurm's variables tell it all
sys.path[:0] = PATHS
from pathlib import Path
import jax, shakespeare
from lm import processes

root = Path(root)
own = f"--process.coordinator 127.0.0.1:{port} --process.count 2 --process.index 0".split()
own = own if rank == "0" else []
shakespeare.run([*arguments, "--directory", str(root / "command"), "--distributed", *own])
assert (jax.device_count(), jax.local_device_count()) == (2, 1)

from meshes import *
many = trained(BIGRAM, root / "many", spread(tensor=2))

def damage():
    shutil.copytree(root / "many", root / "damaged")
    path = max((root / "damaged" / "checkpoints" / "6").rglob("d/*"))
    path.write_bytes(path.read_bytes()[:-1])

processes.by_first(damage)
said = []
equal(many, trained(BIGRAM, root / "damaged", spread(tensor=2), said=said))
assert "checkpoint 6 is damaged" in said[0] and "resuming after step 3" in said[0], said

fed = trained(BIGRAM, root / "fed", spread(data=2), input="grain")
if processes.first():
    for name, found in (("many", many), ("fed", fed)):
        np.savez(root / f"{name}.npz", **found[0])
print("all equal", flush=True)

mine = ["--text", "nowhere"] if rank == "1" else []
shakespeare.run([*arguments, "--directory", str(root / "other"), *mine])
"""


def free_port():
    """One of those that JAX takes from the number of a Slurm job: it equals that modulo 4,096."""
    for port in range(61_440 + os.getpid() % 4_096, 65_536):
        with socket.socket() as free:
            try:
                free.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise OSError("no free port")


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What both printed, with their exit codes; and the folder that they worked in."""
    folder = tmp_path_factory.mktemp("both")
    port = free_port()
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "COLUMNS": "400",
    }
    slurm = {
        "SLURM_JOB_ID": str(port), "SLURM_STEP_NODELIST": "127.0.0.1", "SLURM_NTASKS": "2",
        "SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_NODES": "1",
    }  # fmt: skip
    paths = [str(HERE), str(HERE.parents[1] / "examples")]
    command = [sys.executable, "-c", PROGRAM.replace("PATHS", repr(paths))]
    started = [
        subprocess.Popen(
            [*command, str(rank), str(port), str(folder), *ARGUMENTS],
            env=environment | (slurm if rank else {}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        ended = [(*process.communicate(timeout=240), process.returncode) for process in started]
    finally:
        for process in started:
            process.kill()
    return ended, folder


def losses(folder):
    lines = (folder / "transformer" / "metrics.jsonl").read_text().splitlines()
    return [(record["kind"], record["step"], record["loss"]) for record in map(json.loads, lines)]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(both, tmp_path):
    ended, folder = both
    for out, err, _ in ended:
        assert "all equal" in out, err[-3000:]
    settings = shakespeare.command_line([*ARGUMENTS, "--directory", str(tmp_path)])
    shakespeare.main(settings, shakespeare.Console(quiet=True))
    found, expected = losses(folder / "command"), losses(tmp_path)
    assert [record[:2] for record in found] == [record[:2] for record in expected]
    for (*_, one), (*_, other) in zip(found, expected, strict=True):
        assert one == pytest.approx(other, abs=1e-5)
    one, other = (
        json.loads((at / "report.json").read_text()) for at in (folder / "command", tmp_path)
    )
    assert one["rows"][0]["nats"] == pytest.approx(other["rows"][0]["nats"], abs=1e-5)
    assert one["rows"][0]["parameters"] == other["rows"][0]["parameters"]


def test_parameters_in_parts_and_batches_from_the_disk(both, tmp_path):
    """In one process the same; damage to what one process holds was noticed by both there."""
    ended, folder = both
    for out, err, _ in ended:
        assert "all equal" in out, err[-3000:]
    for name, options in (("many", {}), ("fed", {"input": "grain"})):
        one = meshes.trained(meshes.BIGRAM, tmp_path / name, **options)
        params = np.load(folder / f"{name}.npz")
        lines = (folder / name / "metrics.jsonl").read_text().splitlines()
        found = {key: params[key] for key in one[0]}, [json.loads(line) for line in lines]
        meshes.equal(one, found, atol=1e-6)


def test_one_process_goes_on_where_two_were(both, tmp_path):
    """With its own checkpoint in the place of one of theirs, whose hashes no longer hold."""
    _, folder = both
    shutil.copytree(folder / "many", tmp_path / "many")
    shutil.rmtree(tmp_path / "many" / "checkpoints" / "6")
    said = []
    resumed = meshes.trained(meshes.BIGRAM, tmp_path / "many", said=said)
    params = np.load(folder / "many.npz")
    for key, value in resumed[0].items():
        np.testing.assert_allclose(value, params[key], atol=1e-6)
    meshes.trained(meshes.BIGRAM, tmp_path / "many", said=said)
    assert "resuming after step 3" in said[0]
    assert said[1] == "bigram: trained already\n"


def test_the_first_process_alone_writes_and_prints(both):
    ended, folder = both
    (first, *_), (second, *_) = ended
    assert "plain transformer writes:" in first
    kept = [line for line in second.splitlines() if not line.startswith("[Gloo]")]
    assert kept == ["all equal"]
    board = folder / "command" / "transformer" / "tensorboard"
    assert len(list(board.iterdir())) == 1


def test_an_error_in_one_ends_both(both):
    ended, folder = both
    assert [code for *_, code in ended] == [1, 1]
    assert "process 1: error: cannot read the text nowhere" in ended[1][1]
    assert not (folder / "other" / "transformer").exists()


def test_who_the_processes_are_is_told_or_must_be(monkeypatch):
    asked = []

    def initialize(*arguments, **options):
        asked.append((arguments, options))
        raise ValueError("Number of processes must be defined.")

    monkeypatch.setattr("jax.distributed.initialize", initialize)
    given = "--process.coordinator a:1 --process.index 3 --process.devices 2 --process.detect ompi"
    settings = shakespeare.command_line(["--distributed", *given.split()])
    with pytest.raises(UserError, match=r"must be defined\. .* give --process\.coordinator HOST"):
        processes.start(settings.process)
    options = {
        "num_processes": None, "process_id": 3, "local_device_ids": [2],
        "cluster_detection_method": "ompi",
    }  # fmt: skip
    assert asked == [(("a:1",), options)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--distributed --process.index 2 --process.count 2", "index must be in"),
        ("--distributed --process.count 0", "count must be at least 1, got 0"),
        ("--process.count 2", "--distributed: give it too"),
        ("--ensemble 2 --mesh.data 2", "--ensemble run on one device"),
        ("--refine --input grain", "--refine run on one device"),
    ],
)
def test_settings_that_do_not_go_together_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        shakespeare.command_line(arguments.split())
