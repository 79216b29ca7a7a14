"""The integrated LDOS: exact against eigenvectors, within [0, 1], causal, continued."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens


def butterworth(matrix, center, radius, order):
    """sum_m |psi_m(i)|^2 / (1 + ((E_m - c) / r)^K) of dense matrices."""
    energy, vector = np.linalg.eigh(matrix)
    share = 1 / (1 + ((energy - center) / radius) ** order)
    return np.einsum("...im,...m->...i", np.abs(vector) ** 2, share)


@pytest.mark.parametrize("order", [2, 4, 8])
def test_two_sided_equals_the_sum_over_eigenstates(order, random_chain, hamiltonian):
    onsite, hopping, _ = random_chain(40, (3,))
    expected = butterworth(hamiltonian(onsite, hopping), 0.3, 0.8, order)
    n = greens.window(onsite, hopping, center=0.3, radius=0.8, order=order)
    np.testing.assert_allclose(n, expected, atol=1e-13)


def test_causal_sums_over_the_chain_that_ends_at_the_site(random_chain, hamiltonian):
    onsite, hopping, _ = random_chain(12)
    n = greens.window(onsite, hopping, center=-0.2, radius=1.1, order=6, causal=True)
    for i in (0, 3, 11):
        matrix = hamiltonian(onsite[: i + 1], hopping[:i])
        np.testing.assert_allclose(n[i], butterworth(matrix, -0.2, 1.1, 6)[i], atol=1e-13)


@pytest.mark.parametrize("causal", [False, True])
def test_never_leaves_the_unit_interval_in_float32(causal):
    rng = np.random.default_rng(0)
    disorder = np.array([0.0, 1.0, 20.0])[:, None]
    onsite = jnp.asarray(disorder * rng.uniform(-1, 1, (3, 4096)), jnp.float32)
    for radius in (1e-3, 0.5, 100.0):
        n = greens.window(
            onsite, jnp.ones(4095, jnp.float32), center=0.0, radius=radius, causal=causal
        )
        assert np.isfinite(n).all()
        assert np.all((n >= 0) & (n <= 1))
    assert np.all(n > 0.999)  # a window that holds the whole spectrum
    slope = jax.grad(lambda a: greens.window(a, jnp.zeros(0), center=0.0, radius=1.0).sum())
    assert slope(jnp.array([40.0])) != 0  # the clip does not cut the gradient


def test_center_and_radius_broadcast_with_the_batch(random_chain):
    onsite, hopping, _ = random_chain(20, (2,))
    center, radius = jnp.array([[0.0], [1.0], [-1.0]]), jnp.array([0.5, 2.0])
    n = greens.window(onsite, hopping, center=center, radius=radius)
    assert n.shape == (3, 2, 20)
    for i in range(3):
        for j in range(2):
            alone = greens.window(onsite[j], hopping, center=center[i, 0], radius=radius[j])
            np.testing.assert_allclose(n[i, j], alone, rtol=1e-12)


@pytest.mark.parametrize("n", [9, 300])
def test_later_sites_change_no_bit_of_the_causal_window(n, random_chain):
    onsite, hopping, _ = random_chain(n, (2,))

    @jax.jit
    def window(onsite, hopping):
        return greens.window(onsite, hopping, center=0.1, radius=0.9, causal=True)

    before = window(onsite, hopping)
    for j in (n - 1, n // 2, 3):
        changed = window(onsite.at[:, j:].multiply(-3.0), hopping.at[j - 1 :].add(0.7))
        np.testing.assert_array_equal(changed[:, :j], before[:, :j])
        assert not np.array_equal(changed[:, j], before[:, j])


def test_a_window_continues_from_its_state(random_chain):
    onsite, hopping, _ = random_chain(30, (2,))
    options = {"center": 0.1, "radius": 0.9, "order": 4, "causal": True}
    whole = greens.window(onsite, hopping, **options)
    parts, state = [], None
    for start, stop in [(0, 11), (11, 12), (12, 30)]:
        n, state = greens.window(
            onsite[:, start:stop],
            hopping[max(start - 1, 0) : stop - 1],
            **options,
            initial=state,
            return_state=True,
        )
        parts.append(n)
    assert state.shape == (2, 2)
    np.testing.assert_allclose(jnp.concatenate(parts, -1), whole, rtol=1e-12, atol=1e-14)


def test_a_nan_stays_a_nan(random_chain):
    onsite, hopping, _ = random_chain(10)
    n = greens.window(onsite.at[4].set(jnp.nan), hopping, center=0.0, radius=1.0, causal=True)
    assert np.isfinite(n[:4]).all()
    assert np.isnan(n[4:]).all()
