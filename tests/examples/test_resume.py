"""A job that is killed with SIGKILL, again and again, ends where an unbroken one ends."""

import json
import random
import re
import struct
import time

import pytest
from lm.metrics import Metrics
from tensorboardX.proto.event_pb2 import Event, SessionLog

STEPS, EVERY, KILLS = 200, 10, 3
ARGUMENTS = (
    "--preset smoke --rows transformer --sample 0 --sizes.layers 1 --depths 1 "
    "--training.steps-per-call 5 "
    f"--training.steps {STEPS} --training.checkpoint-every {EVERY} --training.evaluate-every 50"
).split()


@pytest.fixture(scope="module")
def unbroken(job, tmp_path_factory):
    """The report and the folder of a run that nothing interrupts."""
    folder = tmp_path_factory.mktemp("unbroken")
    return job.report(folder, *ARGUMENTS), folder / "transformer"


def records(folder):
    """The records of metrics.jsonl (without times); a last line without its end is left out."""
    lines = (folder / "metrics.jsonl").read_text().split("\n")[:-1]
    found = [json.loads(line) for line in lines]
    return [{k: v for k, v in record.items() if k != "seconds"} for record in found]


def board(folder):
    """What TensorBoard shows of its event files: (tag, step) -> values, in order."""
    shown = {}
    for path in sorted((folder / "tensorboard").iterdir()):
        data, position = path.read_bytes(), 0
        while position + 12 <= len(data):
            (length,) = struct.unpack("<Q", data[position : position + 8])
            body = data[position + 12 : position + 12 + length]
            position += 16 + length
            if position > len(data):
                break  # a kill cut this record short
            event = Event.FromString(body)
            if event.session_log.status == SessionLog.START:
                shown = {key: old for key, old in shown.items() if key[1] < event.step}
            for value in event.summary.value:
                shown.setdefault((value.tag, event.step), []).append(value.simple_value)
    return shown


def finished(folder):
    """Steps of the checkpoints that are complete."""
    return [int(path.name) for path in (folder / "checkpoints").glob("*") if path.name.isdigit()]


def writing(folder):
    """Whether a checkpoint is being written."""
    return any("tmp" in path.name for path in (folder / "checkpoints").glob("*"))


def kill(process, reached, when):
    """SIGKILL as soon as `when()` holds, looked for closely once `reached()` does.

    What the process printed; None where it ended before.
    """
    for condition, pause in ((reached, 0.005), (when, 0.0003)):
        while process.poll() is None and not condition():
            time.sleep(pause)
    process.kill()
    out, err = process.communicate(timeout=60)
    assert process.returncode in (-9, 0), err
    return out if process.returncode == -9 else None


@pytest.mark.slow
def test_kills_at_any_moment_lose_at_most_checkpoint_every_steps(job, unbroken, tmp_path):
    report, whole = unbroken
    folder, chance = tmp_path / "transformer", random.Random(0)
    logged, mid_write, kills = 0, 0, 0

    def resumed_at(out):
        found = re.search(r"resuming after step (\d+)", out)
        return int(found[1]) if found else 0

    for attempt in range(KILLS):
        known = max(finished(folder), default=0)
        process = job.start("--directory", tmp_path, *ARGUMENTS)
        random_one = attempt % 2  # the others while a checkpoint is being written
        target = known + EVERY * (chance.randint(1, 3) if random_one else 1)
        delay = chance.random() * 0.03

        def reached(target=target):
            return max(finished(folder), default=0) >= target

        def after_a_while(delay=delay):
            time.sleep(delay)
            return True

        when = after_a_while if random_one else (lambda: writing(folder))
        out = kill(process, reached, when)
        assert out is not None, "the job ended before the kill: give it more steps"
        kills += 1
        mid_write += writing(folder)
        assert logged - resumed_at(out) <= EVERY
        logged = max(record["step"] for record in records(folder))
    assert kills == KILLS
    assert mid_write >= 1, "no kill fell into the writing of a checkpoint"

    process = job.start("--directory", tmp_path, *ARGUMENTS)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    assert 0 <= logged - resumed_at(out) <= EVERY
    resumed = json.loads((tmp_path / "report.json").read_text())
    assert resumed["rows"][0]["digest"] == report["rows"][0]["digest"]
    assert resumed["rows"][0]["nats"] == report["rows"][0]["nats"]

    found = records(folder)
    assert found == records(whole)  # to the bit, in order
    steps = [record["step"] for record in found if record["kind"] == "train"]
    assert steps == list(range(1, STEPS + 1))

    shown, expected = board(folder), board(whole)
    assert shown.keys() == expected.keys()
    for (tag, step), values in shown.items():
        assert len(values) == 1, f"{tag} of step {step} is shown {len(values)} times"
        if not tag.endswith("seconds"):
            assert values == expected[tag, step]


def test_what_was_flushed_is_on_the_disk(tmp_path):
    with Metrics(tmp_path, step=0) as first, Metrics(tmp_path, step=2) as second:
        for step in range(1, 2001):
            first.record("train", step, loss=float(step))
        first.flush()
        assert board(tmp_path) == {("train/loss", step): [step] for step in (1, 2)}
        for step in range(3, 9):
            second.record("train", step, loss=-float(step))
        second.flush()  # within a second of the first: a file of its own
        shown = board(tmp_path)
    assert shown == {("train/loss", s): [s if s < 3 else -s] for s in range(1, 9)}


@pytest.mark.slow
def test_a_finished_job_runs_again_without_training(job, unbroken):
    report, folder = unbroken
    before = records(folder)
    again = job.report(folder.parent, *ARGUMENTS)
    assert again == report
    assert records(folder) == before
