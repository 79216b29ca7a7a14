"""Strict settings for every test: x64 on, strict dtypes and ranks, shapes checked at run time.

On CPUs most tests compile without LLVM's optimizations and by XLA's plainer emitter of loops: these
take longer than all else and change no step of a program; JAX_DISABLE_MOST_OPTIMIZATIONS=0 in the
environment runs all as users do.
"""

import gc
import itertools
import os
import subprocess
import sys

# Before NumPy: two test processes on two cores, whose BLAS threads would only wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import jaxtyping
import pytest

jax.config.update("jax_enable_x64", True)  # float64 references; float32 inputs must stay float32
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

_QUICK = "jax_disable_most_optimizations"
# One piece of machine code a program: pieces compile side by side, and cost more in all.
_PLAIN = "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"

# XLA ends a process over a flag that it does not know: only in versions known to have these.
if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ and jax.__version_info__ < (0, 11):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_PLAIN}".strip()

# Not the kernels: a checked function is not what Triton compiles.
_hook = jaxtyping.install_import_hook("physnet", "beartype.beartype")
_hook.__enter__()


gc.set_threshold(50_000, 20, 50)  # tracing makes many objects that live: collect less often


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Neighbours run in one process, which compiles once what they share (--dist=worksteal)."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_collection_finish():
    gc.freeze()  # modules and tests stay: nothing there to collect


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.suffix != ".md")  # README.md is the longest: it begins
    if any(device.platform == "gpu" for device in jax.devices()):
        return
    if "JAX_DISABLE_MOST_OPTIMIZATIONS" not in os.environ:
        jax.config.update(_QUICK, True)
    skip = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords:
            item.add_marker(skip)


def _crowded() -> bool:
    """Whether half of the pieces of memory that Linux lets a process map are in use."""
    try:
        with open("/proc/sys/vm/max_map_count") as most, open("/proc/self/maps", "rb") as maps:
            return 2 * maps.read().count(b"\n") > int(most.read())
    except OSError:  # another system, without this bound
        return False


_ended = itertools.count(1)


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown():
    """Every loop of a program that JAX keeps takes a few; LLVM ends a process that has no more."""
    if next(_ended) % 16 == 0 and _crowded():  # to count them takes milliseconds
        jax.clear_caches()


@pytest.fixture
def optimized():
    """Compile as for users: what is timed, or compared to the bit. Memory is the same either way:
    its buffers are assigned before machine code is made."""
    before = jax.config.read(_QUICK)
    jax.config.update(_QUICK, False)
    yield
    jax.config.update(_QUICK, before)


@pytest.fixture
def bare_errors():
    """Switch the run-time shape hook off, to see the library's own errors as a user does."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def on_devices():
    """on_devices(code, count): what Python code prints in a process with so many CPU devices."""

    def run(code: str, count: int) -> str:
        environment = os.environ | {
            "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} "
            f"--xla_force_host_platform_device_count={count}",
            "JAX_PLATFORMS": "cpu",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        }
        command = [sys.executable, "-W", "error", "-c", code]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout.strip()

    return run
