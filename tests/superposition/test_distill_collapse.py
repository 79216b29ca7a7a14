"""The weight expectation, its signs of one basin or several, and weights from losses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.superposition import distill

f32 = np.float32


def cloud(centres, seed=0):
    """Particles (K, 3) around centres, as a tree of two leaves."""
    noise = np.random.default_rng(seed).standard_normal((len(centres), 3))
    points = (np.asarray(centres)[:, None] + 0.05 * noise).astype(f32)
    return {"a": jnp.asarray(points[:, 0]), "b": jnp.asarray(points[:, 1:])}


def wells(x):
    """Two basins, at -1 and 1 in every coordinate."""
    return jnp.mean((jnp.concatenate([x["a"][None], x["b"]]) ** 2 - 1) ** 2)


run = jax.jit(lambda particles, weights: distill.collapse(particles, weights, loss_fn=wells))


def flat(tree):
    return np.concatenate([np.asarray(tree["a"])[..., None], tree["b"]], -1).astype(float)


def rise(x, y, t):
    """Of the loss above the line between two ends, in float64."""
    loss = lambda z: ((z**2 - 1) ** 2).mean()  # noqa: E731
    return loss((1 - t) * x + t * y) - (1 - t) * loss(x) - t * loss(y)


@pytest.mark.parametrize(("centres", "one"), [([1, 1, 1, 1], True), ([1, -1, 1, -1], False)])
def test_mean_and_signs_are_those_of_plain_sums(centres, one):
    particles = cloud(centres)
    weights = jnp.array([1.0, 2.0, 3.0, 2.0], jnp.float32)
    found = run(particles, weights)
    share, x = np.array([1, 2, 3, 2]) / 8, flat(particles)
    mean = share @ x
    np.testing.assert_allclose(flat(found.params), mean, rtol=1e-5, atol=1e-6)
    spread = np.sqrt(share @ ((x - mean) ** 2).sum(-1) / (share @ (x**2).sum(-1)))
    np.testing.assert_allclose(found.spread, spread, rtol=1e-4)
    np.testing.assert_allclose(found.effective, 64 / 18, rtol=1e-6)
    losses = ((x**2 - 1) ** 2).mean(-1)
    np.testing.assert_allclose(found.losses, losses, rtol=1e-4)
    np.testing.assert_allclose(found.loss, ((mean**2 - 1) ** 2).mean(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found.mean_loss, share @ losses, rtol=1e-4)
    best = x[losses.argmin()]
    highest = [max(0, *(rise(best, y, t) for t in (0.25, 0.5, 0.75))) for y in x]
    np.testing.assert_allclose(found.barriers, highest, rtol=1e-4, atol=1e-6)
    assert found.one_basin == one
    assert (found.spread < 0.1) == one
    assert found.params["b"].dtype == jnp.float32


def test_a_mean_in_the_valley_between_is_caught_by_the_lines():
    """Two basins whose mean lies in a third: the mean's loss alone says nothing."""

    def three(x):
        return jnp.sin(jnp.pi * x / 2) ** 2  # basins at -2, 0, 2

    found = jax.jit(lambda x: distill.collapse(x, loss_fn=three))(jnp.array([-2.0, 2.0], f32))
    assert found.loss < 1e-6
    assert np.max(found.barriers) > 0.9
    assert not found.one_basin


def test_particles_without_weight_take_no_part_nan_or_not():
    particles = cloud([1, 1, 1, 1])
    broken = jax.tree.map(lambda x: x.at[1].set(jnp.nan), particles)
    weights = jnp.array([1.0, 0.0, 1.0, 1.0], jnp.float32)
    found = run(broken, weights)
    want = flat(particles)[[0, 2, 3]].mean(0)
    np.testing.assert_allclose(flat(found.params), want, rtol=1e-5)
    assert found.one_basin
    assert found.barriers[1] == 0
    # With weight it is not covered up.
    found = run(broken, jnp.ones(4, jnp.float32))
    assert np.isnan(found.loss)
    assert not found.one_basin


def test_dtypes_are_kept_and_sums_are_wide():
    ones = jnp.full((300, 2), 1.0, jnp.bfloat16)
    found = jax.jit(distill.collapse)({"x": ones, "y": jnp.ones((300,), jnp.float64)})
    assert (found.params["x"].dtype, found.params["y"].dtype) == (jnp.bfloat16, jnp.float64)
    assert np.all(np.asarray(found.params["x"], f32) == 1)
    assert found.loss is None
    assert found.one_basin is None


def test_weights_from_losses():
    losses = jnp.array([3.0, 1.0, jnp.nan, 2.0, jnp.inf, -jnp.inf], jnp.float32)
    run = jax.jit(lambda losses, rate: distill.boltzmann_weights(losses, inverse_temperature=rate))
    got = run(losses, 2.0)
    want = np.exp(-2 * np.array([2, 0, np.inf, 1, np.inf, np.inf]))
    np.testing.assert_allclose(got, want / want.sum(), rtol=1e-6)
    shifted = run(losses + 1e6, 2.0)
    np.testing.assert_allclose(shifted, got, rtol=1e-6)  # only differences count
    cold = run(losses, np.inf)
    assert np.array_equal(cold, [0, 1, 0, 0, 0, 0])
    hot = run(losses, 0.0)
    np.testing.assert_allclose(hot, [1 / 3, 1 / 3, 0, 1 / 3, 0, 0], rtol=1e-6)
    assert np.all(np.isnan(run(jnp.full(6, jnp.nan, f32), 1.0)))
    ties = jnp.array([1.0, 1.0, 2.0, 4.0, 2.0, 1.0], jnp.float32)
    slope = jax.jit(jax.jacobian(run))(ties, 2.0)
    p = np.exp(-2.0 * np.asarray(ties))
    p /= p.sum()
    np.testing.assert_allclose(slope, -2 * (np.diag(p) - np.outer(p, p)), atol=1e-6)


@pytest.mark.usefixtures("bare_errors")
def test_errors_name_the_argument():
    particles = cloud([1, 1])
    with pytest.raises(ValueError, match="particles must hold arrays with one common first axis"):
        distill.collapse({"a": particles["a"], "b": jnp.ones(3)})
    with pytest.raises(TypeError, match="particles must be a real"):
        distill.collapse(jnp.ones(3, jnp.int32))
    with pytest.raises(ValueError, match=r"weights must have shape \(2,\), got \(3,\)"):
        distill.collapse(particles, jnp.ones(3))
    with pytest.raises(ValueError, match="points must be >= 1"):
        distill.collapse(particles, points=0)
    with pytest.raises(ValueError, match=r"loss_fn must return one number, got shape \(1,\)"):
        distill.collapse(particles, loss_fn=lambda x: x["b"][:1])
    for bad in (jnp.ones((2, 2)), jnp.ones(0)):
        with pytest.raises(ValueError, match=r"losses must have shape \(K,\)"):
            distill.boltzmann_weights(bad)
    for bad in (-1.0, np.nan, jnp.ones(2)):
        with pytest.raises(ValueError, match="inverse_temperature must be one number >= 0"):
            distill.boltzmann_weights(jnp.ones(2), inverse_temperature=bad)
