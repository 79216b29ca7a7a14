"""Steps repeated leave nothing behind: no arrays, no programs; and give the same bits again.

`benchmarks/endurance.py` takes a thousand of each, and looks at the process's memory too.
"""

import sys
from pathlib import Path

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="module")
def endurance():
    import endurance

    return endurance


@pytest.mark.slow
@pytest.mark.parametrize("work", ["training step", "memory append", "particles"])
def test_steps_leave_nothing_behind(endurance, work):
    with jax.enable_x64(False):
        step, state = endurance.WORK[work]()
        first, again = (endurance.flat(step, state, 30) for _ in range(2))
    for row in (first, again):
        grown = endurance.grown(row)
        assert (grown["arrays"], grown["array_bytes"], grown["programs"]) == (0, 0, 0)
    assert first["bits"] == again["bits"]
    assert len(first["bits"]) > 50


def test_the_census_sees_what_is_left(endurance):
    before = endurance.census()
    kept = [jax.numpy.ones(3), jax.jit(lambda x: x + 2)(jax.numpy.ones(5))]
    after = endurance.census()
    assert after["arrays"] >= before["arrays"] + len(kept)
    assert after["programs"] > before["programs"]
