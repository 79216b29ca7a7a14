"""Dense float64 references and random chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def _hamiltonian(onsite, hopping):
    """H (..., n, n) of a chain: H[i, i+1] = b_i, H[i+1, i] = conj(b_i)."""
    n = onsite.shape[-1]
    batch = np.broadcast_shapes(onsite.shape[:-1], hopping.shape[:-1])
    onsite = jnp.broadcast_to(onsite, (*batch, n)).astype(jnp.complex128)
    hopping = jnp.broadcast_to(hopping, (*batch, n - 1)).astype(jnp.complex128)
    i = np.arange(n)
    matrix = jnp.zeros((*batch, n, n), jnp.complex128).at[..., i, i].set(onsite)
    matrix = matrix.at[..., i[:-1], i[1:]].set(hopping)
    return matrix.at[..., i[1:], i[:-1]].set(hopping.conj())


@jax.jit
def _inverse(onsite, hopping, energy):
    """(z - H)^{-1} (..., n, n), dense."""
    matrix = _hamiltonian(onsite, hopping)
    energy = jnp.asarray(energy, jnp.complex128)
    batch = np.broadcast_shapes(matrix.shape[:-2], energy.shape)
    z = jnp.broadcast_to(energy, batch)[..., None, None]
    identity = jnp.eye(matrix.shape[-1], dtype=z.dtype).reshape(
        (1,) * len(batch) + matrix.shape[-2:]
    )
    return jnp.linalg.inv(z * identity - jnp.broadcast_to(matrix, (*batch, *matrix.shape[-2:])))


@jax.jit
def _half_line(onsite, hopping, energy):
    """L_ij = [(z - H_{0..i})^{-1}]_ij, (..., n, n): row i with the bond behind site i cut."""
    n = onsite.shape[-1]
    kept = np.tril(np.ones((n, n - 1), np.complex128), -1)
    kept = kept.reshape((1,) * (hopping.ndim - 1) + kept.shape)
    cut = _inverse(
        onsite[..., None, :], hopping[..., None, :] * kept, jnp.asarray(energy)[..., None]
    )
    return cut[..., np.arange(n), np.arange(n), :]


@pytest.fixture
def half_line():
    return _half_line


@pytest.fixture
def hamiltonian():
    return _hamiltonian


@pytest.fixture
def inverse():
    return _inverse


@pytest.fixture
def random_chain():
    """make(n, onsite_batch, hopping_batch, energy_batch) -> onsite, complex hopping, energy."""

    def make(n, a=(), b=(), z=(), *, seed=0, disorder=2.0, eta=(0.05, 1.0)):
        rng = np.random.default_rng(seed)
        onsite = disorder * rng.uniform(-1, 1, (*a, n))
        hopping = rng.normal(size=(*b, n - 1)) + 1j * rng.normal(size=(*b, n - 1))
        energy = rng.uniform(-2, 2, z) + 1j * rng.uniform(*eta, z)
        return jnp.asarray(onsite), jnp.asarray(hopping), jnp.asarray(energy)

    return make
