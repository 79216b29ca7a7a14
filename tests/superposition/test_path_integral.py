"""Steps of the cloud: closed forms, invariances, learning of the covariance, NaN."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.superposition import path_integral
from physnet.superposition.path_integral import _particles, _rates

KEY = jax.random.key(3)
D = 4
RNG = np.random.default_rng(1)
ROTATION = np.linalg.qr(RNG.normal(size=(D, D)))[0]
HESSIAN = ROTATION @ np.diag([1.0, 3.0, 10.0, 30.0]) @ ROTATION.T
START = jnp.asarray([1.0, -2.0, 0.5, 1.5])  # float64
COVARIANCES = ("none", "diagonal", "full", "low_rank")


def quadratic(w, hessian, centre, scale, offset):
    x = w - centre
    return scale * 0.5 * x @ (hessian @ x) + offset


PLAIN = (jnp.asarray(HESSIAN), jnp.zeros(D), jnp.float64(1.0), jnp.float64(0.0))


@jax.jit
def descend(state, steps=12, args=PLAIN):
    """The state after so many steps, the least loss on the way, the last step's info."""

    def one(index, carry):
        state, least, _ = carry
        key = jax.random.fold_in(KEY, index)
        state, info = path_integral.step(key, state, quadratic, *args)
        return state, jnp.minimum(least, info.best_loss), info

    start = state, jnp.asarray(jnp.inf, state.sigma.dtype)
    shapes = jax.eval_shape(lambda: path_integral.step(KEY, state, quadratic, *args))[1]
    info = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
    return jax.lax.fori_loop(0, steps, one, (*start, info))


def single(state, args=PLAIN):
    state, _, info = descend(state, 1, args)
    return state, info


FIRST = jax.random.fold_in(KEY, 0)


def cloud(covariance="full", start=START, **options):
    return path_integral.init(
        start, **({"particles": 12, "sigma": 0.5, "covariance": covariance} | options)
    )


def close(found, expected, tolerance=1e-9):
    np.testing.assert_allclose(found, expected, rtol=tolerance, atol=tolerance)


def same(found, expected):
    for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("antithetic", [False, True])
def test_closed_form_on_a_quadratic(antithetic):
    """W_new = (1 + lambda Sigma A)^{-1} W for many particles, Sigma of any shape."""
    inverse, sigma = 0.7, 0.4
    factor = np.eye(D) + 0.5 * RNG.normal(size=(D, D))
    options = {"temperature": inverse, "sigma": sigma, "antithetic": antithetic}
    state = cloud(particles=40_000, adapt_sigma=False, **options)
    for matrix in (np.eye(D), factor):
        shape = dataclasses.replace(state.shape, matrix=jnp.asarray(matrix))
        new, info = single(dataclasses.replace(state, shape=shape))
        covariance = sigma**2 * matrix @ matrix.T
        expected = np.linalg.solve(np.eye(D) + inverse * covariance @ HESSIAN, np.asarray(START))
        error = 4 * np.sqrt(np.trace(covariance) / info.effective)
        assert np.linalg.norm(new.params - expected) < error < 0.15
        assert np.linalg.norm(np.asarray(START) - expected) > 5 * error
        assert new.sigma == state.sigma


def test_step_is_ask_then_tell_and_the_weighted_sum():
    """Of pairs; clouds of independent particles: those of the dense step and of the strategy."""
    state = descend(cloud("low_rank", antithetic=True), 5)[0]
    new, info = single(state)

    @jax.jit
    def by_hand(key, state):
        particles = path_integral.ask(key, state)
        losses = jax.vmap(lambda w: quadratic(w, *PLAIN))(particles)
        return particles, path_integral.tell(key, state, losses)

    particles, (told, told_info) = by_hand(FIRST, state)
    close(jnp.mean(particles, 0), state.params)
    close(info.weights @ particles, new.params)
    for one, other in zip(*map(jax.tree.leaves, ((told, told_info), (new, info))), strict=True):
        close(one, other, 1e-8)
    assert new.count == state.count + 1


def test_same_key_same_step():
    first, second = (descend(cloud())[0] for _ in range(2))
    same(first, second)
    assert not np.allclose(single(cloud())[0].params, single(single(cloud())[0])[0].params)


def test_translation_and_affine_maps_of_the_loss():
    state, _, info = descend(cloud())
    shift = jnp.asarray([5.0, -1.0, 2.0, 0.0])
    moved, _, _ = descend(cloud(start=START + shift), 12, (PLAIN[0], shift, *PLAIN[2:]))
    close(moved.params - shift, state.params, 1e-6)
    close(moved.sigma, state.sigma, 1e-6)
    scaled, _, seen = descend(cloud(), 12, (*PLAIN[:2], jnp.float64(3.0), jnp.float64(-7.0)))
    close(scaled.params, state.params, 1e-6)
    close(seen.weights, info.weights, 1e-5)
    close(3 * seen.temperature, info.temperature, 1e-4)


@pytest.mark.parametrize("turn", [ROTATION, np.eye(D)[[2, 0, 3, 1]]], ids=["turn", "permutation"])
def test_rotated_problem_is_the_same_problem(turn):
    """C = 1 by M = R: the noise is turned with the problem, and so is all that comes after."""
    state, _, info = descend(cloud())
    other = cloud(start=jnp.asarray(turn @ START))
    other = dataclasses.replace(
        other, shape=dataclasses.replace(other.shape, matrix=jnp.asarray(turn))
    )
    found, _, seen = descend(other, 12, (jnp.asarray(turn @ HESSIAN @ turn.T), *PLAIN[1:]))
    close(found.params, turn @ state.params, 1e-6)
    close(found.shape.matrix, turn @ state.shape.matrix, 1e-6)
    close(seen.losses, info.losses, 1e-6)


def test_ensemble_is_its_members():
    starts = jnp.stack([START, 2 * START, -START])
    states = jax.vmap(lambda x: cloud(start=x))(starts)
    found, _, info = jax.vmap(lambda state: descend(state))(states)
    for index in range(3):
        one, _, seen = descend(cloud(start=starts[index]))
        close(found.params[index], one.params)
        close(found.shape.matrix[index], one.shape.matrix)
        close(info.weights[index], seen.weights)


@pytest.mark.parametrize("antithetic", [False, True])
def test_losses_that_say_nothing_keep_the_step_size(antithetic):
    """Entries of sum_k P_k z_k have variance 1 / mu, so that the path has the length of noise."""
    state = cloud(antithetic=antithetic, start=jnp.zeros(D))

    @jax.jit
    @jax.vmap
    def blind(key):
        noise, losses = jax.random.split(key)
        new, info = path_integral.tell(noise, state, jax.random.normal(losses, (12,)))
        mass = _rates.selection_mass(info.weights, antithetic=antithetic)
        return jnp.sum(new.params**2) / 0.25 * mass

    lengths = blind(jax.random.split(KEY, 4000))
    assert abs(np.mean(lengths) - D) < 5 * np.std(lengths) / np.sqrt(4000) < 0.3


def test_full_covariance_step_against_dense():
    state = descend(cloud(), 3)[0]
    new, info = single(state)
    particles = np.asarray(jax.jit(path_integral.ask)(FIRST, state))
    steps = (particles - np.asarray(state.params)) / float(state.sigma)
    z = np.linalg.solve(state.shape.matrix, steps.T).T  # without its mean, whose part is small
    w = np.asarray(info.weights) - 1 / 12
    mass = 1 / np.sum(w**2)
    cumulation, one, many = (np.asarray(x) for x in _rates.covariance_rates(jnp.asarray(mass), D))
    gain = np.sqrt(cumulation * (2 - cumulation) * mass)
    path = (1 - cumulation) * np.asarray(state.shape.path) + gain * (w @ z)
    assert np.allclose(new.shape.path, path, atol=1e-6)
    raw = _noise(state)
    close(raw - raw.mean(0), z, 1e-6)
    close(info.weights @ particles, new.params)
    growth = one * (np.outer(path, path) - np.eye(D)) + many * (raw.T * w) @ raw
    growth /= max(1, np.linalg.norm(growth))
    close(new.shape.matrix, state.shape.matrix @ (np.eye(D) + growth / 2), 1e-6)


def _noise(state):
    """Standard noise of every particle: the steps of a cloud of unit width about nothing."""
    bare = cloud("none", start=jnp.zeros(D), sigma=1.0)
    even = jnp.full(12, 1 / 12)
    mean = _particles.moments(FIRST, bare.params, even, bare.config).mean
    return np.asarray(path_integral.ask(FIRST, bare) + mean[None])


def test_low_rank_step_is_the_best_of_its_rank():
    state = descend(cloud("low_rank"), 5)[0]
    new, info = single(state)
    old, raw = state.shape, _noise(state)
    q, s = np.asarray(old.directions), np.asarray(old.stretch)
    root = np.eye(D) + q @ np.diag(s - 1) @ q.T
    w = np.asarray(info.weights) - 1 / 12
    mass = 1 / np.sum(w**2)
    _, one, many = (np.asarray(x) for x in _rates.covariance_rates(jnp.asarray(mass), D))
    faster = max(1.0, (D + 2) / 3 / (1 + (D - 1) / 2))
    one, many = min(one * faster, 0.4), min(many / 2 * faster, 0.4)
    step = root @ np.asarray(new.shape.path)
    inside = q @ q.T @ root @ raw.T
    grown = (
        root @ root + one * (np.outer(step, step) - root @ root) + many * (inside * w) @ inside.T
    )
    values, vectors = np.linalg.eigh(grown / (1 - one))
    kept = np.argsort(-np.abs(np.log(values)))[: D - 1]
    best = np.eye(D) + vectors[:, kept] @ np.diag(values[kept] - 1) @ vectors[:, kept].T
    q, s = np.asarray(new.shape.directions), np.asarray(new.shape.stretch)
    close(q.T @ q, np.eye(D - 1), 1e-6)
    close(np.eye(D) + q @ np.diag(s**2 - 1) @ q.T, best, 1e-6)


SHORT = START.astype(jnp.float32)


def single_precision(hessian, centre):
    return tuple(jnp.asarray(x, jnp.float32) for x in (hessian, [centre] * D, 1.0, 0.0))


@pytest.mark.parametrize(
    ("covariance", "hessian"),
    [
        ("full", HESSIAN @ HESSIAN),  # condition number 900, turned
        ("diagonal", np.diag([1.0, 10.0, 100.0, 900.0])),
        ("low_rank", np.diag([1.0, 1.0, 1.0, 1e-3])),
    ],
)
def test_covariance_learns_the_curvature(covariance, hessian):
    args = single_precision(hessian, 0.0)
    learned, least, _ = descend(cloud(covariance, start=SHORT), 220, args)
    plain = descend(cloud("none", start=SHORT), 220, args)[1]
    assert least < 1e-12 < 1e-2 * plain
    if covariance == "full":
        shape = np.asarray(learned.shape.matrix @ learned.shape.matrix.T)
        assert np.linalg.cond(shape @ hessian) < 0.25 * np.linalg.cond(hessian)
        assert np.all(np.linalg.eigvalsh(shape) > 0)


@functools.cache
def holey():
    """A loss that is NaN, flat, or rewards infinite weights, as `broken` says."""

    def loss(w, broken):
        inside = jnp.sum(w["a"] ** 2) + jnp.sum(w["b"].astype(jnp.float32) ** 2)
        inside = jnp.where((broken == 3) | (broken == 4), jnp.float32(1), inside)
        outside = -jnp.minimum(jnp.sum(w["b"].astype(jnp.float32) * 1e-37), 1e3)
        bad = jnp.where((broken == 1) | (broken == 4), w["a"][0, 0] > 1, broken == 2)
        return jnp.where(bad, jnp.nan, jnp.where(broken == 5, outside, inside))

    return jax.jit(lambda key, state, broken: path_integral.step(key, state, loss, broken))


def mixed():
    params = {"a": jnp.ones((2, 1), jnp.float32), "b": jnp.ones(2, jnp.bfloat16)}
    return path_integral.init(params, sigma=0.5, particles=10)


def shaped(state, **parts):
    return dataclasses.replace(state, shape=dataclasses.replace(state.shape, **parts))


def test_a_long_path_widens_on_either_side_and_never_breaks_a_covariance():
    """A path far beyond the usual: deviations grow where it is negative too, M by half at most."""
    diagonal = single(shaped(cloud("diagonal"), path=jnp.full(D, -5.0)))[0]
    assert np.all(np.asarray(diagonal.shape.deviation) > 1.1)
    full = single(shaped(cloud("full"), path=jnp.full(D, -1e3)))[0]
    np.testing.assert_array_less(np.linalg.svd(full.shape.matrix)[1], 1.5 + 1e-9)


def test_directions_return_to_orthonormal():
    state = descend(cloud("low_rank"), 5)[0]
    bent = shaped(state, directions=1.01 * state.shape.directions)
    errors = []
    for step in range(3):
        q = np.asarray(descend(bent, step)[0].shape.directions)
        errors.append(np.abs(q.T @ q - np.eye(q.shape[1])).max())
    assert errors[0] > 0.02
    assert errors[1] < 1e-3
    assert errors[2] < 1e-6


def test_dtypes_stay():
    state, info = holey()(KEY, mixed(), 0)
    assert state.params["a"].dtype == jnp.float32
    assert state.params["b"].dtype == jnp.bfloat16
    wide = (state.sigma, info.losses, info.weights, state.path["b"], state.shape.matrix)
    assert {x.dtype for x in wide} == {jnp.dtype("float32")}
    assert cloud().sigma.dtype == jnp.float64


@pytest.mark.parametrize("broken", [1, 4], ids=["slope", "flat"])
def test_some_losses_are_nan(broken):
    state, info = holey()(KEY, mixed(), broken)
    bad = np.isnan(info.losses)
    assert 0 < bad.sum() < 10
    assert int(info.finite) == 10 - bad.sum()
    assert not np.any(np.asarray(info.weights)[bad])
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves(state))
    assert state.params["a"][0, 0] < 1  # away from there
    assert info.best_loss == info.losses[info.best]
    assert state.status == 0


@pytest.mark.parametrize(("broken", "status"), [(2, 1), (3, 2)], ids=["nan", "flat"])
def test_nothing_to_learn_moves_nothing(broken, status):
    before = holey()(KEY, mixed(), 0)[0]
    state, info = holey()(KEY, before, broken)
    assert state.status == status
    assert state.count == 2
    expected = dataclasses.replace(before, status=state.status, count=state.count)
    same(state, expected)
    assert np.isinf(info.best_loss) == (broken == 2)
    assert holey()(KEY, state, 0)[0].status == 0


def test_steps_out_of_the_range_of_a_dtype_are_not_made():
    before = mixed()
    params = before.params | {"b": jnp.full(2, 3e38, jnp.bfloat16)}
    before = dataclasses.replace(before, params=params, sigma=jnp.float32(1e38))
    state, _ = holey()(KEY, before, 5)
    assert state.status == 4
    same(state, dataclasses.replace(before, status=state.status, count=state.count))


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_long_past_convergence_all_is_finite(covariance):
    """Shifted: float32 ends at the resolution of the parameters."""
    args = single_precision(HESSIAN, 1.0)
    state, _, info = descend(cloud(covariance, start=SHORT), 1500, args)
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((state, info)))
    assert state.params.dtype == jnp.float32
    assert state.status > 0
    assert np.max(np.abs(state.params - 1)) < 1e-3


def test_defaults_by_dimension():
    small, large = path_integral.defaults(10), path_integral.defaults(1000)
    assert small == {"particles": 10, "covariance": "full", "effective": 0.4}
    assert large == {"particles": 24, "covariance": "diagonal", "effective": 0.3}
    config = path_integral.init(jnp.zeros(10), sigma=1.0).config
    assert (config.particles, config.covariance, config.effective) == (10, "full", 0.4)
    assert path_integral.init(jnp.zeros(4), sigma=1.0, antithetic=True).config.particles == 8


def test_errors(bare_errors):
    with pytest.raises(ValueError, match=r"sigma must be positive and finite, got -1\.0"):
        jax.jit(lambda w: path_integral.init(w, sigma=-1.0))(START)
    x = jnp.zeros(4)
    for params, options, error, words in [
        ({}, {}, ValueError, "params must hold at least one number"),
        (jnp.arange(3), {}, TypeError, "params must be a real"),
        (x, {"particles": 1}, ValueError, "particles must be >= 2"),
        (x, {"particles": 7, "antithetic": True}, ValueError, "particles must be even"),
        (x, {"effective": 1.5}, ValueError, "effective must be between"),
        (x, {"sigma": 0.0}, ValueError, "sigma must be positive"),
        (x, {"temperature": -1.0}, ValueError, "temperature must be >= 0"),
        (x, {"temperature": np.ones(2)}, ValueError, "temperature must be one number"),
        (x, {"covariance": "banded"}, ValueError, "covariance must be one of"),
        (x, {"rank": 0}, ValueError, "rank must be >= 1"),
        (x, {"materialise": False}, ValueError, "materialise=False needs a rank"),
        (jnp.zeros(3000), {"covariance": "full"}, ValueError, "at most 2048 parameters"),
    ]:
        with pytest.raises(error, match=words):
            path_integral.init(params, **({"sigma": 1.0} | options))
