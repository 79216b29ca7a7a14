"""Basins: the landscapes have the minima that the example says, and a small run counts fairly."""

import json

import basins as example
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from basin_lab import methods, problems
from scipy.optimize import minimize


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("basins")
    files = ["--output", str(folder / "new" / "p.png"), "--results", str(folder / "r.json")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["basins.py", "--preset", "smoke", *files])
        with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
            example.main()
    assert (folder / "new" / "p.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "r.json").read_text())


@pytest.mark.slow
def test_smoke_runs_every_method_within_its_budget(report):
    rows = {row["method"]: row for row in report["rows"]}
    assert set(rows) == set(methods.METHODS)
    for row in rows.values():
        low, high = row["interval"]
        assert 0 <= low <= row["share"] <= high <= 1
        assert (row["lowest"] <= row["target"]) or row["share"] <= 0.5
        if row["hits"]:
            assert row["evaluations"] <= row["budget"] * row["seeds"] / row["hits"]
    assert rows["path integral"]["share"] > 0


@pytest.mark.parametrize("name", problems.FUNCTIONS)
def test_functions_are_least_where_they_say(name):
    value, half, best = problems.FUNCTIONS[name]
    with jax.enable_x64(True):
        points = np.random.default_rng(0).uniform(-half, half, (500, 3))
        points[0] = best
        at_best, *others = np.asarray(jax.jit(jax.vmap(value))(jnp.asarray(points)))
    assert abs(at_best) < 1e-5
    assert min(others) > at_best
    target = problems.function(name, 3, 1).target
    assert 0 < target < problems.next_minimum(name, 3)


@pytest.mark.parametrize("name", ["double wells", "Lévy"])
def test_no_other_minimum_reaches_the_target(name):
    value, half, best = problems.FUNCTIONS[name]
    target = problems.function(name, 2, 1).target
    with jax.enable_x64(True):
        both = jax.jit(jax.value_and_grad(value))
        for start in np.random.default_rng(1).uniform(-half, half, (40, 2)):
            found = minimize(lambda x: list(map(np.asarray, both(jnp.asarray(x)))), start, jac=True)
            near = np.max(np.abs(found.x - best)) < 1e-3
            assert near or found.fun > target


def test_parity_is_learned_by_known_weights():
    """XOR of signs = -tanh sums: units a + b - 1 and a + b + 1 decide it."""
    words, signs = problems.bits(2)
    np.testing.assert_array_equal(signs, words[:, 0] * words[:, 1])
    problem = problems.network("", words, signs, (2, 2, 1), jnp.tanh, 0.05, 1)
    assert problem.dimension == 9
    up = 8 * np.array([[1, 1], [1, 1]])
    weights = np.concatenate([up.ravel(), [8, -8], [-9, 9], [9]])
    assert problem.loss(jnp.asarray(weights, jnp.float32)) < 0.01
    at_zero = problem.loss(jnp.zeros(9, jnp.float32))
    np.testing.assert_allclose(at_zero, np.log(2), rtol=1e-6)


def test_intervals():
    """Of 8 of 10: Wilson's own formula, by its two roots."""
    low, high = example.wilson(8, 10)
    for p in (low, high):
        assert abs(abs(0.8 - p) - 1.96 * np.sqrt(p * (1 - p) / 10)) < 1e-9
    assert example.wilson(0, 20)[0] == 0
    assert example.wilson(20, 20)[1] == 1


def test_measured_results_are_there():
    root = example.Path(example.__file__).parents[1]
    assert (root / "docs" / "pictures" / "basins.png").stat().st_size > 10_000
    found = json.loads((root / "benchmarks" / "results" / "basins.json").read_text())
    rows = {(row["problem"], row["method"]): row for row in found["rows"]}
    assert {name for name, _ in rows} == {p.name for p in problems.problems("full")}
    assert len(rows) == len(methods.METHODS) * len(problems.problems("full"))
    assert min(row["seeds"] for row in rows.values()) >= 15
    cloud, adam = rows["Rastrigin 10", "path integral"], rows["Rastrigin 10", "Adam"]
    assert cloud["interval"][0] > adam["interval"][1]


def test_gradients_cost_three_and_restarts_restart():
    problem = problems.function("Rastrigin", 2, 60)
    still = problems.Problem("", 2, problem.loss, lambda key: jnp.ones(2), -1.0, 60)
    # With a rate of 0 every run stays at its start: the lowest loss is the start's.
    found, lowest = jax.jit(methods.descent(still, optax.sgd))(
        jax.random.key(0), jnp.float32(0.0), jnp.int32(4)
    )
    assert np.isinf(found)
    np.testing.assert_allclose(lowest, problem.loss(jnp.ones(2)), rtol=1e-6)
    easy = problems.Problem("", 2, problem.loss, problem.start, np.inf, 60)
    found, _ = methods.random_starts(easy)(jax.random.key(0), jnp.float32(0), jnp.int32(1))
    assert found == 1
    found, _ = methods.descent(easy, optax.sgd)(jax.random.key(0), jnp.float32(0), jnp.int32(1))
    assert found == methods.GRADIENT
