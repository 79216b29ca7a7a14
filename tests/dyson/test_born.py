"""The Born series: partial sums, convergence and its radius, what it reports, derivatives."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from physnet import dyson


@functools.partial(jax.jit, static_argnames="order")
def to_tolerance(free, sigma, tolerance, order=400):
    return dyson.born_series(free, sigma, order=order, tolerance=tolerance)


def with_radius(radius, n=6, seed=0):
    """G0 and Sigma whose product has this spectral radius."""
    free, sigma = np.random.default_rng(seed).normal(size=(2, n, n))
    largest = np.abs(np.linalg.eigvals(free @ sigma)).max()
    return jnp.asarray(free), jnp.asarray(radius / largest * sigma)


def inverse(free, sigma):
    """(1 - G0 Sigma)^{-1} G0 in NumPy's float64."""
    free, sigma = np.asarray(free), np.asarray(sigma)
    return np.linalg.inv(np.eye(len(free)) - free @ sigma) @ free


@pytest.mark.parametrize("order", [0, 1, 5])
def test_partial_sums(order):
    free, sigma = with_radius(2.0)
    m, expected = np.asarray(free @ sigma), 0
    for k in range(order + 1):
        expected = expected + np.linalg.matrix_power(m, k) @ np.asarray(free)
    ours = dyson.born_series(free, sigma, order=order)
    np.testing.assert_allclose(ours, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("radius", [0.1, 0.9])
def test_within_the_radius_it_converges_to_the_inverse(radius):
    free, sigma = with_radius(radius)
    g, info = to_tolerance(free, sigma, 1e-13)
    assert info.converged
    np.testing.assert_allclose(g, inverse(free, sigma), rtol=1e-10, atol=1e-10)
    used = dyson.born_series(free, sigma, order=int(info.order))
    np.testing.assert_allclose(g, used, rtol=1e-12, atol=1e-12)
    # radius^order = tolerance, up to the norms of what the powers multiply
    assert abs(int(info.order) - np.log(1e-13) / np.log(radius)) < 40


def test_the_residual_is_that_of_the_equation():
    free, sigma = with_radius(0.9)
    g, info = to_tolerance(free, sigma, 1e-3)
    left = np.linalg.norm(free + free @ sigma @ g - g) / np.linalg.norm(g)
    np.testing.assert_allclose(info.residual, left, rtol=1e-10)
    _, one_less = to_tolerance(free, sigma, 0.0, int(info.order) - 1)
    assert info.residual <= 1e-3 < one_less.residual
    assert not one_less.converged


@pytest.mark.parametrize("radius", [1.01, 3.0])
def test_beyond_the_radius_it_diverges_and_says_so(radius):
    free, sigma = with_radius(radius)
    assert np.isfinite(inverse(free, sigma)).all()  # a solution exists, the series does not find it
    sizes = [np.linalg.norm(dyson.born_series(free, sigma, order=n)) for n in (100, 300)]
    assert sizes[1] > radius**120 * sizes[0]
    _, info = to_tolerance(free, sigma, 1e-6, 5000)
    assert not info.converged
    assert radius < 3 or info.order < 1000  # an overflow of the norm ends it early


def test_not_a_number_ends_it_at_once():
    free, sigma = with_radius(0.5)
    _, info = to_tolerance(free.at[0, 0].set(jnp.nan), sigma, 1e-6)
    assert int(info.order) == 0
    assert not info.converged


@pytest.mark.parametrize("layers", [1, 2, 9])
def test_causal_depth_is_exact_in_at_most_that_many_terms(layers):
    rng = np.random.default_rng(layers)
    free = jnp.eye(layers)
    sigma = jnp.asarray(np.triu(5 * rng.normal(size=(layers, layers)), 1))  # norm far beyond 1
    exact = dyson.solve(free, sigma, triangular="upper")
    series = dyson.born_series(free, sigma, order=layers - 1)
    np.testing.assert_allclose(series, exact, rtol=1e-10, atol=1e-10)
    g, info = to_tolerance(free, sigma, 0.0)
    assert info.converged
    assert info.residual == 0
    assert int(info.order) <= layers - 1  # scatterings; terms are one more
    np.testing.assert_allclose(g, exact, rtol=1e-10, atol=1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("tolerance", [None, 1e-14])
def test_derivatives(tolerance):
    free, sigma = with_radius(0.4, 3)

    def loss(free, sigma):
        found = dyson.born_series(free, sigma, order=100, tolerance=tolerance)
        return jnp.sum(jnp.sin(found if tolerance is None else found[0]))

    check_grads(jax.jit(loss), (free, sigma), order=2, modes=("fwd", "rev"), rtol=1e-6, atol=1e-6)
    ours = jax.jit(jax.grad(loss, (0, 1)))(free, sigma)
    direct = jax.grad(lambda f, s: jnp.sum(jnp.sin(dyson.solve(f, s))), (0, 1))(free, sigma)
    for a, b in zip(ours, direct, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)


def test_complex_derivatives_of_the_solution():
    real, imaginary = with_radius(0.3), with_radius(0.3, seed=1)
    free, sigma = (jax.lax.complex(a, b) for a, b in zip(real, imaginary, strict=True))

    def gradient(f):
        return jax.jit(jax.grad(lambda s: jnp.sum(jnp.abs(f(s)) ** 2)))(sigma)

    ours = gradient(lambda s: dyson.born_series(free, s, order=200, tolerance=1e-14)[0])
    np.testing.assert_allclose(ours, gradient(lambda s: dyson.solve(free, s)), rtol=1e-9)


def test_each_matrix_of_a_batch_ends_by_itself():
    pairs = [with_radius(radius) for radius in (0.1, 0.8, 1.5)]
    free, sigma = (jnp.stack(x) for x in zip(*pairs, strict=True))
    g, info = to_tolerance(free, sigma, 1e-10)
    assert info.converged.tolist() == [True, True, False]
    for i, own in enumerate(pairs):
        alone, found = to_tolerance(*own, 1e-10)
        assert int(found.order) == int(info.order[i])
        np.testing.assert_allclose(g[i], alone, rtol=1e-12)
    mapped = jax.vmap(to_tolerance, (0, 0, None))(free, sigma, 1e-10)
    np.testing.assert_array_equal(mapped[1].order, info.order)
    np.testing.assert_allclose(mapped[0], g, rtol=1e-12)
