"""Losses and moments in chunks, against loops over particles in float64."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.superposition.path_integral import _noise, _particles
from physnet.superposition.path_integral._config import Config

CONFIG = Config(
    particles=14,
    effective=0.25,
    antithetic=True,
    covariance="none",
    directions=1,
    rank=None,
    adapt_sigma=True,
    chunk=None,
    axis_name=None,
    materialise=True,
)
PARAMS = {
    "b": jnp.asarray([0.5, -1.0, 2.0], jnp.float32),
    "w": jnp.asarray(np.random.default_rng(0).normal(size=(6, 5)), jnp.float32),
}
KEY = jax.random.key(7)


def scale(noise):
    return jax.tree.map(lambda z: jnp.asarray(0.3, z.dtype) * z, noise)


def loss(params, target):
    return jnp.sum(params["b"] ** 2) + jnp.sum(jnp.tanh(params["w"] - target))


def by_hand(config):
    """Noise of all particles, one at a time, in float64."""
    rows = []
    for j in range(config.particles):
        index, sign = (j // 2, 1 - 2 * (j % 2)) if config.antithetic else (j, 1)
        z = _noise.draw(jax.random.fold_in(KEY, index), PARAMS, rank=config.rank)
        rows.append(jax.tree.map(lambda x, sign=sign: sign * np.asarray(x, np.float64), z))
    return rows


def found(config, weights):
    run = jax.jit(
        lambda weights: (
            _particles.losses(KEY, PARAMS, scale, config, loss, (jnp.float32(0.25),)),
            _particles.particles(KEY, PARAMS, scale, config),
            _particles.moments(KEY, PARAMS, weights, config, second="diagonal"),
            _particles.moments(KEY, PARAMS, weights, config, second="full").second,
            _particles.moments(
                KEY, PARAMS, weights, config, second=lambda z: {"odd": z["b"] + z["b"] ** 2}
            ).second,
        )
    )
    return run(weights)


OPTIONS = [
    {"chunk": 4},
    {"chunk": 5, "antithetic": False},
    {"rank": 1, "chunk": 6},
    {"rank": 2, "antithetic": False, "particles": 7},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_losses_and_moments_are_those_of_a_loop(options):
    config = dataclasses.replace(CONFIG, **options)
    weights = np.random.default_rng(1).normal(size=config.particles)  # of any sign
    losses, clouds, moments, full, other = found(config, jnp.asarray(weights, jnp.float32))
    rows = by_hand(config)
    want = []
    for j, z in enumerate(rows):
        own = {k: np.asarray(PARAMS[k], np.float64) + 0.3 * z[k] for k in PARAMS}
        for k in PARAMS:
            np.testing.assert_allclose(clouds[k][j], own[k], rtol=1e-5, atol=1e-5)
        want.append(np.sum(own["b"] ** 2) + np.sum(np.tanh(own["w"] - 0.25)))
    np.testing.assert_allclose(losses, want, rtol=1e-5, atol=1e-5)
    assert losses.dtype == full.dtype == jnp.float32
    for k in PARAMS:
        total = sum(p * z[k] for p, z in zip(weights, rows, strict=True))
        np.testing.assert_allclose(moments.mean[k], total, atol=2e-5)
        total = sum(p * z[k] ** 2 for p, z in zip(weights, rows, strict=True))
        np.testing.assert_allclose(moments.second[k], total, atol=1e-4)
    flat = np.stack([np.concatenate([z["b"], z["w"].ravel()]) for z in rows])
    np.testing.assert_allclose(full, flat.T @ (weights[:, None] * flat), atol=1e-4)
    total = sum(p * (z["b"] + z["b"] ** 2) for p, z in zip(weights, rows, strict=True))
    np.testing.assert_allclose(other["odd"], total, atol=1e-4)


def test_squares_of_factors_without_dense_matrices():
    like = {"w": jnp.zeros((12, 11), jnp.float32)}
    weights = jnp.asarray(np.random.default_rng(1).normal(size=6), jnp.float32)
    config = dataclasses.replace(CONFIG, particles=6, antithetic=False, rank=2)
    run = jax.jit(lambda: _particles.moments(KEY, like, weights, config, second="diagonal"))
    z = [_noise.draw(jax.random.fold_in(KEY, j), like, rank=2)["w"] for j in range(6)]
    want = sum(float(p) * np.asarray(x, np.float64) ** 2 for p, x in zip(weights, z, strict=True))
    np.testing.assert_allclose(run().second["w"], want, atol=1e-4)
    assert "6,12,11" not in str(jax.make_jaxpr(run)())  # K matrices


def test_antithetic_particles_lie_opposite():
    cloud = jax.jit(lambda: _particles.particles(KEY, PARAMS, scale, CONFIG))()
    for k in PARAMS:
        middle = (cloud[k][::2] + cloud[k][1::2]) / 2
        np.testing.assert_allclose(middle, np.broadcast_to(PARAMS[k], middle.shape), atol=1e-6)


def test_an_odd_cloud_of_pairs_leaves_its_last_partner_out():
    config = dataclasses.replace(CONFIG, particles=5)
    cloud, whole = jax.jit(
        lambda: [_particles.particles(KEY, PARAMS, scale, c) for c in (config, CONFIG)]
    )()
    assert cloud["b"].shape == (5, 3)
    np.testing.assert_allclose(cloud["b"], whole["b"][:5], atol=1e-6)
    values = jax.eval_shape(
        lambda: _particles.losses(KEY, PARAMS, scale, config, loss, (jnp.float32(0.25),))
    )
    assert values.shape == (5,)


def test_dtypes_of_leaves_and_losses():
    params = {"half": jnp.ones((3, 3), jnp.bfloat16), "wide": jnp.ones(2, jnp.float64)}

    def total(p, seen):
        seen.update({k: v.dtype for k, v in p.items()})
        return jnp.sum(p["wide"])

    seen = {}
    values = jax.eval_shape(lambda: _particles.losses(KEY, params, scale, CONFIG, total, (seen,)))
    assert seen == {"half": jnp.bfloat16, "wide": jnp.float64}
    assert values.dtype == jnp.float64
    low = lambda p: jnp.sum(p["half"])  # noqa: E731
    assert jax.eval_shape(lambda: _particles.losses(KEY, params, scale, CONFIG, low, ())).dtype == (
        jnp.float32
    )
    moments = jax.eval_shape(
        lambda: _particles.moments(KEY, params, jnp.ones(14, jnp.float32), CONFIG)
    )
    assert moments.mean["half"].dtype == jnp.float32
    assert moments.mean["wide"].dtype == jnp.float64


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (lambda p: p["b"], r"shape \(3,\)"),
        (lambda p: jnp.int32(1), "int32"),
        (lambda p: (jnp.float32(1), p), "tuple"),
        (lambda p: None, "None"),
    ],
    ids=["vector", "int", "pair", "None"],
)
def test_a_loss_that_is_no_number_is_named(bad, what):
    words = f"loss_fn must return one real floating-point number, got.*{what}"
    with pytest.raises(TypeError, match=words):
        jax.eval_shape(lambda: _particles.losses(KEY, PARAMS, scale, CONFIG, bad, ()))
