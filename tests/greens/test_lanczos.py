"""The chain of a matrix-free operator and its LDOS, against eigenvectors."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens


@functools.partial(jax.jit, static_argnames="order")
def chain_of(matrix, vector, *, order):
    return greens.lanczos(lambda v: matrix @ v, vector, order=order)


@functools.partial(jax.jit, static_argnames="order")
def ldos_of(matrix, vectors, energy, *, order):
    return greens.ldos_lanczos(lambda v: matrix @ v, vectors, energy, order=order)


def hermitian(n, seed=0, *, real=False):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, n)) + (0 if real else 1j) * rng.normal(size=(n, n))
    return jnp.asarray((x + x.conj().T) / np.sqrt(8 * n))


def density(matrix, vector, energy):
    """-Im <v|(z - H)^{-1}|v> / pi by eigenvectors, (*energy.shape)."""
    level, states = np.linalg.eigh(matrix)
    weight = np.abs(states.conj().T @ np.asarray(vector)) ** 2
    return -(weight / (np.asarray(energy)[..., None] - level)).sum(-1).imag / np.pi


ENERGY = np.linspace(-1.2, 1.2, 7) + 0.05j


@pytest.mark.parametrize("real", [False, True])
def test_a_full_chain_is_exact(real):
    matrix = hermitian(40, real=real)
    vectors = hermitian(40, 1, real=real)[:3]
    ldos = ldos_of(matrix, vectors, ENERGY, order=40)
    assert ldos.shape == (3, 7)
    for row, vector in zip(ldos, vectors, strict=True):
        np.testing.assert_allclose(row, density(matrix, vector, ENERGY), rtol=1e-10)


def test_a_chain_is_its_own_chain(random_chain):
    onsite, hopping, _ = random_chain(20)
    hopping = jnp.abs(hopping)

    def matvec(v):
        return onsite * v + jnp.pad(hopping * v[1:], (0, 1)) + jnp.pad(hopping * v[:-1], (1, 0))

    a, b = jax.jit(lambda v: greens.lanczos(matvec, v, order=20))(jnp.eye(20)[0])
    np.testing.assert_allclose(a, onsite, atol=1e-12)
    np.testing.assert_allclose(b, hopping, atol=1e-12)


def test_a_short_chain_has_the_first_moments():
    matrix, vector = hermitian(60), jnp.eye(60, dtype=complex)[4]
    a, b = (np.asarray(x) for x in chain_of(matrix, vector, order=5))
    chain = np.diag(a) + np.diag(b, 1) + np.diag(b, -1)
    for k in range(10):
        moment = np.linalg.matrix_power(np.asarray(matrix), k)[4, 4].real
        np.testing.assert_allclose(np.linalg.matrix_power(chain, k)[0, 0], moment, atol=1e-12)


def test_no_ghosts_of_converged_levels():
    """Far levels converge first; without reorthogonalisation they come again and take weight."""
    level = np.concatenate([np.linspace(-1, 1, 146), [4.0, 6.0, -5.0, 9.0]])
    vector = jnp.ones(150) / 150**0.5
    for dtype, tolerance in ((jnp.float64, 1e-9), (jnp.float32, 2e-3)):
        diagonal = jnp.asarray(level, dtype)
        energy = np.array([4.0, 6.0, -5.0]) + 0.05j

        @jax.jit
        def run(vector, d=diagonal, energy=energy):
            ldos = greens.ldos_lanczos(lambda v: d * v, vector, energy, order=110)
            return *greens.lanczos(lambda v: d * v, vector, order=110), ldos

        a, b, ldos = run(vector.astype(dtype))
        chain = np.diag(np.asarray(a, float)) + np.diag(np.asarray(b, float), 1)
        found = np.linalg.eigvalsh(chain, UPLO="U")
        assert (found > 3).sum() == 3
        assert (found < -3).sum() == 1
        assert ldos.dtype == dtype
        np.testing.assert_allclose(ldos, density(np.diag(level), vector, energy), rtol=tolerance)


def test_the_chain_ends_where_the_subspace_does():
    matrix = np.zeros((9, 9))
    matrix[:4, :4] = np.asarray(hermitian(4, real=True))
    matrix[4:, 4:] = np.asarray(hermitian(5, 2, real=True))
    matrix = jnp.asarray(matrix)
    state = np.linalg.eigh(matrix)[1][:, 3]
    for vector, size in ((jnp.eye(9)[1], 4), (jnp.asarray(state), 1), (jnp.zeros(9), 0)):
        a, b = (np.asarray(x) for x in chain_of(matrix, vector, order=12))
        assert np.all(np.abs(a[size:]) < 1e-12)
        assert np.all(b[max(size - 1, 0) :] == 0)
        assert np.all(b[: max(size - 1, 0)] > 1e-3)
        ldos = ldos_of(matrix, vector, ENERGY, order=12)
        np.testing.assert_allclose(ldos, density(matrix, vector, ENERGY), rtol=1e-9, atol=1e-13)


def test_under_jit_and_vmap_with_a_traced_operator():
    matrices = jnp.stack([hermitian(16, seed) for seed in range(3)])
    vector = jnp.eye(16, dtype=complex)[0]

    @jax.jit
    @jax.vmap
    def ldos(matrix):
        return greens.ldos_lanczos(lambda v: matrix @ v, vector, 0.1 + 0.05j, order=16)

    expected = [density(matrix, vector, 0.1 + 0.05j) for matrix in matrices]
    np.testing.assert_allclose(ldos(matrices), expected, rtol=1e-10)


def test_random_vectors_give_the_mean_density():
    matrix = hermitian(200, real=True)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (64, 200)) / np.sqrt(200)
    ldos = ldos_of(matrix, jnp.asarray(signs), 0.1 + 0.2j, order=60)
    mean = np.mean(1 / (0.1 + 0.2j - np.linalg.eigvalsh(matrix)))
    np.testing.assert_allclose(ldos.mean(), -mean.imag / np.pi, rtol=0.02)


def test_bad_input_is_named(bare_errors):
    one = jnp.ones(4)
    with pytest.raises(ValueError, match=r"matvec must map \(4,\) to \(4,\), got \(3,\)"):
        greens.lanczos(lambda v: v[1:], one, order=3)
    with pytest.raises(TypeError, match="matvec must keep the dtype float64, got float32"):
        greens.lanczos(lambda v: v.astype(jnp.float32), one, order=3)
    with pytest.raises(ValueError, match="order must be >= 1, got 0"):
        greens.lanczos(lambda v: v, one, order=0)
    with pytest.raises(TypeError, match=r"vectors must be .*got dtype int64"):
        greens.ldos_lanczos(lambda v: v, one.astype(int), 1j, order=2)
    with pytest.raises(ValueError, match="positive imaginary part"):
        greens.ldos_lanczos(lambda v: v, one, -1j, order=2)
