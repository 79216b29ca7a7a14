"""Steps as users take them: promotion and ranks as JAX has them."""

import jax
import pytest


@pytest.fixture(autouse=True)
def as_users_run_it():
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
