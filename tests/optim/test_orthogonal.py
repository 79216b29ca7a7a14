"""Polar factors against the SVD's, the retraction, and the initialiser."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from physnet import optim

factor = jax.jit(optim.polar_factor)


def with_condition(condition, shape, seed=0, scale=1.0):
    """A matrix of that condition number, singular values evenly spaced in the logarithm."""
    rng = np.random.default_rng(seed)
    u, _, v = np.linalg.svd(rng.normal(size=shape), full_matrices=False)
    return scale * (u * np.geomspace(1, 1 / condition, min(shape))) @ v, u @ v


def off(x):
    x = np.float64(x)
    x = x if x.shape[-2] >= x.shape[-1] else x.swapaxes(-1, -2)
    return np.abs(x.swapaxes(-1, -2) @ x - np.eye(x.shape[-1])).max()


@pytest.mark.parametrize("shape", [(16, 16), (24, 10), (5, 20)])
def test_is_the_factor_of_the_svd(shape):
    for condition, scale in ((1, 1), (1e1, 1e30), (1e3, 1.0), (1e5, 1e-30)):
        matrix, exact = with_condition(condition, shape, scale=scale)
        found = factor(jnp.asarray(matrix))
        assert off(found) < 1e-14 * 4
        assert np.abs(found - exact).max() < max(1e-14, 3e-16 * condition) * 3
        single = factor(jnp.asarray(matrix, jnp.float32))
        assert single.dtype == jnp.float32
        assert off(single) < 2e-6
        # The float32 matrix has a factor of its own, and that differs by its rounding.
        u, _, v = np.linalg.svd(np.float64(np.float32(matrix)), full_matrices=False)
        assert np.abs(np.float64(single) - u @ v).max() < max(1e-6, 1e-7 * condition)


def test_up_to_the_condition_that_the_docstring_names():
    matrix, exact = with_condition(1e12, (16, 16))
    found = factor(jnp.asarray(matrix))
    assert off(found) < 1e-13
    assert np.abs(found - exact).max() < 1e-2


def test_singular_and_worse():
    matrix, _ = with_condition(10.0, (6, 6))
    u, s, v = np.linalg.svd(matrix)
    s[4:] = 0
    stack = jnp.asarray(np.stack([(u * s) @ v, 0 * matrix, matrix, np.nan * matrix, matrix]))
    stack = stack.at[4, 0, 0].set(jnp.inf)
    found = np.asarray(factor(stack))
    assert np.isfinite(found[:3]).all()
    np.testing.assert_allclose(u[:, :4].T @ found[0] @ v[:4].T, np.eye(4), atol=1e-12)
    assert np.linalg.norm(found[0], 2) < 1 + 1e-12
    np.testing.assert_array_equal(found[1], 0)
    np.testing.assert_allclose(found[2], factor(stack[2]), atol=1e-14)
    assert np.isnan(found[3:]).all()
    assert optim.polar_factor(jnp.zeros((0, 3))).shape == (0, 3)


def test_derivatives_are_those_of_the_svd():
    matrix, _ = with_condition(30.0, (7, 4))
    weights = jnp.asarray(np.random.default_rng(1).normal(size=(7, 4)))
    tangent = jnp.asarray(np.random.default_rng(2).normal(size=(7, 4)))

    def by_svd(a):
        u, _, v = jnp.linalg.svd(a, full_matrices=False)
        return u @ v

    def value(of, a):
        return jnp.sum(weights * of(a))

    @jax.jit
    def derivatives(a):
        def all_of(of):
            slope = jax.grad(lambda a: value(of, a))
            return slope(a), jax.jvp(of, (a,), (tangent,))[1], jax.jvp(slope, (a,), (tangent,))[1]

        return all_of(optim.polar_factor), all_of(by_svd)

    for found, expected in zip(*derivatives(jnp.asarray(matrix)), strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9 * np.abs(expected).max())


def test_derivative_where_singular_values_agree():
    """The SVD's derivative is NaN here; that of the factor is the antisymmetric part."""
    tangent = jnp.asarray(np.random.default_rng(2).normal(size=(5, 5)))
    found = jax.jvp(factor, (jnp.eye(5),), (tangent,))[1]
    np.testing.assert_allclose(found, (tangent - tangent.T) / 2, atol=1e-13)


def test_initialiser_is_uniform_and_in_the_form_of_jax():
    init = optim.orthogonal_initializer(gain=1.5)
    found = jax.jit(lambda key: init(key, (500, 3, 3)))(jax.random.key(0))
    assert found.dtype == jax.random.normal(jax.random.key(0)).dtype
    assert off(found / 1.5) < 1e-12
    assert np.abs(np.linalg.det(found)).min() > 3
    # Haar: E W = 0, E tr(W)^2 = 1 for W / gain.
    assert np.abs(found.mean(0)).max() < 5 * 1.5 / np.sqrt(3 * 500)
    assert np.trace(found / 1.5, axis1=1, axis2=2).var() == pytest.approx(1, abs=0.3)
    for shape, dtype, most in (((4, 8), jnp.float32, 2e-6), ((8, 4), jnp.bfloat16, 2e-2)):
        narrow = jax.jit(init, static_argnums=(1, 2))(jax.random.key(1), shape, dtype)
        assert (narrow.shape, narrow.dtype) == (shape, dtype)
        assert off(np.float64(narrow) / 1.5) < most
    half = jax.eval_shape(lambda key: init(key, (2, 2), jnp.float16), jax.random.key(0))
    assert half.dtype == "float16"


def test_retraction_keeps_chosen_matrices_orthogonal_while_training():
    key = jax.random.key(0)
    start = jax.jit(optim.orthogonal_initializer(gain=1.2), static_argnums=(1, 2))
    params = {
        "w": start(key, (3, 6, 4), jnp.float32),
        "b": jnp.zeros((3, 4), jnp.float32),
    }
    retract = optax.masked(optim.orthogonal_retraction(gain=1.2), {"w": True, "b": False})
    optimiser = optax.chain(optax.adam(0.1), retract)

    @jax.jit
    def train(params):
        def one(carry, _):
            params, state = carry
            grads = jax.grad(lambda p: jnp.sum(jnp.sin(3 * p["w"])) + jnp.sum(jnp.cos(p["b"] + 1)))(
                params
            )
            updates, state = optimiser.update(grads, state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(one, (params, optimiser.init(params)), None, length=10)[0][0]

    with jax.numpy_dtype_promotion("standard"):
        found = train(params)
    assert found["w"].dtype == jnp.float32
    assert off(found["w"] / 1.2) < 2e-6
    assert np.abs(found["w"] - params["w"]).max() > 0.1
    assert np.abs(found["b"]).min() > 0.1  # not a matrix of the mask: left alone


def test_one_step_leads_there_from_anywhere_and_absent_updates_stay():
    optimiser = optim.orthogonal_retraction()
    w = jnp.asarray(np.random.default_rng(0).normal(size=(2, 4, 4)))
    params, updates = {"a": w, "b": w}, {"a": 0 * w, "b": None}
    new, _ = jax.jit(lambda u, p: optimiser.update(u, optimiser.init(p), p))(updates, params)
    assert new["b"] is None
    np.testing.assert_allclose(w + new["a"], factor(w), atol=1e-13)


def test_errors_name_what_is_wrong(bare_errors):
    optimiser, w = optim.orthogonal_retraction(), jnp.ones(3)
    with pytest.raises(ValueError, match=r"matrix must have shape \(..., n, m\), got \(3,\)"):
        optim.polar_factor(w)
    with pytest.raises(TypeError, match="matrix must be a real floating"):
        optim.polar_factor(jnp.ones((2, 2), int))
    with pytest.raises(ValueError, match=r"needs the current points.*params=None"):
        optimiser.update(w, optimiser.init(w))
    with pytest.raises(ValueError, match=r"needs matrices \(..., n, m\).*optax.masked"):
        optimiser.update(w, optimiser.init(w), w)
    init = optim.orthogonal_initializer()
    with pytest.raises(ValueError, match=r"shape must be \(..., n, m\), got \(3,\)"):
        init(jax.random.key(0), (3,))
    with pytest.raises(TypeError, match="dtype must be real floating, got int"):
        init(jax.random.key(0), (3, 3), int)
