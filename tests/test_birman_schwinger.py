"""Invariants of the Birman-Schwinger operator against the dense one and against eigenvalues."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import birman_schwinger as bs
from physnet import greens

operator, log_determinant, spectral_shift, norm = (
    jax.jit(f)
    for f in (bs.operator, bs.log_determinant, bs.spectral_shift, bs.hilbert_schmidt_norm)
)
diagonal = jax.jit(greens.diagonal)


def perturbed(n=24, seed=0, *, a=(), b=(), v=(), z=(), eta=0.1):
    """onsite, complex hopping, potential of both signs, energy."""
    rng = np.random.default_rng(seed)
    onsite, potential = rng.normal(size=(*a, n)), 2 * rng.normal(size=(*v, n))
    hopping = rng.normal(size=(*b, n - 1)) + 1j * rng.normal(size=(*b, n - 1))
    energy = rng.uniform(-1, 1, z) + 1j * eta * rng.uniform(1, 2, z)
    return tuple(jnp.asarray(x) for x in (onsite, hopping, potential, energy))


def dense(onsite, hopping, potential, energy):
    """H_0, R_0(z) and K(z) of one chain in NumPy."""
    onsite, hopping, v = (np.asarray(x) for x in (onsite, hopping, potential))
    matrix = np.diag(onsite).astype(complex) + np.diag(hopping, 1) + np.diag(hopping.conj(), -1)
    free = np.linalg.inv(matrix - complex(energy) * np.eye(len(onsite)))
    root = np.sqrt(np.abs(v))
    return matrix, free, root[:, None] * free * (root * np.sign(v))


def test_operator_is_the_dense_one():
    chain = perturbed()
    np.testing.assert_allclose(operator(*chain), dense(*chain)[2], rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("n", [1, 2, 150])
@pytest.mark.parametrize("eta", [1e-3, 1.0])
def test_log_determinant_is_that_of_the_dense_operator(n, eta):
    chain = perturbed(n, eta=eta)
    sign, log_abs = np.linalg.slogdet(np.eye(n) + dense(*chain)[2])
    ours = complex(log_determinant(*chain))
    assert abs(ours.real - log_abs) < 1e-12 * max(1, abs(log_abs))
    assert abs(np.exp(1j * ours.imag) - sign) < 1e-12 * max(1, abs(ours.imag))


@pytest.mark.parametrize("scale", [1e-9, 1e-3, 1.0, 1e3])
def test_log_determinant_loses_no_digit_of_weak_or_strong_potentials(scale):
    """Against slogdet, or the first two traces of K; float32 keeps its digits too."""
    onsite, hopping, potential, energy = perturbed()
    chain = onsite, hopping, scale * potential, energy
    k = dense(*chain)[2]
    weak = np.trace(k) - np.trace(k @ k) / 2
    expected = weak.real if scale < 1e-6 else np.linalg.slogdet(np.eye(24) + k)[1]
    ours = log_determinant(*chain)
    np.testing.assert_allclose(ours.real, expected, rtol=1e-10)
    single = log_determinant(*(_single(x) for x in chain))
    assert single.dtype == jnp.complex64
    np.testing.assert_allclose(single, ours, rtol=1e-4)


def _single(x):
    return x.astype(jnp.complex64 if jnp.iscomplexobj(x) else jnp.float32)


def test_its_derivatives_are_traces_of_the_resolvent():
    """d/dz log det(1 + K) = Tr(G - G_0);  d/dV_i = -G_ii."""
    onsite, hopping, potential, energy = perturbed()
    g = diagonal(onsite + potential, hopping, energy)
    trace = g.sum() - diagonal(onsite, hopping, energy).sum()

    @jax.jit
    def slopes(v, z):
        dz = jax.grad(lambda z: bs.log_determinant(onsite, hopping, v, z).real)(z)
        re, im = (
            jax.grad(lambda v, f=f: f(bs.log_determinant(onsite, hopping, v, z)))(v)
            for f in (jnp.real, jnp.imag)
        )
        return dz, re, im

    dz, re, im = slopes(potential, energy)
    np.testing.assert_allclose(dz, trace, rtol=1e-10)
    np.testing.assert_allclose(re, -g.real, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(im, -g.imag, rtol=1e-9, atol=1e-12)


def test_spectral_shift_counts_the_levels_that_pass():
    onsite, hopping, potential, _ = perturbed(30)
    matrix = dense(onsite, hopping, potential, 1j)[0]
    before = np.linalg.eigvalsh(matrix)
    after = np.linalg.eigvalsh(matrix + np.diag(potential))
    levels = np.sort(np.concatenate([before, after]))
    energy = (levels[1:] + levels[:-1])[np.diff(levels) > 1e-2] / 2  # well between two levels
    counted = (before[:, None] < energy).sum(0) - (after[:, None] < energy).sum(0)
    assert len(set(counted)) > 2
    shift = spectral_shift(onsite, hopping, potential, jnp.asarray(energy + 1e-8j))
    np.testing.assert_allclose(shift, counted, atol=1e-4)
    lifted = spectral_shift(onsite, hopping, jnp.abs(potential), jnp.asarray(energy + 0.1j))
    assert np.all(lifted > 0)


def test_the_shift_integrates_to_the_potential():
    onsite, hopping, potential, _ = perturbed(8)
    angle = (np.arange(4000) + 0.5) * np.pi / 4000 - np.pi / 2
    energy = 4 * np.tan(angle)
    shift = spectral_shift(onsite, hopping, potential, jnp.asarray(energy + 0.5j))
    weight = np.pi / 4000 * 4 / np.cos(angle) ** 2
    np.testing.assert_allclose((np.asarray(shift) * weight).sum(), potential.sum(), rtol=1e-2)


@pytest.mark.parametrize("n", [1, 2, 150])
def test_hilbert_schmidt_norm_is_that_of_the_dense_operator(n):
    for eta in (1e-3, 1.0):
        onsite, hopping, potential, energy = chain = perturbed(n, eta=eta)
        size = norm(*chain)
        np.testing.assert_allclose(size, np.linalg.norm(dense(*chain)[2]), rtol=1e-11)
        strength = jnp.abs(potential)
        density = -diagonal(onsite, hopping, energy).imag
        assert size**2 <= (1 + 1e-12) * strength.max() * (strength * density).sum() / energy.imag


def test_gradient_of_the_norm_equals_that_of_the_dense_operator():
    chain = perturbed(10)

    def of_operator(*chain):
        return jnp.linalg.norm(bs.operator(*chain))

    ours = jax.jit(jax.grad(bs.hilbert_schmidt_norm, (0, 1, 2, 3)))(*chain)
    expected = jax.jit(jax.grad(of_operator, (0, 1, 2, 3)))(*chain)
    for value, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-9, atol=1e-11)


FUNCTIONS = (bs.operator, bs.log_determinant, bs.spectral_shift, bs.hilbert_schmidt_norm)


def test_without_a_potential_all_is_zero_with_finite_gradients():
    onsite, hopping, potential, energy = perturbed(6)

    @jax.jit
    def everything(potential):
        return [f(onsite, hopping, potential, energy) for f in FUNCTIONS]

    @jax.jit
    @jax.grad
    def slope(potential):
        return sum(jnp.sum(jnp.abs(x) ** 2) for x in everything(potential))

    nothing = jnp.zeros_like(potential)
    assert all(np.all(x == 0) for x in everything(nothing))
    assert np.isfinite(slope(nothing)).all()
    assert np.isfinite(slope(nothing.at[2].set(0.1))).all()


def test_batches_broadcast_and_map():
    chain = perturbed(12, a=(3, 1), b=(2,), v=(3, 1), z=(2,))
    onsite, hopping, potential, energy = chain

    def everything(*chain):
        return [f(*chain) for f in FUNCTIONS]

    inner = jax.vmap(everything, in_axes=(None, 0, None, 0))
    mapped = jax.jit(jax.vmap(inner, in_axes=(0, None, 0, None)))
    each = mapped(onsite[:, 0], hopping, potential[:, 0], energy)
    for rows, whole in zip(each, jax.jit(everything)(*chain), strict=True):
        np.testing.assert_allclose(rows, whole, rtol=1e-10, atol=1e-12)
    shapes = [x.shape for x in jax.eval_shape(everything, *chain)]
    assert shapes == [(3, 2, 12, 12), (3, 2), (3, 2), (3, 2)]
    row = jax.eval_shape(bs.spectral_shift, onsite[0, 0], hopping[0], potential[:, 0], energy[0])
    assert row.shape == (3,)


def test_float32_stays_float32_under_x64():
    onsite, hopping, potential, _ = (_single(x) for x in perturbed(8))
    for function in FUNCTIONS:
        value = jax.eval_shape(lambda *x, f=function: f(*x, 0.1 + 0.1j), onsite, hopping, potential)
        real = function in (bs.spectral_shift, bs.hilbert_schmidt_norm)
        assert value.dtype == (jnp.float32 if real else jnp.complex64)
        low = (onsite.astype(jnp.bfloat16), hopping, potential.astype(jnp.bfloat16))
        assert jax.eval_shape(lambda *x, f=function: f(*x, 0.1j), *low).dtype == value.dtype


def test_bad_input_is_named(bare_errors):
    onsite, hopping, potential, energy = perturbed(6)
    for function in FUNCTIONS:
        with pytest.raises(ValueError, match=r"potential must have n=6 sites .*got shape \(5,\)"):
            function(onsite, hopping, potential[:5], energy)
        with pytest.raises(ValueError, match="hopping must have 5 bonds"):
            function(onsite, hopping[:3], potential, energy)
        with pytest.raises(ValueError, match="positive imaginary part"):
            function(onsite, hopping, potential, -1j)
        with pytest.raises(TypeError, match="potential must be a real floating-point"):
            function(onsite, hopping, hopping, energy)
