"""Moving midpoints against the sums of gamma k and gamma that they stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import optim


def lorentz(v, c):
    """(gamma, sqrt(c) gamma k) of tangent coordinates, NumPy float64."""
    v = np.asarray(v, np.float64)
    size = np.linalg.norm(v, axis=-1, keepdims=True)
    r = 2 * np.sqrt(c) * size
    return np.concatenate([np.cosh(r), np.sinh(r) * v / np.where(size > 0, size, 1)], -1)


def tangent(total, c):
    """Tangent coordinates of the Klein point S / T."""
    size = np.linalg.norm(total[..., 1:], axis=-1, keepdims=True)
    r = np.arctanh(size / total[..., :1])
    return r / (2 * np.sqrt(c)) * total[..., 1:] / np.where(size > 0, size, 1)


def ball(v, c):
    size = np.sqrt(c) * np.linalg.norm(v, axis=-1, keepdims=True)
    return np.tanh(size) * v / np.where(size > 0, size, 1)


RNG = np.random.default_rng(0)
CENTROIDS = RNG.normal(size=(4, 3))
TOKENS = RNG.normal(size=(5, 12, 3))  # of 5 updates
ASSIGNMENT = RNG.integers(0, 3, size=(5, 12))  # the last centroid gets none
WEIGHTS = RNG.uniform(size=(5, 12))


@pytest.mark.parametrize(("coordinates", "c"), [("ball", 0.6), ("tangent", 0.6)])
def test_midpoints_of_the_averaged_sums(coordinates, c):
    place = ball if coordinates == "ball" else lambda v, c: v
    average = optim.ema_midpoint(0.8, curvature=c, coordinates=coordinates)

    @jax.jit
    def run(centroids, tokens):
        def one(state, batch):
            state = average.update(*batch[:2], state, weights=batch[2])
            return state, state.centroids

        batches = (tokens, jnp.asarray(ASSIGNMENT), jnp.asarray(WEIGHTS))
        return jax.lax.scan(one, average.init(centroids, mass=2.0), batches)

    state, found = run(jnp.asarray(place(CENTROIDS, c)), jnp.asarray(place(TOKENS, c)))
    sums = 2.0 * lorentz(CENTROIDS, c)
    for tokens, assignment, weights, centroids in zip(
        TOKENS, ASSIGNMENT, WEIGHTS, found, strict=True
    ):
        given = np.zeros_like(sums)
        np.add.at(given, assignment, weights[:, None] * lorentz(tokens, c))
        sums = 0.8 * sums + 0.2 * given
        np.testing.assert_allclose(centroids, place(tangent(sums, c), c), rtol=1e-11, atol=1e-12)
    mass = np.sqrt(sums[:, 0] ** 2 - (sums[:, 1:] ** 2).sum(-1))
    np.testing.assert_allclose(state.mass, mass, rtol=1e-10)
    np.testing.assert_allclose(found[:, 3], [place(CENTROIDS, c)[3]] * 5, rtol=1e-12)


def test_the_last_tokens_alone_and_tokens_that_count_nowhere():
    average = optim.ema_midpoint(0.0, coordinates="tangent")
    tokens = jnp.asarray([[1.0, 0.0], [0.0, 0.0], [-1.0, 0.0], [5.0, 5.0], [9.0, 9.0], [3.0, 4.0]])
    assignment = jnp.asarray([0, 0, 0, -1, 4, 2])
    start = jnp.asarray([[0.1, 0.2], [0.5, 0.5], [0.0, 0.0], [jnp.nan, 0.0]])
    update = jax.jit(average.update)
    state = update(tokens, assignment, average.init(start))
    expected = [[0.0, 0.0], [0.5, 0.5], [3.0, 4.0], [jnp.nan, 0.0]]
    np.testing.assert_allclose(state.centroids[:3], expected[:3], atol=1e-14)
    np.testing.assert_array_equal(state.centroids[3], expected[3])  # as it was
    assert state.mass[1] == 0  # and stays where it is, for ever
    state = update(tokens.at[5].set(jnp.nan), assignment, state)
    np.testing.assert_array_equal(np.isnan(state.centroids).any(-1), [False, False, True, True])
    np.testing.assert_array_equal(state.centroids[1], start[1])


def test_float32_far_from_the_origin():
    rng = np.random.default_rng(1)
    r = np.asarray([1.0, 4.0, 7.0, 10.0])
    u = rng.normal(size=(4, 1, 3))
    tokens = r[:, None, None] / 2 * u / np.linalg.norm(u, axis=-1, keepdims=True)
    noise = 0.3 * rng.normal(size=(4, 64, 3))
    along = (noise * tokens).sum(-1, keepdims=True) / (r**2 / 4)[:, None, None] * tokens
    tokens = tokens + along + (noise - along) * (r / np.sinh(r))[:, None, None]
    single = tokens.astype(np.float32)
    average = optim.ema_midpoint(0.5, coordinates="tangent")

    @jax.jit
    @jax.vmap
    def midpoint(tokens):
        start = average.init(tokens[:1], mass=0.0)
        return average.update(tokens, jnp.zeros(64, int), start).centroids[0]

    found, exact = np.asarray(midpoint(single)), midpoint(single.astype(np.float64))
    assert found.dtype == np.float32
    radius, true = (2 * np.linalg.norm(x.astype(float), axis=-1) for x in (found, exact))
    assert (np.abs(radius - true) < [1e-6, 1e-6, 3e-6, 4e-5]).all()
    assert (np.abs(np.float64(found) / radius[:, None] - exact / true[:, None]) < 1e-6).all()
    assert (np.abs(true - r) < 0.5).all()


@pytest.mark.parametrize("coordinates", ["ball", "tangent"])
def test_a_centroid_without_tokens_keeps_its_bits(coordinates):
    average = optim.ema_midpoint(0.9, coordinates=coordinates)
    far = 6.0 if coordinates == "tangent" else 1 - 1e-5
    directions = np.random.default_rng(0).normal(size=(4, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    centroids = jnp.asarray(far * directions, jnp.float32)
    state = jax.jit(average.update)(centroids[:3], jnp.array([0, 1, 9]), average.init(centroids))
    np.testing.assert_array_equal(state.centroids[2:], centroids[2:])
    np.testing.assert_array_equal(state.mass[2:], jnp.full(2, 0.9, jnp.float32))


def test_an_ensemble_by_vmap():
    average = optim.ema_midpoint(0.5, coordinates="tangent")
    states = jax.vmap(average.init)(jnp.asarray([CENTROIDS, 2 * CENTROIDS]))
    both = jnp.asarray(TOKENS[:2]), jnp.asarray(ASSIGNMENT[:2])
    found = jax.jit(jax.vmap(average.update))(*both, states)
    for i in range(2):
        alone = average.init(jnp.asarray((i + 1) * CENTROIDS))
        alone = jax.jit(average.update)(both[0][i], both[1][i], alone)
        np.testing.assert_allclose(found.centroids[i], alone.centroids, rtol=1e-12)


def test_errors_name_what_is_wrong(bare_errors):
    average = optim.ema_midpoint(0.5)
    state = average.init(jnp.zeros((2, 3)))
    tokens = jnp.zeros((4, 3))
    with pytest.raises(ValueError, match=r"decay must be in \[0, 1\), got 1.0"):
        optim.ema_midpoint(1.0)
    with pytest.raises(ValueError, match="coordinates must be one of"):
        optim.ema_midpoint(0.5, coordinates="klein")
    with pytest.raises(ValueError, match="curvature must be one number"):
        optim.ema_midpoint(0.5, curvature=jnp.ones(3))
    with pytest.raises(ValueError, match=r"centroids must have shape \(number, d\), got \(3,\)"):
        average.init(jnp.zeros(3))
    with pytest.raises(ValueError, match="mass must be in"):
        average.init(jnp.zeros((2, 3)), mass=-1.0)
    with pytest.raises(TypeError, match="tokens must be a real floating"):
        average.update(jnp.zeros((4, 3), int), jnp.zeros(4, int), state)
    with pytest.raises(TypeError, match="assignment must be integers, got dtype float"):
        average.update(tokens, jnp.zeros(4), state)
    with pytest.raises(ValueError, match=r"tokens \(n, 3\) and assignment \(n,\) do not fit"):
        average.update(tokens, jnp.zeros(5, int), state)
    with pytest.raises(ValueError, match="do not fit"):
        average.update(tokens[:, :2], jnp.zeros(4, int), state)
