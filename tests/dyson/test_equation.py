"""Direct solutions of G = G0 + G0 Sigma G, against the equation itself and NumPy's inverse."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from physnet import dyson, greens

solve = jax.jit(dyson.solve, static_argnames="triangular")


def pair(n=6, batch=(), *, kind="complex", size=0.5, seed=0):
    rng = np.random.default_rng(seed)

    def matrix(shape):
        value = rng.normal(size=shape)
        return value + 1j * rng.normal(size=shape) if kind == "complex" else value

    shape = (*batch, n, n)
    return jnp.asarray(matrix(shape)), jnp.asarray(size * matrix(shape) / n)


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("n", [1, 7])
def test_satisfies_the_equation_and_equals_the_inverse(n, kind):
    free, sigma = pair(n, (3,), kind=kind)
    g = np.asarray(solve(free, sigma))
    free, sigma = np.asarray(free), np.asarray(sigma)
    np.testing.assert_allclose(g, free + free @ sigma @ g, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(g, free + g @ sigma @ free, rtol=1e-12, atol=1e-12)
    expected = np.linalg.inv(np.linalg.inv(free) - sigma)
    np.testing.assert_allclose(g, expected, rtol=1e-10, atol=1e-10)


def test_a_potential_on_a_chain(random_hermitian):
    h, potential = random_hermitian
    z = 0.3 + 0.2j
    full = dyson.solve(greens.resolvent(h, z), potential)
    np.testing.assert_allclose(full, greens.resolvent(h + potential, z), rtol=1e-12, atol=1e-12)


def test_the_resolvent_identity(random_hermitian):
    # G(z) - G(w) = (w - z) G(z) G(w): a change of energy is a self-energy w - z.
    h, _ = random_hermitian
    z, w = 0.3 + 0.2j, -0.4 + 0.5j
    moved = (w - z) * jnp.eye(len(h), dtype=h.dtype)
    g = np.asarray(dyson.solve(greens.resolvent(h, w), moved))
    np.testing.assert_allclose(g, greens.resolvent(h, z), rtol=1e-12, atol=1e-12)
    other = np.asarray(greens.resolvent(h, w))
    np.testing.assert_allclose(g - other, (w - z) * g @ other, rtol=1e-12, atol=1e-12)


@pytest.fixture
def random_hermitian():
    rng = np.random.default_rng(3)
    h, v = rng.normal(size=(2, 5, 5)) + 1j * rng.normal(size=(2, 5, 5))
    return jnp.asarray(h + h.conj().T), jnp.asarray(v + v.conj().T)


def test_a_free_propagator_need_not_be_invertible():
    free = jnp.diag(jnp.array([1.0, 0.0, 2.0]))
    _, sigma = pair(3, kind="real")
    g = solve(free, sigma)
    np.testing.assert_allclose(g, free + free @ sigma @ g, atol=1e-13)
    np.testing.assert_array_equal(g[1], 0)


@pytest.mark.parametrize("side", ["upper", "lower"])
def test_substitution_equals_elimination_and_reads_one_triangle(side):
    take = jnp.triu if side == "upper" else jnp.tril
    rng = np.random.default_rng(1)
    free = take(jnp.asarray(rng.normal(size=(2, 6, 6))))
    strict = take(jnp.asarray(3 * rng.normal(size=(6, 6))), 1 if side == "upper" else -1)
    both = jax.jit(lambda f, s: (dyson.solve(f, s, triangular=side), dyson.solve(f, s)))
    ours, expected = both(free, strict)
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-9)
    one = jnp.eye(6)
    rubbish = strict + (strict.T + one) * 7.0
    np.testing.assert_array_equal(
        solve(one, rubbish, triangular=side), solve(one, strict, triangular=side)
    )


@pytest.mark.parametrize("triangular", [None, "upper"])
def test_derivatives(triangular):
    def loss(free, sigma):
        return jnp.sum(jnp.sin(dyson.solve(free, sigma, triangular=triangular)))

    free, sigma = pair(3, kind="real")
    free, sigma = (jnp.triu(free), jnp.triu(sigma, 1)) if triangular else (free, sigma)
    check_grads(jax.jit(loss), (free, sigma), order=2, modes=("fwd", "rev"), rtol=1e-6, atol=1e-6)


def test_the_derivative_is_g_dsigma_g():
    free, sigma = pair(5)
    _, change = pair(5, seed=9)
    g, dg = jax.jit(lambda s: jax.jvp(lambda s: dyson.solve(free, s), (s,), (change,)))(sigma)
    np.testing.assert_allclose(dg, g @ change @ g, rtol=1e-12, atol=1e-12)


def test_a_bound_state_is_not_finite_and_says_nothing_else():
    g = solve(jnp.eye(2), jnp.diag(jnp.array([1.0, 0.5])))
    assert not np.isfinite(g[0, 0])
    assert g[1, 1] == 2.0


def test_batches_broadcast_and_vmap_agrees():
    free, sigma = pair(4, (3, 1))[0], pair(4, (2,))[1]
    whole = solve(free, sigma)
    assert whole.shape == (3, 2, 4, 4)
    mapped = jax.vmap(lambda f: jax.vmap(lambda s: dyson.solve(f[0], s))(sigma))(free)
    np.testing.assert_allclose(whole, mapped, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("free", "sigma", "out"),
    [
        ("float32", "float32", "float32"),
        ("bfloat16", "bfloat16", "float32"),
        ("float16", "float32", "float32"),
        ("float32", "complex64", "complex64"),
        ("float32", "float64", "float64"),
        ("complex64", "float64", "complex128"),
    ],
)
def test_precision_is_that_of_the_input(free, sigma, out):
    one = jnp.eye(2)
    call = jax.eval_shape(dyson.solve, one.astype(free), one.astype(sigma))
    assert call.dtype == out
    series = jax.eval_shape(
        lambda f, s: dyson.born_series(f, s, order=3, tolerance=1e-3),
        one.astype(free),
        one.astype(sigma),
    )
    assert series[0].dtype == out
    assert series[1].residual.dtype == jnp.finfo(out).dtype
    assert series[1].order.dtype == jnp.int32
