"""The smoke preset of benchmarks/blackbox.py, what its numbers mean, and its functions."""

import json
import sys

import blackbox
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from minimise import methods, problems


def test_smoke_preset(tmp_path, monkeypatch, capsys):
    output, picture = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["blackbox.py", "--preset", "smoke", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", [*arguments, "--picture", str(picture)])
    blackbox.main()
    (row,) = json.loads(output.read_text())["rows"]
    assert (row["problem"], row["method"]) == ("sphere 10", "path integral")
    assert row["successes"] == row["runs"] == 3
    assert row["ert"] == sum(row["evaluations"]) / 3 < 2000
    assert row["finite"]
    assert picture.stat().st_size > 5000
    assert "| sphere 10 | " in capsys.readouterr().out
    blackbox.main()  # what is there is not run again
    assert json.loads(output.read_text())["rows"] == [row]


def test_functions_have_their_minimum_where_they_should():
    ones, zeros = jnp.ones(5, jnp.float32), jnp.zeros(5, jnp.float32)
    assert problems.rosenbrock(ones) == problems.sphere(zeros) == problems.ellipsoid(zeros) == 0
    assert problems.rastrigin(zeros) == 0 < problems.rastrigin(ones)
    np.testing.assert_allclose(problems.ellipsoid(ones), 10 ** (1.5 * np.arange(5)) @ ones, 1e-5)
    for index, name in enumerate(problems.ROTATED):
        loss = jax.jit(jax.vmap(problems.bbob(name, 20, 10 * index)))
        turn = problems.rotation(20, 10 * index)
        np.testing.assert_allclose(turn @ turn.T, np.eye(20), atol=1e-5)
        optimum = np.random.default_rng(1000 + 10 * index).uniform(-4, 4, 20)
        if name == "Rosenbrock":
            optimum = turn.T @ np.full(20, 0.5)
        there, beside = loss(jnp.asarray([optimum, optimum + 0.1], jnp.float32))
        assert there < 1e-5
        assert beside > 1e-2


def test_peers_say_what_they_need(monkeypatch):
    monkeypatch.setitem(sys.modules, "evosax", None)  # as if it were not installed
    monkeypatch.setitem(sys.modules, "evosax.algorithms", None)
    peer = next(way for way in methods.methods() if way.peer)
    with pytest.raises(SystemExit, match="need evosax"):
        peer.make(problems.problems()[0])


def test_expected_running_time_over_the_reference():
    def row(problem, method, ert, peer):
        return {"problem": problem, "method": method, "ert": ert, "peer": peer}

    rows = [
        row("sphere 10", "path integral", 900.0, False),
        row("sphere 10", "CMA_ES", 1000.0, True),
        row("sphere 10", "SNES", 800.0, True),
        row("rotated discus 20", "path integral", None, False),
    ]
    (found,) = blackbox.summary(rows)
    assert found["reference"] == "CMA_ES"
    assert (found["ratio"], found["limit"], found["ratio_to_best"]) == (0.9, 1.3, 1.125)
    assert found["best_peer"] == "SNES"
