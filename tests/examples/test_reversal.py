"""Reversal of a chaotic chain: what the example writes, and who comes back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reversal


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The example as a user runs it: its report and its picture."""
    folder = tmp_path_factory.mktemp("reversal")
    picture, results = folder / "new" / "picture.png", folder / "new" / "results.json"
    with pytest.MonkeyPatch.context() as patch:
        files = ["--output", str(picture), "--results", str(results)]
        patch.setattr("sys.argv", ["reversal.py", "--quick", "--size", "8", *files])
        reversal.main()
    return json.loads(results.read_text()), picture


@pytest.mark.slow
def test_lattices_come_back_and_floats_do_not(run):
    report, picture = run
    assert picture.read_bytes().startswith(b"\x89PNG")
    for row in report["trajectories"]:
        assert row["elements"] == 16
        assert 0 < row["gradient_norm"] < 1e6
        if reversal.WAYS[row["way"]] is None:
            assert row["wrong"] > 8
            assert row["return"] > 1e-8
        else:
            assert row["wrong"] == row["return"] == 0
            assert row["gradient_error"] < 1e-4


def test_memory_grows_only_where_states_are_stored(run):
    by_name = {}
    for row in run[0]["memory"]:
        by_name.setdefault(row["gradient"], []).append(row["bytes"])
    assert set(by_name) == set(reversal.GRADIENTS)
    for name, sizes in by_name.items():
        if name.startswith("rebuilt"):
            assert sizes[-1] == sizes[0]
        else:
            assert sizes[-1] > 1.5 * sizes[0]


def test_the_force_is_a_gradient_and_conserves_energy():
    couplings, (q, _) = reversal.pendulums(6, 1.0)

    def potential(q):
        return jnp.sum(0.05 * q**2 - couplings * jnp.cos(jnp.roll(q, -1) - q))

    np.testing.assert_allclose(
        reversal.chain(couplings, q, None), -jax.grad(potential)(q), atol=1e-6
    )
