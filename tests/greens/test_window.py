"""The integrated LDOS: exact against eigenvectors, within [0, 1], causal, continued."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens

window = jax.jit(greens.window, static_argnames=("order", "causal"))


def butterworth(matrix, center, radius, order):
    """sum_m |psi_m(i)|^2 / (1 + ((E_m - c) / r)^K) of dense matrices."""
    energy, vector = np.linalg.eigh(matrix)
    share = 1 / (1 + ((energy - center) / radius) ** order)
    return np.einsum("...im,...m->...i", np.abs(vector) ** 2, share)


@pytest.mark.parametrize("order", [2, 4, 8])
def test_two_sided_equals_the_sum_over_eigenstates(order, random_chain, hamiltonian):
    onsite, hopping, _ = random_chain(40, (3,))
    expected = butterworth(hamiltonian(onsite, hopping), 0.3, 0.8, order)
    n = window(onsite, hopping, center=0.3, radius=0.8, order=order)
    np.testing.assert_allclose(n, expected, atol=1e-13)


def test_causal_sums_over_the_chain_that_ends_at_the_site(random_chain, hamiltonian):
    onsite, hopping, _ = random_chain(12)
    n = window(onsite, hopping, center=-0.2, radius=1.1, order=6, causal=True)
    for i in (0, 3, 11):
        matrix = hamiltonian(onsite[: i + 1], hopping[:i])
        np.testing.assert_allclose(n[i], butterworth(matrix, -0.2, 1.1, 6)[i], atol=1e-13)


def test_the_clip_to_the_unit_interval_does_not_cut_the_gradient():
    slope = jax.grad(lambda a: greens.window(a, jnp.zeros(0), center=0.0, radius=1.0).sum())
    assert jax.jit(slope)(jnp.array([40.0])) != 0


def test_center_and_radius_broadcast_with_the_batch(random_chain):
    onsite, hopping, _ = random_chain(20, (2,))
    center, radius = jnp.array([[0.0], [1.0], [-1.0]]), jnp.array([0.5, 2.0])
    n = window(onsite, hopping, center=center, radius=radius)
    assert n.shape == (3, 2, 20)
    for i in range(3):
        for j in range(2):
            alone = window(onsite[j], hopping, center=center[i, 0], radius=radius[j])
            np.testing.assert_allclose(n[i, j], alone, rtol=1e-12)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("n", [9, 300])
def test_later_sites_change_no_bit_of_the_causal_window(n, random_chain):
    onsite, hopping, _ = random_chain(n, (2,))
    options = {"center": 0.1, "radius": 0.9, "causal": True}
    before = window(onsite, hopping, **options)
    for j in (n - 1, n // 2, 3):
        changed = window(onsite.at[:, j:].multiply(-3.0), hopping.at[j - 1 :].add(0.7), **options)
        np.testing.assert_array_equal(changed[:, :j], before[:, :j])
        assert not np.array_equal(changed[:, j], before[:, j])


def test_a_window_continues_from_its_state(random_chain):
    onsite, hopping, _ = random_chain(30, (2,))
    options = {"center": 0.1, "radius": 0.9, "order": 4, "causal": True}
    whole = window(onsite, hopping, **options)
    run = jax.jit(functools.partial(greens.window, **options, return_state=True))
    parts, state = [], None
    for start, stop in [(0, 11), (11, 12), (12, 30)]:
        bonds = hopping[max(start - 1, 0) : stop - 1]
        n, state = run(onsite[:, start:stop], bonds, initial=state)
        parts.append(n)
    assert state.shape == (2, 2)
    np.testing.assert_allclose(jnp.concatenate(parts, -1), whole, rtol=1e-12, atol=1e-14)


def test_a_nan_stays_a_nan(random_chain):
    onsite, hopping, _ = random_chain(10)
    n = window(onsite.at[4].set(jnp.nan), hopping, center=0.0, radius=1.0, causal=True)
    assert np.isfinite(n[:4]).all()
    assert np.isnan(n[4:]).all()
