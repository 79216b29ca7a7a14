"""Scores against dense inverses; bounds, causality, decoding, gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens, scattering

score = jax.jit(scattering.score, static_argnames=("kind", "causal", "order", "return_state"))
KINDS = ("window", "ldos", "abs")
OPTIONS = {
    "window": {"center": 0.3, "radius": 1.2, "order": 6},
    "ldos": {"energy": 0.3, "eta": 0.4},
    "abs": {"energy": 0.3 + 0.4j},
}


def chain(n=24, batch=(), dtype=np.float64, seed=0):
    r = np.random.default_rng(seed)
    onsite = r.normal(size=(*batch, n)) * 2
    hopping = r.normal(size=(*batch, n - 1)) + 1j * r.normal(size=(*batch, n - 1))
    wide = dtype == np.float64
    hopping = hopping.astype(np.complex128 if wide else np.complex64)
    return jax.device_put((onsite.astype(dtype), hopping))


def dense_score(onsite, hopping, kind):
    """From eigenvectors and inverses of the dense matrix."""
    n = len(onsite)
    matrix = np.diag(onsite).astype(complex)
    matrix[np.arange(n - 1), np.arange(1, n)] = hopping
    matrix[np.arange(1, n), np.arange(n - 1)] = np.conj(hopping)
    if kind == "window":
        levels, states = np.linalg.eigh(matrix)
        return (np.abs(states) ** 2) @ (1 / (1 + ((levels - 0.3) / 1.2) ** 6))
    green = np.diag(np.linalg.inv((0.3 + 0.4j) * np.eye(n) - matrix))
    return 0.4 * (-green.imag if kind == "ldos" else np.abs(green))


@pytest.mark.parametrize("kind", KINDS)
def test_scores_match_the_dense_matrix(kind):
    onsite, hopping = map(np.asarray, chain())
    got = score(onsite, hopping, kind=kind, causal=False, **OPTIONS[kind])
    want = dense_score(onsite, hopping, kind)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-13)
    causal = score(onsite, hopping, kind=kind, **OPTIONS[kind])
    ends = [dense_score(onsite[: i + 1], hopping[:i], kind)[-1] for i in range(len(onsite))]
    np.testing.assert_allclose(causal, ends, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("kind", KINDS)
def test_bounds_hold_to_the_last_bit_in_float32(kind):
    onsite, hopping = map(np.array, chain(4096, (2,), np.float32))
    onsite = onsite * np.array([[1.0], [1e20]], np.float32)  # G underflows in the second chain
    onsite[0, ::7] = 0.0
    hopping[0, ::3] = 0.0  # isolated sites reach the bound
    options = {"window": {"radius": 2.0}}.get(kind, {"energy": 0.0, "eta": 1e-3})
    for causal in (True, False):
        s = score(onsite, hopping, kind=kind, causal=causal, **options)
        assert s.dtype == jnp.float32
        assert bool(((s >= 0) & (s <= 1)).all())
        assert float(s.max()) > 0.99


@pytest.mark.usefixtures("optimized")
@pytest.mark.parametrize("kind", KINDS)
def test_default_is_causal_to_the_bit(kind):
    onsite, hopping = chain(dtype=np.float32)
    base = score(onsite, hopping, kind=kind)
    later = score(onsite.at[10:].add(1.0), hopping.at[10:].mul(2.0), kind=kind)
    np.testing.assert_array_equal(base[:10], later[:10])
    assert (base[10:] != later[10:]).any()


@pytest.mark.parametrize("kind", KINDS)
def test_decoding_goes_on_from_the_state(kind):
    onsite, hopping = chain(12, (2,))
    whole = score(onsite, hopping, kind=kind, **OPTIONS[kind])
    first, state = score(
        onsite[:, :7], hopping[:, :6], kind=kind, return_state=True, **OPTIONS[kind]
    )
    parts = [first]
    for i in range(7, 12):
        part, state = score(
            onsite[:, i : i + 1],
            hopping[:, i - 1 : i],
            kind=kind,
            initial=state,
            return_state=True,
            **OPTIONS[kind],
        )
        parts.append(part)
    np.testing.assert_allclose(jnp.concatenate(parts, -1), whole, rtol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_potential(kind):
    onsite, hopping = chain(8)

    @jax.jit
    @jax.value_and_grad
    def loss(onsite):
        return jnp.sum(jnp.sin(score(onsite, hopping, kind=kind, **OPTIONS[kind])))

    got, step = loss(onsite)[1], 1e-6
    for i in range(8):
        bump = jnp.asarray(step * np.eye(8)[i])
        want = (loss(onsite + bump)[0] - loss(onsite - bump)[0]) / (2 * step)
        np.testing.assert_allclose(got[i], want, rtol=1e-6, atol=1e-9)


def test_gradient_of_abs_is_finite_where_green_underflows():
    onsite = jnp.array([1e30, 0.0], jnp.float32)
    grad = jax.grad(lambda a: score(a, jnp.ones(1, jnp.float32), kind="abs").sum())(onsite)
    assert bool(jnp.isfinite(grad).all())


def test_energy_and_eta_a_head():
    onsite, hopping = chain(6, (2,))
    energy, eta = jnp.array([0.1, -0.2]), jnp.array([0.3, 0.5])
    got = jax.jit(lambda e, w: scattering.score(onsite, hopping, kind="ldos", energy=e, eta=w))(
        energy, eta
    )
    left = jax.jit(greens.left)
    for h in range(2):
        green = left(onsite[h], hopping[h], complex(energy[h], eta[h]))
        np.testing.assert_allclose(got[h], -eta[h] * green.imag, rtol=1e-13)


def test_errors_name_the_argument(bare_errors):
    onsite, hopping = chain(4)
    with pytest.raises(ValueError, match="kind must be one of"):
        scattering.score(onsite, hopping, kind="dos")
    with pytest.raises(ValueError, match="eta must be real and positive"):
        scattering.score(onsite, hopping, kind="ldos", eta=0.0)
    with pytest.raises(ValueError, match="eta must be left out"):
        scattering.score(onsite, hopping, kind="abs", energy=1j, eta=1.0)
    with pytest.raises(ValueError, match="need causal=True"):
        scattering.score(onsite, hopping, causal=False, return_state=True)
