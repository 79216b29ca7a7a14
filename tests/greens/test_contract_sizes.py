"""What every implementation must meet, in float32: long, many and no chains, extreme numbers.

References are plain recursions in float64; `test_contract.py` has what holds for ordinary chains.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens


@pytest.fixture(params=["xla", pytest.param("triton", marks=pytest.mark.gpu)])
def implementation(request):
    return request.param


def assert_close(value, other, tolerance=2e-5):
    """Equal as far as the largest entry tells."""
    atol = tolerance * np.abs(other).max() + 1e-6
    np.testing.assert_allclose(value, other, rtol=0, atol=atol)


def half_lines(onsite, weight, energy):
    """gL (lanes, n) by the plain recursion, w (lanes, n) the bond in front of each site."""
    green, g = np.zeros(onsite.shape, complex), np.zeros(onsite.shape[0], complex)
    for i in range(onsite.shape[1]):
        g = 1 / (energy - onsite[:, i] - weight[:, i] * g)
        green[:, i] = g
    return green


@pytest.mark.parametrize(("eta", "tolerance"), [(1e-3, 2e-4), (1e-2, 2e-5), (1.0, 1e-6)])
def test_accuracy_of_long_chains(eta, tolerance, implementation):
    rng = np.random.default_rng(7)
    disorder = np.array([0.0, 0.5, 2.0, 10.0])[:, None]
    onsite = np.float32(disorder * rng.uniform(-0.5, 0.5, (4, 65536)))
    z = np.complex64(0.3 + 1j * eta)
    weight = np.ones(onsite.shape)
    weight[:, 0] = 0
    left = half_lines(onsite.astype(float), weight, complex(z))
    right = half_lines(onsite[:, ::-1].astype(float), weight, complex(z))[:, ::-1]
    before, behind = np.pad(left[:, :-1], ((0, 0), (1, 0))), np.pad(right[:, 1:], ((0, 0), (0, 1)))
    both = 1 / (complex(z) - onsite - before - behind)
    hopping = jnp.ones(65535, jnp.float32)
    for function, expected in ((greens.left, left), (greens.diagonal, both)):
        run = jax.jit(functools.partial(function, implementation=implementation))
        g = np.asarray(run(jnp.asarray(onsite), hopping, z))
        assert np.all(g.imag <= 0)
        assert (np.abs(g - expected) / np.abs(expected)).max() < tolerance


def test_long_waves_and_their_gradient(implementation):
    """Many chunks: against the plain recursion, and its transpose."""
    rng = np.random.default_rng(0)
    n, d = 3001, 5
    onsite, source, u = rng.normal(size=(2, n)), rng.normal(size=(2, n, d)), rng.normal(size=(n, d))
    hopping = rng.normal(size=n - 1) + 1j * rng.normal(size=n - 1)
    link = np.pad(hopping.conj(), (1, 0))
    z = 0.1 + 0.3j
    green = half_lines(onsite, np.broadcast_to(np.abs(link) ** 2, (2, n)), z)
    y = np.zeros((2, n, d), complex)
    for i in range(n):
        y[:, i] = green[:, i, None] * (source[:, i] + (link[i] * y[:, i - 1] if i else 0))
    factor, t = green * link, np.zeros((2, n, d), complex)
    for i in range(n)[::-1]:
        t[:, i] = u[i] + (factor[:, i + 1, None] * t[:, i + 1] if i + 1 < n else 0)

    def total(x):
        waves = greens.propagate(
            jnp.asarray(onsite, jnp.float32),
            jnp.asarray(hopping, jnp.complex64),
            np.complex64(z),
            x,
            implementation=implementation,
        )
        return jnp.sum(waves.real * jnp.asarray(u, jnp.float32)[None]), waves

    run = jax.jit(jax.value_and_grad(total, has_aux=True))
    (_, ours), gradient = run(jnp.asarray(source, jnp.float32))
    assert_close(ours, y)
    assert_close(gradient, (green[..., None] * t).real)


def test_huge_numbers_decouple_and_stay_finite(implementation):
    onsite = jnp.asarray([1e30, 0.5, -1e30, 0.25, 1e38, 3e38], jnp.float32)
    hopping = jnp.ones(5, jnp.float32)

    def density(onsite, hopping):
        g = greens.diagonal(onsite, hopping, 0.1 + 1e-4j, implementation=implementation)
        return -g.imag / jnp.pi

    value = jax.jit(density)(onsite, hopping)
    alone = 1e-4 / ((0.1 - np.asarray(onsite, float)) ** 2 + 1e-8) / np.pi
    np.testing.assert_allclose(value, alone, rtol=1e-4, atol=1e-30)
    assert np.all(value >= 0)
    gradients = jax.jit(jax.grad(lambda *c: density(*c).sum(), (0, 1)))(onsite, hopping)
    assert all(np.isfinite(g).all() for g in gradients)
    source = jnp.ones((6, 2), jnp.float32)

    def waves(*chain):
        return jnp.abs(
            greens.propagate(*chain, 0.1 + 1e-4j, source, implementation=implementation)
        ).sum()

    gradients = jax.jit(jax.grad(waves, (0, 1)))(onsite, hopping)
    assert all(np.isfinite(g).all() for g in gradients)


def test_without_hopping_each_site_is_alone(implementation):
    onsite = np.linspace(-3, 3, 1000).astype(np.float32)
    for function in (greens.diagonal, greens.left):
        run = jax.jit(functools.partial(function, implementation=implementation))
        g = run(jnp.asarray(onsite), jnp.zeros(999, jnp.float32), np.complex64(0.5 + 1e-3j))
        np.testing.assert_allclose(g, 1 / (np.complex64(0.5 + 1e-3j) - onsite), rtol=1e-4)


def test_a_window_stays_in_the_unit_interval(implementation):
    rng = np.random.default_rng(0)
    disorder = np.array([0.0, 1.0, 20.0])[:, None]
    onsite = jnp.asarray(disorder * rng.uniform(-1, 1, (3, 4096)), jnp.float32)
    for causal in (False, True):

        @jax.jit
        def window(radius, causal=causal):
            options = {"causal": causal, "implementation": implementation}
            hopping = jnp.ones(4095, jnp.float32)
            return greens.window(onsite, hopping, center=0.0, radius=radius, **options)

        for radius in (1e-3, 0.5, 100.0):
            n = np.asarray(window(np.float32(radius)))
            assert np.all((n >= 0) & (n <= 1))
        assert np.all(n > 0.999)  # a window that holds the whole spectrum


def test_thousands_of_short_chains(implementation):
    rng = np.random.default_rng(0)
    onsite = jnp.asarray(rng.normal(size=(3000, 5)), jnp.float32)
    source = jnp.asarray(rng.normal(size=(3000, 5, 2)), jnp.float32)
    hopping, z = jnp.ones(4, jnp.float32), np.complex64(0.2 + 0.3j)

    def both(implementation):
        options = {"implementation": implementation}
        return jax.jit(
            lambda a, x: (
                greens.diagonal(a, hopping, z, **options),
                greens.propagate(a, hopping, z, x, **options),
            )
        )

    together, few = both(implementation)(onsite, source), both("xla")
    for some in (slice(0, 2), slice(1499, 1501), slice(2998, 3000)):
        for value, other in zip(together, few(onsite[some], source[some]), strict=True):
            assert_close(np.asarray(value)[some], np.asarray(other), 1e-5)


def test_no_chain_at_all(implementation):
    for n in (1, 4):
        g = greens.diagonal(
            jnp.zeros((0, n), jnp.float32), jnp.ones(n - 1, jnp.float32), 1j,
            implementation=implementation,
        )  # fmt: skip
        assert g.shape == (0, n)
