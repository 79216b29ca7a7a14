"""Measured norms against plain gradients, and the figures of agreement against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from physnet import dyson


def test_norms_are_those_of_the_gradients_at_the_outputs(layer, stack, jacobians):
    params, h = stack(5, (2, 3))
    cotangent = jnp.asarray(np.random.default_rng(1).normal(size=h.shape))
    ours = jax.jit(lambda p, h: dyson.gradient_norms(layer, p, h, cotangent))(params, h)
    delta, expected = np.asarray(cotangent).ravel(), []
    for j in np.asarray(jacobians(params, h))[::-1]:
        expected.insert(0, np.linalg.norm(delta))
        delta = j.T @ delta
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_one_layer_has_the_cotangent(layer, stack):
    params, h = stack(1)
    assert dyson.gradient_norms(layer, params, h, h).shape == (1,)


def test_under_vmap_and_in_low_precision(layer, stack):
    params, h = stack(dtype=np.float32)
    batch = jnp.stack([h, 2 * h])
    mapped = jax.vmap(lambda h: dyson.gradient_norms(layer, params, h, h))(batch)
    assert mapped.dtype == np.float32
    one = dyson.gradient_norms(layer, params, batch[1], batch[1])
    np.testing.assert_allclose(mapped[1], one, rtol=1e-5)
    low = dyson.gradient_norms(layer, *(stack(dtype=jnp.bfloat16)), batch[0])
    assert low.dtype == np.float32
    np.testing.assert_allclose(low, mapped[0], rtol=0.1)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_norms_whose_squares_leave_float32(factor):
    scale, one = jnp.full(101, factor, jnp.float32), jnp.ones(4, jnp.float32)
    norms = dyson.gradient_norms(lambda s, h: s * h, scale, 0 * one, one)
    np.testing.assert_allclose(norms[0], 2 * factor**100, rtol=1e-6)
    zero = dyson.gradient_norms(lambda s, h: s * h, scale, one, 0 * one)
    np.testing.assert_array_equal(zero, 0)
    infinite = dyson.gradient_norms(lambda s, h: s * h, 0 * scale, one, jnp.inf * one)
    assert np.isinf(infinite[-1])


@pytest.fixture
def case():
    rng = np.random.default_rng(2)
    rho = jnp.asarray(rng.uniform(0.3, 1.6, 12))
    return rho, jnp.asarray(np.exp(rng.normal(size=12)))


def test_agreement_is_that_of_scipy(case):
    rho, norms = case
    found = jax.jit(dyson.spectrum)(rho, norms)
    product = np.append(np.asarray(dyson.dense(rho))[:-1, -1], 1) * float(norms[-1])
    np.testing.assert_allclose(found.predicted, product, rtol=1e-12)
    np.testing.assert_allclose(found.measured, norms, rtol=1e-12)
    x, y = np.log(product), np.log(norms)
    np.testing.assert_allclose(found.pearson, stats.pearsonr(x, y).statistic, rtol=1e-10)
    np.testing.assert_allclose(found.spearman, stats.spearmanr(x, y).statistic, rtol=1e-10)
    steps = stats.pearsonr(np.diff(x), np.diff(y)).statistic
    np.testing.assert_allclose(found.step_pearson, steps, rtol=1e-10)
    np.testing.assert_allclose(found.log_error, ((x - y)[:-1] ** 2).mean() ** 0.5, rtol=1e-10)


def test_ties_share_their_rank(case):
    rho, norms = case
    norms = norms.at[3].set(norms[7]).at[5].set(norms[7])
    found = dyson.spectrum(rho, norms)
    product = dyson.dense(rho).at[-1, -1].set(1)[:, -1]
    np.testing.assert_allclose(
        found.spearman, stats.spearmanr(product, norms).statistic, rtol=1e-10
    )


def test_a_linear_stack_of_multiples_is_predicted_exactly():
    rho = jnp.array([1.0, 2.0, -0.5, 0.1, 3.0])
    norms = dyson.gradient_norms(lambda s, h: s * h, rho, jnp.ones(3), jnp.ones(3))
    found = dyson.spectrum(rho, norms)
    np.testing.assert_allclose(found.predicted, norms, rtol=1e-12)
    assert found.log_error < 1e-12
    for correlation in found[2:5]:
        np.testing.assert_allclose(correlation, 1, rtol=1e-12)


def test_every_form_of_a_propagator(case):
    rho, norms = case
    expected = dyson.spectrum(rho, norms)
    # A dense matrix may have its own diagonal, of which the last entry counts, or none.
    for form in (dyson.dense(rho), dyson.dense(rho) + jnp.eye(12), dyson.as_propagator(rho)):
        np.testing.assert_allclose(dyson.spectrum(form, norms).predicted, expected.predicted)
    onsite = jnp.linspace(-1.0, 1.0, 12)
    chain = dyson.spectrum(dyson.chain_propagator(onsite, rho[1:], 0.1j), norms)
    h = np.diag(onsite) + np.diag(rho[1:], 1) + np.diag(rho[1:], -1)
    column = np.abs(np.linalg.inv(0.1j * np.eye(12) - h)[:, -1])
    np.testing.assert_allclose(chain.predicted, column / column[-1] * norms[-1], rtol=1e-11)


def test_edges():
    found = dyson.spectrum(jnp.zeros(4), jnp.array([0.0, 0.0, 1.0, 1.0]))
    assert np.isfinite(found.log_error)
    assert found.predicted[0] < 1e-300
    assert np.isnan(dyson.spectrum(jnp.ones(4), jnp.arange(1.0, 5.0)).pearson)
    single = dyson.spectrum(jnp.ones(1), jnp.ones(1))
    assert single.log_error == 0
    assert np.isnan(single.pearson)
    deep = dyson.spectrum(jnp.full(1000, 0.99, jnp.float32), jnp.ones(1000, jnp.float32))
    assert deep.predicted.dtype == deep.log_error.dtype == np.float32
