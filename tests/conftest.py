"""Strict settings for every test: x64 on, strict dtypes and ranks, shapes checked at run time."""

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)  # float64 references; float32 inputs must stay float32
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Not the kernels: a checked function is not what Triton compiles.
_hook = jaxtyping.install_import_hook("physnet", "beartype.beartype")
_hook.__enter__()


def pytest_collection_modifyitems(items):
    if any(device.platform == "gpu" for device in jax.devices()):
        return
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


@pytest.fixture
def bare_errors():
    """Switch the run-time shape hook off, to see the library's own errors as a user does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
