"""Every public function as users call it: no shape hook, promotion and ranks as JAX has them."""

import sys
from pathlib import Path

import jax
import jaxtyping
import pytest

sys.path.insert(0, str(Path(__file__).parent))  # the tables and their rules


@pytest.fixture(autouse=True)
def as_users_call_it():
    jaxtyping.config.update("jaxtyping_disable", True)
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
    jaxtyping.config.update("jaxtyping_disable", False)
