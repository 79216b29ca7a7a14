"""The benchmarks as a user runs them, in processes of their own, and their parts importable."""

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
