"""The benchmark of natural gradients runs, its text task trains, and its results are there."""

import json
import sys

import jax
import natural_gradient as benchmark
import natural_tasks
import numpy as np
import pytest
from natural_methods import METHODS


def test_smoke_measures_three_methods(tmp_path, monkeypatch):
    files = ["--output", str(tmp_path / "r.json"), "--picture", str(tmp_path / "p.png")]
    monkeypatch.setattr(sys, "argv", ["natural_gradient.py", "--preset", "smoke", *files])
    with jax.numpy_rank_promotion("allow"):  # as users have it
        benchmark.main()
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    (task,) = json.loads((tmp_path / "r.json").read_text())["tasks"].values()
    rows = task["rows"]
    assert set(rows) == {*benchmark.SMOKE_METHODS, "Adam, more steps"}
    starts = {tuple(np.array(row["curves"]["test"])[:, 0]) for row in rows.values()}
    assert len(starts) == 1  # paired: the same parameters to begin with
    for name, row in rows.items():
        curves = np.array(row["curves"]["train"])
        assert curves.shape == (2, 3)
        assert np.isfinite(curves).all()
        if "Fisher" not in name:  # ten steps of eight digits are few for its metric
            assert (curves[:, -1] < curves[:, 0]).all()
        assert row["seconds_a_step"] > 0
    assert rows["Adam"]["above_adam"]["test"] == [0, 0]
    assert rows["Adam, more steps"]["steps"][-1] == 10 * rows["Adam, more steps"]["times"]


def test_differences_to_adam_are_paired():
    def row(tune):
        return {"steps": [0, 10, 20], "seconds_a_step": 0.1, "curves": {"tune": tune}}

    rows = {
        "Adam": row([[3.0, 2.0, 1.5], [3.0, 1.0, 1.1]]),
        "other": row([[3, 1.5, 1], [3, 2, 0.6]]),
    }
    benchmark.compare(rows)
    assert rows["other"]["above_adam"]["tune"] == pytest.approx((-0.5, 0.0))
    assert rows["other"]["steps_to_adams_best"] == [10, 20]
    assert rows["other"]["seconds_to_adams_best"] == pytest.approx(1.5)
    assert rows["Adam"]["steps_to_adams_best"] == [20, 10]


def test_batches_and_matrices_of_digits():
    task = natural_tasks.digits(batch=8)
    params = jax.eval_shape(task.init, jax.random.key(0))
    assert natural_tasks.size(task) == 2410
    assert task.matrix(params) == {"up": True, "up_bias": False, "down": True, "down_bias": False}
    x, y = task.batch(jax.random.key(1))
    assert x.shape == (8, 64)
    assert ((y >= 0) & (y < 10)).all()


def test_measured_results_are_there():
    assert benchmark.PICTURE.stat().st_size > 10_000
    report = json.loads(benchmark.RESULTS.read_text())
    for name, settings in benchmark.FULL.items():
        task = report["tasks"][name]
        assert set(task["rows"]) == {*METHODS[name], "Adam, more steps", "Muon, more steps"}
        assert task["settings"]["seeds"] == settings.seeds >= 3
        for row in task["rows"].values():
            trials = row.get("tuned", {}).get("trials")
            assert trials is None or len(trials) == settings.rates * settings.seconds
    assert 10_000 < report["tasks"]["text"]["parameters"] < 100_000
