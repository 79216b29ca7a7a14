"""Checkpoints and metrics: what is damaged is noticed, named and set aside, never read as sound."""

import gc
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lm.checkpoints import Checkpoints, digest
from lm.errors import UserError
from lm.metrics import Metrics, read


def state(seed):
    values = np.random.default_rng(seed).normal(size=(40, 50)).astype(np.float32)
    return {"params": {"w": jnp.asarray(values), "step": jnp.asarray(seed, jnp.int32)}}


@pytest.fixture
def folder(tmp_path):
    """Checkpoints of steps 10 and 20 (10 older ones were let go)."""
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (0, 5, 10, 20):
            checkpoints.save(step, state(step), {"seconds": step / 2})
    return tmp_path / "checkpoints"


def restore(folder):
    said = []
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(jax.eval_shape(lambda: state(0)), say=said.append), said


def damage(path, kind):
    data = bytearray(path.read_bytes())
    if kind == "flip":
        data[len(data) // 2] ^= 0xFF
        path.write_bytes(data)
    elif kind == "truncate":
        path.write_bytes(data[: len(data) // 2])
    else:
        path.unlink()


def test_the_newest_comes_back_to_the_bit(folder):
    found, said = restore(folder)
    assert (found.step, found.meta["seconds"], said) == (20, 10.0, [])
    assert digest(found.state) == digest(state(20)) != digest(state(10))
    assert sorted(path.name for path in folder.iterdir()) == ["10", "20"]


def test_nothing_stored_is_none(tmp_path):
    assert restore(tmp_path / "checkpoints") == (None, [])


@pytest.fixture
def swept():
    """The reader leaves coroutines that its failing siblings cancelled: none for later tests."""
    yield
    gc.collect()


@pytest.mark.slow
@pytest.mark.usefixtures("swept")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("kind", ["flip", "truncate", "unlink"])
def test_every_damaged_file_sends_it_back_to_the_one_before(folder, tmp_path, kind):
    expected = digest(state(10))
    files = [path for path in (folder / "20").rglob("*") if path.is_file() and path.stat().st_size]
    assert len(files) >= 5
    noticed = 0
    for number, path in enumerate(files):
        copy = tmp_path / f"copy{number}" / "checkpoints"
        shutil.copytree(folder, copy)
        damage(copy / path.relative_to(folder), kind)
        found, said = restore(copy)
        if found.step == 20:  # a file that nobody needs: the content is still exact
            assert digest(found.state) == digest(state(20))
            continue
        noticed += 1
        assert (found.step, digest(found.state)) == (10, expected)
        assert len(said) == 1
        assert said[0].startswith("checkpoint 20 is damaged (")
        aside = list((copy.parent / "damaged").iterdir())
        assert len(aside) == 1  # kept, not deleted
        assert restore(copy)[1] == []  # and not looked at again
    assert noticed >= 1


@pytest.mark.usefixtures("swept")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_all_damaged_is_an_error_that_keeps_them(folder):
    for step in ("10", "20"):
        for path in (folder / step).rglob("*"):
            if path.is_file():
                path.write_bytes(b"")
    with pytest.raises(UserError, match=r"no checkpoint in .* could be read \(steps \[20, 10\]\)"):
        restore(folder)
    assert len(list((folder.parent / "damaged").iterdir())) == 2
    assert restore(folder)[0] is None  # the next run begins again


def test_a_checkpoint_that_cannot_be_written_leaves_the_earlier_ones(folder, monkeypatch):
    with Checkpoints(folder) as checkpoints:

        def full(*arguments, **options):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(checkpoints._manager, "save", full)
        with pytest.raises(UserError, match=r"could not write checkpoint 30 .*No space left"):
            checkpoints.save(30, state(30), {})
    assert restore(folder)[0].step == 20


def write(folder, step, last):
    with Metrics(folder, step=step) as metrics:
        for number in range(step + 1, last + 1):
            metrics.record("train", number, loss=1.0 / number)


def test_metrics_beyond_the_step_are_taken_back(tmp_path):
    write(tmp_path, 0, 7)
    write(tmp_path, 5, 9)
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == list(range(1, 10))


def test_a_metrics_line_cut_short_by_a_kill_is_left_out(tmp_path):
    write(tmp_path, 0, 3)
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"kind": "train", "st')
    assert len(read(path)) == 3
    write(tmp_path, 3, 4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3, 4]


def test_a_damaged_metrics_line_is_named(tmp_path):
    write(tmp_path, 0, 3)
    path = tmp_path / "metrics.jsonl"
    before = path.read_bytes().replace(b'"step": 2', b'"step\xff: 2')
    path.write_bytes(before)
    with pytest.raises(UserError, match=r"metrics.jsonl, line 2 is damaged"):
        write(tmp_path, 3, 4)
    assert path.read_bytes() == before
