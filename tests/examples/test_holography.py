"""Levels of a text's activations: what the example writes, and what its figures must obey."""

import json

import holography as example
import jax
import numpy as np
import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The example as a user runs it: its report and its picture."""
    folder = tmp_path_factory.mktemp("holography")
    picture, results = folder / "new" / "picture.png", folder / "new" / "results.json"
    with pytest.MonkeyPatch.context() as patch:
        files = ["--output", str(picture), "--results", str(results)]
        patch.setattr("sys.argv", ["holography.py", "--quick", *files])
        with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
            example.main()
    return json.loads(results.read_text()), picture


@pytest.mark.slow
def test_it_writes_what_it_says(run):
    report, picture = run
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert report["text"] == "argparse.py"
    assert {row["field"] for row in report["errors"]} == set(report["energy"])
    assert 1 < report["nats"] < 6


def test_shares_of_energy_sum_to_one_and_noise_is_where_it_should_be(run):
    energy = run[0]["energy"]
    for shares in energy.values():
        np.testing.assert_allclose(sum(shares), 1.0, atol=1e-5)
        assert min(shares) > -0.02  # levels are not quite nested
    np.testing.assert_allclose(energy["white noise"][:2], [0.5, 0.25], atol=0.03)
    assert energy["1/f²"][0] < 0.05


def test_losses_are_those_of_the_noise(run):
    for row in run[0]["errors"]:
        lost = row["lost"]
        assert all(0 <= share <= 1 for share in lost.values())
        assert lost["largest Haar"] <= lost["block means"] + 1e-6
        if row["field"] == "white noise" and row["kept"] >= 0.25:
            fixed = [share for name, share in lost.items() if name != "largest Haar"]
            np.testing.assert_allclose(fixed, 1 - row["kept"], atol=0.03)
        if row["field"] == "1/f" and row["kept"] >= 0.25:
            assert lost["slow cosines"] < lost["Δ = 1"] < lost["block means"]


def test_all_levels_are_better_conditioned_than_one_deep_one(run):
    found = run[0]["conditioning"]
    np.testing.assert_allclose(found["one_depth"][:4], [2.5, 11.5, 263, 1.38e5], rtol=0.01)
    assert max(found["rows"]) < 6.1
    assert max(found["isometric"]) < 2.7


def test_haar_coefficients_keep_the_energy():
    field = np.random.default_rng(0).normal(size=(32, 3))
    found = example._haar(field)
    np.testing.assert_allclose(np.sum(found**2, 0), np.sum(field**2, 0))
    block = field.reshape(4, 8, 3).mean(1)
    np.testing.assert_allclose(np.sum(found[-4:] ** 2, 0), 8 * np.sum(block**2, 0))
