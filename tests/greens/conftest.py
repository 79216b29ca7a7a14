"""Dense float64 references and random chains."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def _numpy(*arrays):
    """NumPy for values, which costs no compilation; JAX where derivatives are taken."""
    return jnp if any(isinstance(x, jax.core.Tracer) for x in arrays) else np


def _hamiltonian(onsite, hopping):
    """H (..., n, n) of a chain: H[i, i+1] = b_i, H[i+1, i] = conj(b_i)."""
    xp, n = _numpy(onsite, hopping), onsite.shape[-1]
    a, b = (xp.asarray(x, complex) for x in (onsite, hopping))
    b = xp.pad(b, [(0, 0)] * (b.ndim - 1) + [(0, 1)])
    diagonal, upper, lower = (np.eye(n, k=k, dtype=complex) for k in (0, 1, -1))
    with jax.numpy_rank_promotion("allow"):
        beside = b[..., :, None] * upper + b.conj()[..., None, :] * lower
        return a[..., :, None] * diagonal + beside


def _inverse(onsite, hopping, energy):
    """(z - H)^{-1} (..., n, n), dense."""
    xp = _numpy(onsite, hopping, energy)
    z = xp.asarray(energy, complex)[..., None, None]
    with jax.numpy_rank_promotion("allow"):
        identity = np.eye(onsite.shape[-1], dtype=complex)
        return xp.linalg.inv(z * identity - _hamiltonian(onsite, hopping))


def _half_line(onsite, hopping, energy):
    """L_ij = [(z - H_{0..i})^{-1}]_ij, (..., n, n): row i with the bond behind site i cut."""
    xp, n = _numpy(onsite, hopping, energy), onsite.shape[-1]
    onsite, hopping, energy = (xp.asarray(x) for x in (onsite, hopping, energy))
    kept = np.tril(np.ones((n, n - 1), hopping.dtype), -1)
    with jax.numpy_rank_promotion("allow"):
        cut = _inverse(onsite[..., None, :], hopping[..., None, :] * kept, energy[..., None])
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
