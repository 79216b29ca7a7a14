"""Systems, losses and batches of time_reversal.py, its choices and comparisons, and a whole run."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import time_reversal
from lm import corpus as corpora
from reversal_lab import comparisons, fields, heads, oscillators, settings, texts, training

SMOKE = settings.PRESETS["smoke"]
SPRINGS = dataclasses.replace(SMOKE.oscillators, noise=0.0)
RING = dataclasses.replace(SMOKE.fields, updates=2, frames=20)
TEXT = dataclasses.replace(SMOKE.text, updates=2, every=1, block=6, held=4)


@pytest.fixture(autouse=True)
def as_by_default():
    with jax.numpy_rank_promotion("allow"):
        yield


def linear(matrix):
    """Parameters of a field that is z -> matrix z, to 1e-6 of z^3."""
    small = 1e-3
    eye = jnp.eye(4)
    return [(small * eye, jnp.zeros(4)), (eye, jnp.zeros(4)), (matrix.T / small, jnp.zeros(4))]


# Oscillators


@pytest.mark.parametrize("friction", [0.0, 0.5])
def test_oscillators_move_by_their_law_and_lose_energy_by_friction_alone(friction):
    known = oscillators.data(friction, 3, SPRINGS)
    z, h = known.train, 1e-4
    flow = scipy.linalg.expm(h * oscillators.law(friction))
    q, p = z[..., :2], z[..., 2:]
    wall, between = -q, (q[..., ::-1] - q)
    force = np.concatenate([p, wall + between - friction * p], -1)
    np.testing.assert_allclose((z @ flow.T - z) / h, force, atol=1e-3)
    far = z[:, 0] @ np.linalg.matrix_power(scipy.linalg.expm(0.1 * oscillators.law(friction)), 8).T
    np.testing.assert_allclose(z[:, 8], far, atol=1e-12)
    drop = oscillators.energy(known.far) / oscillators.energy(known.start)
    assert np.allclose(drop, 1) if friction == 0 else (drop < 0.1).all()


def test_seeds_and_frictions_share_starts_and_noise():
    noisy = SMOKE.oscillators
    a, b = (oscillators.data(f, 1, noisy) for f in (0.0, 0.5))
    np.testing.assert_array_equal(a.train[:, 0], b.train[:, 0])
    np.testing.assert_array_equal(a.start, b.start)
    other = oscillators.data(0.0, 2, noisy)
    assert np.abs(a.train[:, 0] - other.train[:, 0]).min() > 0


def test_the_way_back_of_a_rollout_is_the_way_there_without_friction_alone():
    known = oscillators.data(0.0, 0, SPRINGS)
    start = jnp.asarray(known.start, jnp.float32)

    @jax.jit
    def ways(matrix):
        there = oscillators.rollout(linear(matrix), start, steps=10, step=SPRINGS.step)
        return there, oscillators.there_and_back(linear(matrix), there, step=SPRINGS.step)

    there, back = ways(jnp.asarray(oscillators.law(0.0), jnp.float32))
    np.testing.assert_allclose(there[10], known.near, atol=1e-3)
    np.testing.assert_allclose(back, there, atol=1e-3)
    there, back = ways(jnp.asarray(oscillators.law(0.5), jnp.float32))
    np.testing.assert_allclose(back[-1], there[-1], atol=1e-6)
    assert jnp.abs(back[0] - there[0]).max() > 0.1


def test_losses_at_the_true_law_vanish_without_friction_alone():
    """Reversed data and consistency contradict what a field with friction has to learn."""

    @jax.jit
    def at(friction, matrix):
        return {
            kind: oscillators.loss(kind, SPRINGS)(
                linear(matrix), jax.random.key(0), friction, jnp.float32(1.0)
            )
            for kind in oscillators.ROWS
        }

    for friction in (0.0, 0.5):
        train = jnp.asarray(oscillators.data(friction, 0, SPRINGS).train, jnp.float32)
        found = at(train, jnp.asarray(oscillators.law(friction), jnp.float32))
        assert found.pop("base") < 1e-5
        assert all((x < 1e-5) if friction == 0 else (x > 1e-3) for x in found.values()), found


def test_a_rollout_that_ran_away_counts_as_the_worst():
    known = oscillators.data(0.0, 0, SPRINGS)
    found = oscillators.measures((known.near, known.far * np.nan, np.float32(np.nan)), known)
    assert found["near"] == 1e-12
    assert found["far"] == found["energy"] == found["asymmetry"] == oscillators.WORST


# A forward and a backward head


def test_heads_pass_both_ways_over_one_trunk_and_the_loss_sees_that_they_differ():
    params = heads.heads(jax.random.key(0), 8)
    z = jax.random.normal(jax.random.key(1), (3, 4))
    there = heads.passed(params, z, 0, steps=5, step=0.1)
    assert there.shape == (6, 3, 4)
    h = z
    for w, b in params["trunk"]:
        h = np.tanh(h @ w + b)
    np.testing.assert_allclose(there[1], z + 0.1 * (h @ params["out"][0]), atol=1e-6)
    again = heads.there_and_back(params, there, step=0.1)
    np.testing.assert_array_equal(again[-1], there[-1])
    back = heads.passed(params, there[-1], 1, steps=1, step=0.1)[-1]
    np.testing.assert_allclose(again[-2], back, atol=1e-6)
    assert jnp.abs(again[0] - z).max() > 0.01  # no inverse of the first, by construction


def test_heads_are_trained_by_the_data_both_ways_and_by_the_loss():
    train = jnp.asarray(oscillators.data(0.5, 0, SMOKE.oscillators).train, jnp.float32)
    params, key = heads.heads(jax.random.key(0), 8), jax.random.key(1)

    def slopes(kind, *weights):
        objective = heads.loss(kind, SMOKE.oscillators)
        slope = jax.jit(jax.grad(lambda p, weight: objective(p, key, train, weight)))
        return [slope(params, jnp.float32(weight)) for weight in weights]

    ((plain,), (none, heavy)) = slopes("base", 1.0), slopes("euclidean", 0.0, 5.0)
    assert (jnp.abs(plain["out"]).max((1, 2)) > 0).all()  # of each head
    (other,) = slopes("hyperbolic", 5.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), plain, none)
    assert jnp.abs(heavy["out"] - plain["out"]).max() > 1e-3
    assert jnp.abs(heavy["out"] - other["out"]).max() > 1e-4


def test_consistency_makes_the_heads_inverses_of_one_another():
    s = dataclasses.replace(SMOKE.oscillators, updates=200)
    known = oscillators.data(0.5, 0, s)
    columns = (jnp.asarray(known.train, jnp.float32), jnp.asarray(known.start, jnp.float32))
    run = jax.jit(heads.program("euclidean", s))
    loose, tight = (run(*columns, jnp.float32(w), jnp.int32(0))[2] for w in (0.0, 10.0))
    assert tight < 0.7 * loose


# Reaction and diffusion


def test_the_equations_against_finite_differences_and_a_finer_step():
    x = np.arange(64) / 64 * 16
    wave = 2 * np.pi / 16
    state = np.stack([np.cos(wave * x), 0.3 * np.sin(2 * wave * x)])
    u, v = state
    around = (np.roll(u, 1) - 2 * u + np.roll(u, -1)) / (x[1] - x[0]) ** 2
    found = fields.slope(state, 16.0)
    np.testing.assert_allclose(found[0], around + u - u**3 / 3 - v + 0.5, atol=1e-3)
    np.testing.assert_allclose(found[1], 0.08 * (u + 0.7 - 0.8 * v), atol=1e-12)
    coarse, fine, finest = (
        fields.solved(state, frames=4, step=0.5, length=32.0, substeps=n)[-1] for n in (6, 12, 24)
    )
    errors = np.abs(coarse - finest).max(), np.abs(fine - finest).max()
    assert errors[1] < errors[0] / 8  # of order 4
    assert errors[1] < 1e-5


def test_the_model_is_the_same_at_every_place_and_knows_its_direction():
    params = fields.model(jax.random.key(0), 4)
    state = jax.random.normal(jax.random.key(1), (3, 16, 2))
    step = jax.jit(fields.advance)
    there = step(params, state, 1.0)
    np.testing.assert_allclose(
        step(params, jnp.roll(state, 5, 1), 1.0), jnp.roll(there, 5, 1), atol=1e-5
    )
    assert jnp.abs(step(params, state, -1.0) - there).max() > 1e-3
    near = step(params, state.at[:, 0].add(1.0), 1.0)
    changed = jnp.abs(near - there).max((0, 2)) > 0
    assert changed.tolist() == [abs(i) <= 6 for i in (*range(9), *range(-7, 0))]


def test_only_the_trajectories_counted_are_trained_on():
    states = np.moveaxis(fields.data(0, 3, RING), -1, -2).astype(np.float32)
    train = jnp.asarray(states)
    run = jax.jit(fields.program("flagged", RING))
    arguments = (jnp.int32(2), jnp.float32(1e-2), train[2:], jnp.int32(0))
    found = run(train, *arguments)
    np.testing.assert_array_equal(found, run(train.at[2:].set(jnp.nan), *arguments))
    assert np.isfinite(found).all()
    assert not np.isfinite(run(train.at[1].set(jnp.nan), *arguments)).all()


# Text


def test_windows_are_turned_behind_their_direction():
    windows = jnp.array([[1, 2, 3], [4, 5, 6]])
    found = texts.turned(windows, jnp.array([False, True]), 7)
    assert found.tolist() == [[7, 1, 2, 3], [8, 6, 5, 4]]


def test_text_beyond_its_share_is_not_trained_on_and_mixed_lies_between():
    text = jnp.asarray(np.random.default_rng(0).integers(3, size=100), jnp.int32)
    held = text[:24].reshape(4, 6)
    run = jax.jit(texts.program(3, TEXT))
    seed, half, length = jnp.int32(0), jnp.float32(0.5), jnp.int32(60)
    found = run(text, held, seed, half, length)
    assert found.shape == (2, 2, 2)
    np.testing.assert_array_equal(found, run(text.at[60:].set(0), held, seed, half, length))
    assert np.abs(found - run(text.at[:60].set(0), held, seed, half, length)).min() > 0
    # Palindromes alone: what is read backwards is what is read forward, but for the first token.
    same = jnp.ones_like(text)
    first = run(same, held, seed, jnp.float32(0.0), length)[-1]
    last = run(same, held, seed, jnp.float32(1.0), length)[-1]
    assert np.abs(first - last).max() < 0.05
    np.testing.assert_array_less(first[0], np.log(5))


def test_windows_held_out_are_spread_and_in_pairs():
    corpus = corpora.split("digits", "0123456789" * 300, block=6)
    found = texts.held_out(corpus, TEXT)
    assert found.shape == (4, 6)
    np.testing.assert_array_equal(found[0], corpus.validation[:6])
    np.testing.assert_array_equal(found[-1], corpus.validation[294:300])
    with pytest.raises(ValueError, match="no two halves"):
        texts.held_out(corpus, dataclasses.replace(TEXT, block=299))


# Training, choices, comparisons


class Here:
    """A pool that compiles in this thread, which has the settings of a test."""

    def __init__(self, threads):
        self.map = map

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_jobs_run_for_each_entry_and_adam_descends(monkeypatch):
    monkeypatch.setattr(training, "ThreadPoolExecutor", Here)

    def run(shared, rate, start):
        def loss(x, key):
            return jnp.sum((x - shared) ** 2)

        return training.descend(
            loss, start, rate=rate, updates=200, key=jax.random.key(0)
        ), rate * shared

    job = training.Job(run, (jnp.array([0.3, 0.1]), jnp.zeros((2, 3))), shared=(jnp.float32(2.0),))
    ((name, (found, product), _),) = training.done({"a": job})
    assert name == "a"
    np.testing.assert_allclose(found, 2.0, atol=0.01)
    np.testing.assert_allclose(product, [0.6, 0.2], rtol=1e-6)


def faked(found):
    """Jobs whose results are found(name, job)."""
    return lambda jobs: ((name, found(name, job), 1.0) for name, job in jobs.items())


def test_weights_are_chosen_on_seeds_that_are_not_reported(monkeypatch):
    s = dataclasses.replace(SPRINGS, weights=(0.1, 1.0, 10.0))

    def found(kind, job):
        """Friction asks for the least weight; the seeds reported would ask for the largest."""
        train, start, weight, seed = (np.asarray(x) for x in job.arguments)
        damped = oscillators.energy(train[:, 0, -1]) / oscillators.energy(train[:, 0, 0]) < 0.8
        error = np.where(damped, weight, np.abs(np.log(weight + 1e-9))) + 0.1
        error = np.where(seed < oscillators.TUNING, 5 - np.log10(weight + 0.01), error)
        far = np.stack(
            [oscillators.data(0.5 * d, int(i), s).far for d, i in zip(damped, seed, strict=True)]
        )
        return start, far + error[:, None, None], error

    monkeypatch.setattr(training, "done", faked(found))
    rows = list(oscillators.rows(s))
    chosen = {(r["row"], r["setting"]): r["weight"] for r in rows if r["own"]}
    assert chosen["base", 0.0] == 0
    assert chosen["reversed", 0.5] == 1
    for kind in oscillators.METRICS:
        assert (chosen[kind, 0.0], chosen[kind, 0.5]) == (1.0, 0.1)
    both = [r["weight"] for r in rows if r["setting"] == 0.5 and comparisons.shown(r)]
    assert both == [0.0, 1.0, 0.1, 1.0, 0.1, 1.0]
    found = comparisons.compared(rows)
    pairs = {(c["setting"], c["row"], c["weight"], c["against"]) for c in found}
    assert (0.5, "euclidean", 1.0, "base") in pairs
    assert (0.5, "hyperbolic", 1.0, "euclidean") not in pairs  # not that of its own tuning
    assert (0.5, "hyperbolic", 0.1, "euclidean") in pairs


def test_comparisons_of_text_by_hand():
    def row(kind, forward, backward):
        values = {"forward": forward, "backward": backward}
        return {"part": "text", "setting": 1.0, "row": kind, "values": values}

    rows = [row("forward", [1.0, 2.0], [5.0, 5.0]), row("backward", [5.0, 5.0], [1.1, 2.3])]
    found = comparisons.compared([*rows, row("mixed", [1.5, 2.5], [1.1, 2.3])])
    means = {(c["row"], c["against"], c["measure"]): c["mean"] for c in found}
    assert means == pytest.approx(
        {
            ("backward", "forward", "backward"): 0.2,
            ("mixed", "forward", "forward"): 0.5,
            ("mixed", "backward", "backward"): 0.0,
        }
    )


def test_a_run_is_written_and_drawn(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")

    def found(kind, job):
        draw = np.random.default_rng(len(kind))
        count = len(job.arguments[0])
        if kind in texts.ROWS or kind == "text":
            # The even half is best at the second measurement, the odd one is reported there.
            curve = np.array([2.0, 1.0, 3.0])[None, :, None, None] + np.array([0.0, 0.5])
            return curve + 0.01 * draw.uniform(size=(count, 1, 2, 1))
        if len(job.arguments) == 5:
            return tuple(draw.uniform(0.1, 1, count) for _ in fields.MEASURES)
        start = np.asarray(job.arguments[1])
        return start, start + 0.1 * draw.normal(size=start.shape), draw.uniform(size=count)

    monkeypatch.setattr(training, "done", faked(found))
    output = tmp_path / "out.json"
    arguments = ["time_reversal.py", "--preset", "smoke", "--output", str(output)]
    monkeypatch.setattr("sys.argv", arguments)
    time_reversal.main()
    results = json.loads(output.read_text())
    parts = [row["part"] for row in results["rows"]]
    assert [parts.count(part) for part in time_reversal.PARTS] == [12, 10, 6, 3]
    row = results["rows"][-1]
    assert row["best_at"]["forward"] == [20, 20]
    assert row["values"]["forward"][0] == pytest.approx(1.5, abs=0.01)
    assert row["values"]["forward_end"][0] == pytest.approx(3.5, abs=0.01)
    assert {c["part"] for c in results["comparisons"]} == set(time_reversal.PARTS)
    printed = capsys.readouterr().out
    assert "consistency, hyperbolic" in printed
    assert "two heads, friction 0.5" in printed
    assert "mixed less forward" in printed
    monkeypatch.setattr("sys.argv", [*arguments, "--parts", "fields", "--add"])
    time_reversal.main()
    added = json.loads(output.read_text())
    parts = [row["part"] for row in added["rows"]]
    assert [parts.count(part) for part in time_reversal.PARTS] == [12, 10, 6, 3]
    assert len(added["comparisons"]) == len(results["comparisons"])
    monkeypatch.setattr("sys.argv", ["time_reversal.py", "--draw", str(output)])
    time_reversal.main()
    assert output.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_parts_settings_and_texts_of_the_command_line(tmp_path, monkeypatch):
    text = tmp_path / "text.txt"
    text.write_text("to be or not to be, that is the question; " * 40)
    seen = []
    monkeypatch.setattr(texts, "rows", lambda corpus, s: seen.append((corpus, s)) or iter(()))
    arguments = f"--preset smoke --parts text --text {text} --seeds 5 --updates 7"
    output = tmp_path / "out.json"
    monkeypatch.setattr("sys.argv", ["x", *arguments.split(), "--output", str(output)])
    options = {"rows": [], "comparisons": []}
    monkeypatch.setattr(time_reversal.table, "show", options.update)
    time_reversal.main()
    ((corpus, s),) = seen
    assert corpus.name == str(text)
    assert (s.seeds, s.updates, s.width) == (5, 7, SMOKE.text.width)
    monkeypatch.setattr("sys.argv", ["x", "--parts", "text", "--text", str(tmp_path / "none.txt")])
    with pytest.raises(SystemExit, match=r"cannot read the text .*none.txt"):
        time_reversal.main()
