"""Gradients, forward mode and second order against autodiff of the dense inverse."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens

NAMES = ("onsite", "hopping", "energy")


def dense(function, inverse, half_line):
    """The same function by dense inverses."""

    def diagonal(matrix):
        return lambda *chain: matrix(*chain).diagonal(axis1=-2, axis2=-1)

    def ldos(*chain):
        return -diagonal(inverse)(*chain).imag / jnp.pi

    return {
        greens.diagonal: diagonal(inverse),
        greens.left: diagonal(half_line),
        greens.ldos: ldos,
    }[function]


def loss(function, *chain):
    """A real number that weighs every entry of a complex array differently."""
    value = function(*chain)
    weight = jnp.asarray(np.random.default_rng(3).normal(size=(2, *value.shape)))
    return jnp.sum(weight[0] * value.real) + jnp.sum(weight[1] * value.imag * value.real)


def gradients(function):
    return jax.jit(jax.grad(functools.partial(loss, function), (0, 1, 2)))


def assert_close(ours, expected, tolerance):
    assert ours.shape == expected.shape
    assert ours.dtype == expected.dtype
    assert np.abs(ours - expected).max() < tolerance * np.abs(expected).max()


@pytest.mark.parametrize("function", [greens.diagonal, greens.left, greens.ldos])
def test_gradients_equal_those_of_the_dense_inverse(function, random_chain, inverse, half_line):
    # onsite (2, 1, n), hopping (n-1), energy (3): cotangents are summed over broadcast axes.
    both = [gradients(f) for f in (function, dense(function, inverse, half_line))]
    for eta in (1.0, 0.01):
        chain = random_chain(14, (2, 1), (), (3,), eta=(eta, 2 * eta))
        ours, expected = (f(*chain) for f in both)
        for value, other in zip(ours, expected, strict=True):
            assert_close(value, other, 1e-10)


@pytest.mark.parametrize("n", [1, 2])
def test_gradients_of_the_shortest_chains(n, random_chain, inverse, half_line):
    chain = random_chain(n)
    reference = dense(greens.diagonal, inverse, half_line)
    ours, expected = (gradients(f)(*chain) for f in (greens.diagonal, reference))
    for value, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("function", [greens.diagonal, greens.left])
def test_forward_mode_equals_that_of_the_dense_inverse(function, random_chain, inverse, half_line):
    chain, tangents = random_chain(14, (2, 1), (), (3,)), random_chain(14, (2, 1), (), (3,), seed=1)
    reference = dense(function, inverse, half_line)
    (value, tangent), (expected, expected_tangent) = (
        jax.jit(functools.partial(jax.jvp, f))(chain, tangents) for f in (function, reference)
    )
    assert_close(value, expected, 1e-12)
    assert_close(tangent, expected_tangent, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("function", [greens.diagonal, greens.left])
def test_second_order_equals_that_of_the_dense_inverse(function, random_chain, inverse, half_line):
    onsite, hopping, energy = random_chain(6)
    reference = dense(function, inverse, half_line)

    def real_loss(f, onsite, magnitude, z):
        return loss(f, onsite, magnitude.astype(complex), jax.lax.complex(z[0], z[1]))

    arguments = (onsite, jnp.abs(hopping), jnp.stack([energy.real, energy.imag]))

    def hessian(f):
        return jax.jit(jax.hessian(functools.partial(real_loss, f), (0, 1, 2)))(*arguments)

    ours, expected = (hessian(f) for f in (function, reference))
    for value, other in zip(jax.tree.leaves(ours), jax.tree.leaves(expected), strict=True):
        assert_close(value, other, 1e-10)
    reverse = jax.jit(jax.jacrev(jax.grad(functools.partial(real_loss, function))))(*arguments)
    assert_close(reverse, expected[0][0], 1e-10)


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_of_the_window_equal_those_of_the_dense_sum(
    causal, random_chain, inverse, half_line
):
    onsite, hopping, _ = random_chain(10, (2,))
    matrix = half_line if causal else inverse
    window = greens.window

    def ours(onsite, hopping, center, radius):
        n = window(onsite, hopping, center=center, radius=radius, order=6, causal=causal)
        return jnp.sum(jnp.sin(3 * n))

    def expected(onsite, hopping, center, radius):
        total = jnp.zeros(onsite.shape)
        for k in range(3):
            phase = np.exp(1j * np.pi * (2 * k + 1) / 6)
            g = jnp.diagonal(matrix(onsite, hopping, center + radius * phase), axis1=-2, axis2=-1)
            total = total + (radius * phase * g).real / 3
        return jnp.sum(jnp.sin(3 * total))

    arguments = (onsite, hopping, jnp.float64(0.2), jnp.float64(0.7))
    with jax.numpy_dtype_promotion("standard"):
        reference = jax.jit(jax.grad(expected, (0, 1, 2, 3)))(*arguments)
    values = jax.jit(jax.grad(ours, (0, 1, 2, 3)))(*arguments)
    for value, other in zip(values, reference, strict=True):
        assert_close(value, other, 1e-10)


def test_a_long_chain_has_the_gradient_of_its_chunks(random_chain):
    """Few lanes and many sites: the CPU's chunked form; the gradient by finite differences."""
    onsite, hopping, energy = random_chain(300, (4,), (), (), eta=(0.1, 0.2))
    direction = jnp.asarray(np.random.default_rng(5).normal(size=onsite.shape))

    @jax.jit
    @jax.value_and_grad
    def moved(t):
        return loss(greens.diagonal, onsite + t * direction, hopping, energy)

    slope = moved(0.0)[1]
    numeric = (moved(1e-5)[0] - moved(-1e-5)[0]) / 2e-5
    np.testing.assert_allclose(slope, numeric, rtol=1e-6)
