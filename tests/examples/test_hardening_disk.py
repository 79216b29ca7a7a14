"""A disk that is full, and files that hold something else: a sentence, and nothing is lost."""

import gc
import pickle
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lm import files
from lm.checkpoints import Checkpoints, digest
from lm.errors import UserError
from lm.metrics import Metrics, read

SIDE = 200  # of a matrix of 160 kB, more than the limit below


def state(seed):
    values = np.random.default_rng(seed).normal(size=(SIDE, SIDE)).astype(np.float32)
    return {"w": jnp.asarray(values), "step": jnp.asarray(seed, jnp.int32)}


@pytest.fixture
def folder(tmp_path):
    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, state(step), {"seconds": 1.0})
    return tmp_path / "checkpoints"


@pytest.fixture
def swept():
    """Reader and writer leave coroutines that failing siblings cancelled: none for later tests."""
    yield
    gc.collect()


def restore(folder):
    said = []
    with Checkpoints(folder) as checkpoints:
        return checkpoints.restore(jax.eval_shape(lambda: state(0)), say=said.append), said


@pytest.fixture
def full():
    """full(): from now on no file can grow beyond 20 kB; full(False): again without a limit."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limit(on=True):
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000 if on else before[0], before[1]))

    yield limit
    limit(False)


@pytest.mark.slow
@pytest.mark.usefixtures("swept")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_full_disk_costs_the_new_checkpoint_alone(folder, full):
    with Checkpoints(folder) as checkpoints:
        full()
        with pytest.raises(UserError, match=r"could not write checkpoint 30 into .* run again"):
            checkpoints.save(30, state(30), {"seconds": 2.0})
    full(False)
    found, said = restore(folder)
    assert (found.step, digest(found.state), said) == (20, digest(state(20)), [])
    with Checkpoints(folder) as checkpoints:
        checkpoints.save(30, state(30), {"seconds": 2.0})
    assert restore(folder)[0].step == 30
    assert sorted(path.name for path in folder.iterdir()) == ["20", "30"]  # nothing half written


def test_a_full_disk_keeps_the_old_small_file(tmp_path, full):
    path = tmp_path / "report.json"
    files.replace(path, "old")
    full()
    with pytest.raises(OSError, match="File too large"):
        files.replace(path, "x" * 30_000)
    full(False)
    assert path.read_text() == "old"


def test_metrics_of_a_full_disk_are_whole_up_to_the_last_flush(tmp_path, full):
    metrics = Metrics(tmp_path, step=0)
    for step in (1, 2):
        metrics.record("train", step, loss=1.0)
    metrics.flush()

    def many():
        for step in range(3, 2000):
            metrics.record("train", step, loss=1.0)
        metrics.flush()

    full()
    with pytest.raises(UserError, match=r"could not write metrics into .* \(File too large\)"):
        many()
    full(False)
    steps = [record["step"] for record in read(tmp_path / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))  # whole lines, and a cut one left out
    assert len(steps) >= 2
    metrics.__exit__()
    with Metrics(tmp_path, step=2) as again:
        again.record("train", 3, loss=1.0)
    assert [record["step"] for record in read(tmp_path / "metrics.jsonl")] == [1, 2, 3]


class Intruder:
    """Unpickling it writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (self.path.__class__.touch, (self.path,))


def hollowed(path, marker):
    path.write_bytes(b"")


def pickled(path, marker):
    path.write_bytes(pickle.dumps(Intruder(marker)))


def exchanged(path, marker):
    """Another checkpoint's bytes under this one's name."""
    others = [x for x in (path.parents[0]).parents if x.name == "20"] or [path.parent]
    other = others[0].parent / "10" / path.relative_to(others[0])
    if other.exists():
        shutil.copyfile(other, path)


@pytest.mark.slow
@pytest.mark.usefixtures("swept")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("damage", [hollowed, pickled, exchanged])
def test_files_that_hold_something_else_are_never_read_as_sound(folder, tmp_path, damage):
    """Each kind of file of a checkpoint; nothing that is in them is executed."""
    marker, noticed, kinds = tmp_path / "executed", 0, set()
    for number, path in enumerate(sorted((folder / "20").rglob("*"))):
        kind = path.parent.name if path.parent.name in ("d", "array_metadatas") else path.name
        place = (path.parent.relative_to(folder), kind)
        if not path.is_file() or place in kinds:
            continue
        kinds.add(place)
        copy = tmp_path / f"copy{number}" / "checkpoints"
        shutil.copytree(folder, copy)
        damage(copy / path.relative_to(folder), marker)
        found, said = restore(copy)
        expected = state(found.step)
        assert digest(found.state) == digest(expected)
        assert (found.step == 10) == (len(said) == 1)
        noticed += found.step == 10
        shutil.rmtree(copy.parent)
    assert len(kinds) >= 5
    assert noticed or damage is exchanged  # files of equal content may change places
    assert not marker.exists()


def test_a_checkpoint_without_content_is_passed_over(folder):
    (folder / "30").mkdir()
    assert restore(folder)[0].step == 20


def test_a_marker_is_what_unpickling_would_leave(tmp_path):
    """The intruder of the test above works where something does unpickle."""
    pickle.loads(pickle.dumps(Intruder(tmp_path / "executed")))
    assert (tmp_path / "executed").exists()
