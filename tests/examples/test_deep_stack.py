"""Gradients of deep_stack.py against plain backpropagation, its pipeline, statistics and output."""

import json
import sys

import deep_stack
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stacks import comparisons, data, gradients, pipeline, problems, statistics, training
from stacks.methods import METHODS, Method

DEPTH = 4
DRAW = np.random.default_rng(0)
DIGITS = data.split(DRAW.integers(17, size=(90, 6)).astype(float), DRAW.integers(10, size=90))
RESIDUAL = problems.multilayer("residual", DEPTH, DIGITS, width=5, branch=0.3)


def broadcasting():
    return jax.numpy_rank_promotion("allow")


@pytest.fixture(autouse=True)
def as_by_default():
    with broadcasting():
        yield


@pytest.fixture(scope="module")
def plain():
    """Parameters, a batch, and the value and gradient of backpropagation."""
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"), broadcasting():
        params = jax.jit(RESIDUAL.init, static_argnums=1)(jax.random.key(0), False)
        x, y = (part[:8] for part in DIGITS.train)
        loss = jax.jit(jax.value_and_grad(lambda p: RESIDUAL.last(p, RESIDUAL.apply(p, x), y)[0]))
        return params, (x, y, jax.random.key(1), 0.5), *loss(params)


def distance(a, b):
    """The largest difference, in units of the largest entry of b."""
    a, b = (list(map(np.asarray, jax.tree.leaves(tree))) for tree in (a, b))
    largest = max(np.max(np.abs(x)) for x in b)
    return float(max(np.max(np.abs(x - y)) for x, y in zip(a, b, strict=True)) / largest)


def test_born_series_ends_in_backpropagation(plain):
    params, batch, value, exact = plain

    @jax.jit
    def orders():
        return [gradients.born(RESIDUAL, order)(params, *batch) for order in (0, 2, DEPTH)]

    found = orders()
    errors = [distance(grads, exact) for _, grads, _ in found]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-5
    assert found[2][0] == pytest.approx(float(value), rel=1e-6)


def test_born_series_of_order_0_runs_along_skip_connections_alone():
    """Post-norm: each layer's gradient by hand, from Jacobians with the branches held fixed."""
    rows = data.to_sort(4, 6)
    posed = problems.transformer("post-norm", 2, rows, width=8)
    params = jax.jit(posed.init, static_argnums=1)(jax.random.key(0), False)
    x, y = (part[:3] for part in rows.train)
    layers = jax.tree.map(np.asarray, params["layers"])
    own = [jax.device_put(jax.tree.map(lambda a, i=i: a[i], layers)) for i in range(2)]

    @jax.jit
    def both():
        first = posed.first(params["first"], x)
        middle = posed.layer(own[0], first)
        delta = jax.grad(lambda h: posed.last(params, h, y)[0])(posed.layer(own[1], middle))
        below = jax.vjp(lambda h: posed.straight(own[1], h), middle)[1](delta)[0]
        expected = jax.vjp(lambda p: posed.layer(p, first), own[0])[1](below)[0]
        found = gradients.born(posed, 0)(params, x, y, jax.random.key(1), 0.0)[1]
        return expected, jax.tree.map(lambda a: a[0], found["layers"])

    expected, found = both()
    assert distance(found, expected) < 1e-5


def test_stages(plain):
    params, batch, _, exact = plain

    @jax.jit
    def ways():
        return [
            gradients.staged(RESIDUAL, 1, far=True)(params, *batch),
            gradients.staged(RESIDUAL, 2, far=False)(params, *batch),
            gradients.staged(RESIDUAL, 2, far=True)(params, *batch),
        ]

    whole, near, far = (grads for _, grads, _ in ways())
    assert distance(whole, exact) < 1e-5
    half = DEPTH // 2
    assert not near["first"].any()
    assert not near["layers"]["w"][:half].any()
    for found in (near, far):  # the last stage has the chain itself
        np.testing.assert_allclose(
            found["layers"]["w"][half:], exact["layers"]["w"][half:], atol=1e-6
        )
    a, b = (tree["layers"]["w"][:half].ravel() for tree in (far, exact))
    assert a @ b > 0.9 * jnp.linalg.norm(a) * jnp.linalg.norm(b)  # near the identity


def test_stages_divide_the_depth():
    with pytest.raises(ValueError, match="stages must divide the depth 4, got 3"):
        gradients.staged(RESIDUAL, 3, far=True)


def test_what_teleports_without_strength_is_backpropagation(plain):
    params, (x, y, key, _), value, exact = plain

    @jax.jit
    def ways():
        ghost = gradients.by_scan(RESIDUAL, METHODS["ghost"])
        ahead = gradients.by_scan(RESIDUAL, METHODS["lookahead"])
        return (
            ghost(params, x, y, key, 0.0),
            ghost(params, x, y, key, 1.0),
            ahead(params, x, y, key, 0),
        )

    start, annealed, (_, local, jumps) = ways()
    assert abs(start[0] - value) > 1e-3
    assert distance(annealed[1], exact) < 1e-5
    assert distance(local, exact) < 1e-5
    assert jumps["layers"]["w"].any()


def test_passes_that_follow_each_other():
    passes = [gradients.sequential(METHODS[n], 64) for n in ("adam", "highway", "staged")]
    assert passes == [192, 70, 80]


def test_delays_hand_back_what_was():
    ring = {"a": np.zeros((3, 2), np.float32), "b": np.zeros((3,), np.float32)}
    delays = {"a": jnp.array([2, 0]), "b": 1}
    store, late = jax.jit(pipeline.store), jax.jit(lambda r, n: pipeline.late(r, n, delays))
    for number in map(np.int32, range(5)):
        new = {"a": np.full(2, number + 1, np.float32), "b": np.float32(number + 1)}
        ring = store(ring, new, number)
        found = late(ring, number)
        expected = [max(number + 1 - 2, 0), number + 1]
        assert found["a"].tolist() == expected
        assert found["b"] == number
    assert pipeline.units_per_step("synchronous", 8, 4) == 8.25
    assert pipeline.units_per_step("synchronous", 8) == 4.3125
    assert pipeline.units_per_step("stale", 8) == 3


@pytest.mark.slow
def test_pipelines_without_delay_and_with():
    """Delay 0 is synchronous training; slowed by it, too; a late stage rests until news arrive."""
    recipe = training.Recipe(2, 16, 1)
    runs = (("synchronous", 0), ("stale", 0), ("slowed", 0), ("corrected", 0), ("stale", 2))
    runs += (("teleported", 0), ("teleported-slowed", 0), ("teleported-slowed", 2))

    @jax.jit
    def train(rates, seeds):
        made = [
            pipeline.program(RESIDUAL, scheme, recipe, stages=2, delay=delay, adam=True)
            for scheme, delay in runs
        ]
        return [run(rates, seeds).validation_nats for run in made]

    together, *others, late, near, same_near, late_near = train(jnp.array([1e-2]), jnp.arange(1))
    for same in others:
        np.testing.assert_allclose(same, together, rtol=1e-5)
    np.testing.assert_allclose(same_near, near, rtol=1e-5)
    for other, than in ((late, together), (near, together), (late_near, near)):
        assert abs(other[0, -1] - than[0, -1]) > 1e-4


def test_what_is_slowed_and_by_how_much():
    slower = pipeline._slower(jnp.ones((2, 3)), jnp.array([0, 3]))
    assert slower.tolist() == [[1, 1, 1], [0.25, 0.25, 0.25]]


def test_layers_are_normalised_one_by_one():
    grads = {"layers": {"w": jnp.array([[1e-30, 0.0], [3.0, 3.0]])}, "last": jnp.array([0.0])}
    new, _ = training.normalised().update(grads, None)
    np.testing.assert_allclose(new["layers"]["w"], [[2**0.5, 0], [1, 1]], rtol=1e-5)
    assert new["last"] == 0


def test_orthogonal_starts_stay_so_by_retraction():
    params = RESIDUAL.init(jax.random.key(0), True)
    rule = training.optimiser(METHODS["retracted"], 0.1, params, steps=10)
    slope = jax.tree.map(jnp.ones_like, params)
    moved = jax.jit(rule.update)(slope, rule.init(params), params)[0]
    w = params["layers"]["w"] + moved["layers"]["w"]
    assert jnp.abs(moved["layers"]["w"]).max() > 0.01
    np.testing.assert_allclose(w @ w.mT, np.broadcast_to(np.eye(5), w.shape), atol=1e-5)


def test_a_transformer_sorts_by_layers_that_keep_a_unit_variance_or_add_little():
    rows = data.to_sort(4, 6)
    assert (jnp.diff(rows.test[1], axis=1) >= 0).all()
    posed = problems.transformer("post-norm", 2, rows, width=8)
    near = problems.transformer("pre-norm", 2, rows, width=8, branch=1e-3)
    params = posed.init(jax.random.key(0), False)
    h, same = jax.jit(lambda *of: (posed.apply(*of), near.apply(*of)))(params, rows.test[0][:3])
    assert h.shape == (3, 4, 8)
    np.testing.assert_allclose(jnp.var(h, -1), 1, rtol=1e-3)
    assert 0 < distance(same, near.first(params["first"], rows.test[0][:3])) < 0.02


def test_statistics_by_hand():
    found = statistics.paired([1.0, 2.0, 4.0], [0.0, 0.0, 1.0])
    assert found["mean"] == 2
    assert found["error"] == pytest.approx(1 / 3**0.5)
    assert found["p"] == pytest.approx(0.0742, abs=1e-4)  # t = 3.464 with 2 degrees of freedom
    assert statistics.helps(found)
    assert statistics.paired([1.0, 1.0], [1.0, 1.0])["p"] == 1
    assert statistics.paired([1.0, 1.0, 1.0], [0.0, 0.0, 0.0])["p"] == 0.25  # three signs
    assert statistics.holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def test_runs_that_miss_the_target_count_alike_for_all_schemes():
    row = {"accuracy": [[0, 0]] * 2, "nats": [[2.0, 0.9], [2.0, 1.1]], "target": 1.0, "every": 5}
    row |= {"units": 3.0, "horizon": 75.0}
    assert comparisons.values(row, "time").tolist() == [-30, -75]


def test_all_methods_name_one_that_exists():
    for method in METHODS.values():
        assert method.against is None or METHODS[method.against].way in ("plain", "truncated")


def test_a_run_is_tuned_confirmed_written_and_drawn(tmp_path, monkeypatch, capsys):
    """Programs that are tables: teleportation is better by .2, at the second of two rates."""
    pytest.importorskip("matplotlib")

    def curves(level):
        def one(rate, seed):
            seed = jnp.float32(seed)  # threads have types promoted as strictly as all tests
            end = level + jnp.where(rate > 0.005, 0.1, 0.0) + 1e-3 * jnp.sin(seed * (1 + level))
            line = end * jnp.array([0.5, 1.0], jnp.float32)
            return training.Curves(1 - line, line, 1 - line, line)

        return jax.vmap(one)

    def by_method(problem, method, recipe, *, stages):
        assert jax.config.jax_default_matmul_precision == "float32"  # in threads too
        return curves(0.7 if method.way == "staged" else 0.5)

    monkeypatch.setattr(training, "program", by_method)
    monkeypatch.setattr(pipeline, "program", lambda *a, **b: curves(0.5))
    pixels = tmp_path / "digits.npz"
    np.savez(pixels, data=DRAW.integers(17, size=(40, 4)), target=np.arange(40) % 10)
    output = tmp_path / "out.json"
    options = f"--preset smoke --threads 2 --digits {pixels} --output {output}"
    monkeypatch.setattr("sys.argv", ["deep_stack.py", *options.split()])
    deep_stack.main()
    results = json.loads(output.read_text())
    assert {row["rate"] for row in results["rows"]} == {1e-2}
    found = [c["confirmed"] for c in results["comparisons"]]
    assert found == [True, True, True, False, False, False]  # the last: three of pipelines
    assert results["comparisons"][1]["again"]["mean"] == pytest.approx(0.2, abs=0.01)
    assert results["pipeline"][0]["steps"] == [10, 10]
    assert all(row["edge"] for row in results["rows"])
    assert results["left_out"] == []
    printed = capsys.readouterr().out
    assert "confirmed" in printed
    assert "1e-02*" in printed
    monkeypatch.setattr("sys.argv", ["deep_stack.py", "--draw", str(output)])
    deep_stack.main()
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_digits_missing_are_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(SystemExit, match="--digits"):
        data.digits(None)


def test_learning_by_a_method():
    """A whole program: losses fall for both rates and seeds."""
    recipe = training.Recipe(20, 16, 10)
    run = jax.jit(training.program(RESIDUAL, Method("x", "chain"), recipe))
    found = run(jnp.array([1e-2, 3e-2]), jnp.arange(2))
    assert found.accuracy.shape == (2, 2)
    assert jnp.isfinite(found.nats).all()
