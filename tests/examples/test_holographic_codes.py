"""Holographic codes as a user runs the example; its memories hold what they say they hold."""

import json

import holographic_codes as example
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from erasure_lab import memories
from erasure_lab.recall import LOSSES, QUARTER


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The smoke preset: its report and its picture."""
    folder = tmp_path_factory.mktemp("codes")
    picture, results = folder / "new" / "picture.png", folder / "new" / "results.json"
    as_users = jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow")
    with jax.enable_x64(False), as_users[0], as_users[1], pytest.MonkeyPatch.context() as patch:
        files = ["--output", str(picture), "--results", str(results)]
        patch.setattr("sys.argv", ["holographic_codes.py", "--preset", "smoke", *files])
        example.main()
    return json.loads(results.read_text()), picture


@pytest.mark.slow
def test_curves_fall_and_the_greedy_one_lies_below(run):
    report, picture = run
    assert picture.read_bytes().startswith(b"\x89PNG")
    by_code = {}
    for row in report["erasures"]:
        for curve in row["curves"]:
            rate = np.array(curve["rate"])
            assert rate[0] == 1
            assert np.all(np.diff(rate) <= 0)
            by_code.setdefault((row["family"], curve["rings"]), {})[row["decoder"]] = rate
    assert len(by_code) >= 6
    for curves in by_code.values():
        assert np.all(curves["greedy"] <= curves["optimal"])
    assert all(abs(row["rate"] - row["published"]) < 0.011 for row in report["rates"])


def test_recall_under_loss(run):
    found = {row["memory"]: np.array(row["recall"]) for row in run[0]["recall"]}
    assert set(found) == set(memories.MEMORIES)
    assert abs(found["float32 as it is"][QUARTER] - 0.75) < 0.03
    assert found["bfloat16 coded"][QUARTER] > 0.99 > found["bfloat16 twice"][QUARTER]
    assert found["float32, merged, coded"][0] < 0.7  # half as many slots: the price
    gains = {row["memory"]: row for row in run[0]["recall"] if "replica" in row}
    assert set(gains) == set(memories.REPLICAS)
    for name, row in gains.items():
        less = found[name] - found[memories.REPLICAS[name]]
        np.testing.assert_allclose(row["gain"], less, atol=2e-4)
        assert len(row["gain_error"]) == len(LOSSES)


def test_memories_are_within_the_budget():
    assert memories.BUDGET == 128 * 64 * 4 == 32768
    assert 2 * memories.PAIRS * 64 * 2 == memories.BUDGET
    assert memories.ROWS_4 * (64 // 2 + 2) <= memories.BUDGET


def test_four_bits_are_fifteen_values_a_row():
    with jax.numpy_dtype_promotion("standard"):
        rows = jax.random.normal(jax.random.key(0), (5, 400))
        found = np.asarray(memories.four_bits(rows))
    assert max(len(np.unique(row)) for row in found) <= 15
    assert np.abs(found - rows).max() < np.abs(rows).max() / 14 * 1.05


def test_conditions_of_repetition_and_of_the_code(run):
    at = {(row["code"], row["lost"]): row["median"] for row in run[0]["conditions"]}
    assert at["repetition", 0.25] > 1e10
    assert at["Hadamard", 0.25] < 4.5 < at["low-pass DCT", 0.25]
    assert jnp.isfinite(at["Hadamard", 0.5])
