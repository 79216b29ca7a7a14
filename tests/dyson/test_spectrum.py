"""Measured norms against plain gradients, and the figures of agreement against NumPy and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from physnet import dyson

spectrum, dense = jax.jit(dyson.spectrum), jax.jit(dyson.dense)  # not op by op


@jax.jit
def of_multiples(scale, h, cotangent):
    return dyson.gradient_norms(lambda s, h: s * h, scale, h, cotangent)


def test_norms_are_those_of_the_gradients_at_the_outputs(layer, stack, jacobians):
    params, h = stack(5, (2, 3))
    cotangent = np.random.default_rng(1).normal(size=h.shape)
    ours = jax.jit(lambda *a: dyson.gradient_norms(layer, *a))(params, h, cotangent)
    delta, expected = cotangent.ravel(), []
    for j in np.asarray(jacobians(params, h))[::-1]:
        expected.insert(0, np.linalg.norm(delta))
        delta = j.T @ delta
    np.testing.assert_allclose(ours, expected, rtol=1e-12)


def test_one_layer_has_the_cotangent(layer, stack):
    params, h = stack(1)
    found = jax.jit(lambda p, h: dyson.gradient_norms(layer, p, h, h))(params, h)
    np.testing.assert_allclose(found, [np.linalg.norm(h)], rtol=1e-12)


def test_under_vmap_and_in_low_precision(layer, stack):
    params, h = stack(dtype=np.float32)
    batch = np.stack([h, 2 * np.asarray(h)])
    run = lambda p, h, c: dyson.gradient_norms(layer, p, h, c)  # noqa: E731
    mapped = np.asarray(jax.jit(jax.vmap(run, (None, 0, 0)))(params, batch, batch))
    assert mapped.dtype == np.float32
    run = jax.jit(run)
    np.testing.assert_allclose(mapped[1], run(params, batch[1], batch[1]), rtol=1e-5)
    low = run(*stack(dtype=jnp.bfloat16), batch[0])
    assert low.dtype == np.float32
    np.testing.assert_allclose(low, mapped[0], rtol=0.1)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_norms_whose_squares_leave_float32(factor):
    scale, one = np.full(101, factor, np.float32), np.ones(4, np.float32)
    norms = np.asarray(of_multiples(scale, 0 * one, one))
    np.testing.assert_allclose(norms[0], 2 * factor**100, rtol=1e-6)
    zero = of_multiples(scale, one, 0 * one)
    np.testing.assert_array_equal(zero, 0)
    infinite = np.asarray(of_multiples(0 * scale, one, np.float32(np.inf) * one))
    assert np.isinf(infinite[-1])


@pytest.fixture
def case():
    rng = np.random.default_rng(2)
    return rng.uniform(0.3, 1.6, 12), np.exp(rng.normal(size=12))


def test_agreement_is_that_of_scipy(case):
    rho, norms = case
    found = spectrum(rho, norms)
    product = np.append(np.asarray(dense(rho))[:-1, -1], 1) * norms[-1]
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
    norms[3] = norms[5] = norms[7]
    found = spectrum(rho, norms)
    product = np.append(np.asarray(dense(rho))[:-1, -1], 1)
    np.testing.assert_allclose(
        found.spearman, stats.spearmanr(product, norms).statistic, rtol=1e-10
    )


def test_a_linear_stack_of_multiples_is_predicted_exactly():
    rho = np.array([1.0, 2.0, -0.5, 0.1, 3.0])
    norms = of_multiples(rho, np.ones(3), np.ones(3))
    found = spectrum(rho, norms)
    np.testing.assert_allclose(found.predicted, norms, rtol=1e-12)
    assert found.log_error < 1e-12
    for correlation in found[2:5]:
        np.testing.assert_allclose(correlation, 1, rtol=1e-12)


def test_every_form_of_a_propagator(case):
    rho, norms = case
    expected = spectrum(rho, norms)
    matrix = np.asarray(dense(rho))
    # A dense matrix may have its own diagonal, of which the last entry counts, or none.
    for form in (matrix, matrix + np.eye(12), jax.jit(dyson.as_propagator)(rho)):
        np.testing.assert_allclose(spectrum(form, norms).predicted, expected.predicted)
    onsite = np.linspace(-1.0, 1.0, 12)
    chain = spectrum(jax.jit(dyson.chain_propagator)(onsite, rho[1:], 0.1j), norms)
    h = np.diag(onsite) + np.diag(rho[1:], 1) + np.diag(rho[1:], -1)
    column = np.abs(np.linalg.inv(0.1j * np.eye(12) - h)[:, -1])
    np.testing.assert_allclose(chain.predicted, column / column[-1] * norms[-1], rtol=1e-11)


def test_edges():
    found = spectrum(np.zeros(4), np.array([0.0, 0.0, 1.0, 1.0]))
    assert np.isfinite(found.log_error)
    assert found.predicted[0] < 1e-300
    assert np.isnan(spectrum(np.ones(4), np.arange(1.0, 5.0)).pearson)
    single = spectrum(np.ones(1), np.ones(1))
    assert single.log_error == 0
    assert np.isnan(single.pearson)
    deep = spectrum(np.full(1000, 0.99, np.float32), np.ones(1000, np.float32))
    assert deep.predicted.dtype == deep.log_error.dtype == np.float32
