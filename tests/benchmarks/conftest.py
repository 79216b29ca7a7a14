"""The benchmarks as a user runs them, and their parts importable."""

import concurrent.futures
import sys
from pathlib import Path

import jax
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))


@pytest.fixture(autouse=True)
def as_users_run_it():
    """float32 by default, and promotion as optax needs it."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


class Here(concurrent.futures.Executor):
    """A pool that works in this thread, which has the settings of a test."""

    def __init__(self, threads=None):
        pass

    def submit(self, function, /, *arguments, **options):
        done = concurrent.futures.Future()
        done.set_result(function(*arguments, **options))
        return done


@pytest.fixture
def run_main(monkeypatch, capsys):
    """A benchmark's command: run_main(module, *arguments) runs its `main`, and what it printed."""

    def run(module, *arguments, pools=()):
        for place in pools:
            monkeypatch.setattr(place, "ThreadPoolExecutor", Here)
        monkeypatch.setattr("sys.argv", [f"{module.__name__}.py", *map(str, arguments)])
        with jax.numpy_rank_promotion("allow"):
            module.main()
        return capsys.readouterr().out

    return run
