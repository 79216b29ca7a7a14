"""The example as a user runs it, in processes of its own, and its parts importable as `lm`."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
sys.path.insert(0, str(EXAMPLES))
sys.path.insert(0, str(Path(__file__).parent))  # a helper module


@pytest.fixture(autouse=True)
def as_users_run_it():
    """float32 by default, and promotion as optax needs it (it multiplies floats by counters)."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        yield


@dataclasses.dataclass(frozen=True)
class Job:
    """`python examples/shakespeare.py ARGUMENTS`; compiled programs are shared between runs."""

    environment: dict[str, str]

    def start(self, *arguments: object) -> subprocess.Popen:
        command = [sys.executable, str(EXAMPLES / "shakespeare.py"), *map(str, arguments)]
        return subprocess.Popen(
            command,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def run(self, *arguments: object) -> subprocess.CompletedProcess:
        process = self.start(*arguments)
        try:
            out, err = process.communicate(timeout=600)
        finally:
            process.kill()  # no child survives a timeout
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def report(self, folder: Path, *arguments: object) -> dict:
        """Run it to the end; what it reports."""
        done = self.run("--directory", folder, *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads((folder / "report.json").read_text())


@pytest.fixture(scope="session")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    cache = tmp_path_factory.getbasetemp() / "compiled"
    changed = {
        "JAX_COMPILATION_CACHE_DIR": str(cache),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS", "1"),
        "PYTHONWARNINGS": "",
        "COLUMNS": "400",  # messages stay on one line
    }
    return Job(os.environ | changed)


@pytest.fixture
def refused(job):
    """Run the job where it must refuse: its message, one sentence on stderr, no traceback."""

    def run(*arguments: object) -> str:
        done = job.run(*arguments)
        assert done.returncode == 1, (done.returncode, done.stdout, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("error: ")
        return done.stderr

    return run
