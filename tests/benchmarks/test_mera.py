"""The benchmark of the MERA runs, its wavelets are wavelets, and its errors are errors."""

import dataclasses
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import signals
from compressors import WAYS, wavelet_levels
from mera import PICTURE, RESULTS, SMOKE, Settings, main, parameters
from signals import pink

from physnet.holography import mera


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mera")
    files = ["--output", str(folder / "r.json"), "--picture", str(folder / "p.png")]
    with (
        pytest.MonkeyPatch.context() as patch,
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
    ):
        patch.setattr(sys, "argv", ["mera.py", "--preset", "smoke", *files])
        main()
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "r.json").read_text())


@pytest.mark.slow
def test_smoke_measures_every_way(report):
    rows = {row["way"]: row for row in report["compression"]}
    assert set(rows) == set(WAYS)
    for row in rows.values():
        assert 0 < row["own"] < 1
        assert 0 < row["held_out"] < 1.2
        assert row["held_out_error"] > 0
    best = rows["global PCA"]
    for row in rows.values():  # no fixed linear map of this size does better on its examples
        assert row["own"] >= best["own"] - 1e-6
    # Training lowers what was lost of the examples below the start from principal axes.
    assert rows["tree"]["own"] < rows["Haar"]["own"]
    assert rows["MERA"]["own"] < rows["tree"]["own"] + 0.01
    assert rows["MERA"]["above_mera"] == 0
    (ring,) = report["ising"]
    assert all(error > 0 for error in ring["errors"])


def test_parameters_are_counted():
    settings = Settings()
    count = {way: parameters(way, 3, 64, 16, settings) for way in ("MERA", "tree", "global PCA")}
    assert count["tree"] == 3 * 32 * 16
    assert count["MERA"] == count["tree"] + 3 * 32 * 32
    assert count["global PCA"] == 64 * 16 * 64 * 16 // 8
    assert parameters("block PCA", 3, 64, 16, settings) == 128 * 16
    assert parameters("feature PCA", 3, 64, 16, settings) == 16 * 2
    assert parameters("Haar", 3, 64, 16, settings) == 0


def test_wavelets_have_their_taps_and_moments():
    r = np.sqrt(3)
    taps = np.array([1 + r, 3 + r, 3 - r, 1 - r]) / (4 * np.sqrt(2))
    unit = jnp.eye(16)[..., None]
    for count, want in ((2, np.array([0, 1, 1, 0]) / np.sqrt(2)), (4, taps)):
        (level,) = wavelet_levels(1, 1, count)
        low = np.asarray(mera.encode((level,), unit, boundary="periodic").top)[..., 0].T
        assert low.shape == (8, 16)
        for i in range(8):
            row = np.roll(low[i], -(2 * i - 1))
            np.testing.assert_allclose(row[:4], want, atol=1e-6)
            np.testing.assert_allclose(row[4:], 0, atol=1e-6)


class Text:
    """What the measurements need of a text."""

    characters = "abc"
    train = np.random.default_rng(0).integers(0, 3, 400)

    def fingerprint(self):
        return "of these characters"


@pytest.mark.slow
def test_a_window_is_continued_from_the_keys_and_values_given(tmp_path):
    settings = dataclasses.replace(SMOKE, window=8, model_steps=15)
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        config, params = signals.model(Text(), 0, settings, tmp_path)
        _, again = signals.model(Text(), 0, settings, tmp_path)
        rows = signals.windows(Text.train, 4, 17, 0)
        slots = signals.cached(config, params, rows, settings)
        found = signals.continued(config, params, rows, slots, settings)
        exact = signals.nats(config, params, rows)[:, 8:].mean()
        other = signals.continued(config, params, rows, 0 * slots, settings)
    jax.tree.map(np.testing.assert_array_equal, params, again)  # read from the folder
    np.testing.assert_allclose(found, exact, rtol=1e-5)
    assert abs(other - exact) > 1e-3


def test_pink_signals_fall_as_one_over_f():
    x = np.asarray(pink(jax.random.key(0), 400, 256, 1))[..., 0]
    assert x.shape == (400, 256)
    power = (np.abs(np.fft.rfft(x * np.hanning(256))) ** 2).mean(0)
    slope = np.polyfit(np.log(np.arange(4, 64)), np.log(power[4:64]), 1)[0]
    assert abs(slope + 1) < 0.15


def test_measured_results_are_there():
    assert PICTURE.stat().st_size > 10_000
    report = json.loads(RESULTS.read_text())
    settings = report["settings"]
    assert settings["seeds"] >= 3
    ways = {row["way"] for row in report["compression"]}
    assert ways == set(WAYS)
    assert SMOKE.window < settings["window"]
    best = min(min(ring["errors"]) for ring in report["ising"])
    assert 0 < best < 1e-4
