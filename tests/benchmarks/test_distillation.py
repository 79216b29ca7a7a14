"""The benchmark of distillation runs, and its scores and differences are what they are called."""

import json
import sys

import distillation
import jax
import numpy as np
import pytest
from distillation_tasks import Recipe, text
from ensemble import corpora


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("distillation")
    files = ["--output", str(folder / "r.json"), "--picture", str(folder / "p.png")]
    with (
        pytest.MonkeyPatch.context() as patch,
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        patch.setattr(sys, "argv", ["distillation.py", "--preset", "smoke", *files])
        distillation.main()
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "r.json").read_text())


@pytest.mark.slow
def test_smoke_measures_every_row(report):
    assert set(report["tasks"]) == {"digits", "text"}
    for task in report["tasks"].values():
        assert [row["row"] for row in task["rows"]] == list(distillation.ROWS)
        single, ensemble = task["rows"][:2]
        assert single["nats_gain"] == single["nats_gain_error"] == 0
        assert ensemble["nats"] < single["nats"]  # Jensen: always
        runs = [run["rows"] for run in task["runs"]]
        for row in task["rows"]:
            own = [run[row["row"]]["nats"] for run in runs]
            assert row["nats"] == pytest.approx(np.mean(own))
            gains = np.subtract(own, [run["single"]["nats"] for run in runs])
            assert row["nats_gain_error"] == pytest.approx(abs(gains[0] - gains[1]) / 2)
        one = task["comparisons"][0]
        rows = [np.mean([run[one[name]]["nats"] for run in runs]) for name in ("row", "minus")]
        assert one["nats"] == pytest.approx(rows[0] - rows[1])


def test_digits_networks_learn_and_their_weights_have_no_mean(report):
    task = report["tasks"]["digits"]
    rows = {row["row"]: row for row in task["rows"]}
    assert rows["single"]["nats"] < 2.2 < np.log(10)
    assert rows["mean of weights"]["nats_gain"] > 0.05
    assert task["collapse"]["mean of weights"]["one_basin"] == 0
    assert task["collapse"]["mean, one run"]["one_basin"] == 1


def test_scores_are_counted():
    p = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.48, 0.52]])
    labels = np.array([0, 1, 0, 1])
    found = distillation.scores(np.log(p), labels)
    assert found["accuracy"] == 0.75
    assert found["nats"] == pytest.approx(-np.log([0.9, 0.1, 0.6, 0.52]).mean())
    # Bins of width 1/15: two of .9 with one hit, .6 (exactly 9/15) and .52, each a hit.
    assert found["ece"] == pytest.approx((abs(1 - 1.8) + 0.4 + 0.48) / 4)


def test_windows_of_text_are_next_characters():
    corpus = corpora.split("argparse.py", corpora.python_source(), block=8)
    recipe = Recipe(seeds=2, members=2, students=1, steps=1, batch=2, rate=0.1)
    sizes = {"labels": 100, "transfer": 200, "tested": 50, "stride": 4}
    task = text(corpus, recipe, context=8, layers=1, width=8, **sizes)
    data = task.data(3)
    for inputs, labels in data:
        assert inputs.shape == labels.shape
        assert np.array_equal(inputs[:, 1:], labels[:, :-1])
    everything = corpus.decode(corpus.train)
    stretch = [corpus.decode(row) for row in data.labelled[0]]
    assert len(stretch) == 23
    assert "".join(row[:4] for row in stretch) in everything
    assert np.array_equal(data.test[0][0], corpus.validation[:8])
    assert not np.array_equal(task.data(4).labelled[0], data.labelled[0])
    assert jax.eval_shape(task.apply, task.init(jax.random.key(0)), inputs).shape[-1] == len(
        corpus.characters
    )


def test_stopped_runs_go_on(tmp_path):
    made = [1.0, 2.0]
    first = distillation.kept(tmp_path, "x", "settings", lambda: made.pop())
    again = distillation.kept(tmp_path, "x", "settings", lambda: made.pop())
    other = distillation.kept(tmp_path, "x", "others", lambda: made.pop())
    assert (first, again, other) == (2.0, 2.0, 1.0)
