"""The isometry penalty: its two formulas, its gradient, its zeros, its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import dyson


def closed_form(jacobians):
    """mean_l |J^T J - 1|^2 / d + (tr(J^T J - 1))^2 / 2d of dense Jacobians (L, d, d)."""
    d = jacobians.shape[-1]
    a = jnp.matrix_transpose(jacobians) @ jacobians - jnp.eye(d, dtype=jacobians.dtype)[None]
    trace = jnp.trace(a, axis1=1, axis2=2)
    return jnp.mean(jnp.sum(a**2, (1, 2)) / d + trace**2 / (2 * d))


def penalty(layer, params, h, keys, **options):
    one = functools.partial(dyson.isometry_penalty, layer, params, h, **options)
    return jax.vmap(lambda key: one(key=key))(keys)


@pytest.mark.parametrize("probes", [1, 3])
@pytest.mark.parametrize(("skip", "shape"), [(0.0, (6,)), (1.0, (2, 3))])
def test_unbiased(layer, stack, jacobians, skip, shape, probes):
    params, h = stack(3, shape, skip=skip)
    keys = jax.random.split(jax.random.key(1), 40_000)
    samples = np.asarray(jax.jit(lambda keys: penalty(layer, params, h, keys, probes=probes))(keys))
    expected = float(closed_form(jacobians(params, h)))
    error = samples.std() / len(samples) ** 0.5
    assert error < 0.03 * expected
    assert abs(samples.mean() - expected) < 4 * error


def test_probes_of_signs_would_give_another_number(stack, jacobians):
    # E (v^T A v)^2 = 2 |A|^2 + tr(A)^2 needs Gaussian v; signs lose twice the squared diagonal.
    a = np.asarray(jacobians(*stack()))[0]
    a = a.T @ a - np.eye(len(a))
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (200_000, len(a)))
    mean = ((signs @ a * signs).sum(1) ** 2).mean()
    gaussian = 2 * (a**2).sum() + np.trace(a) ** 2
    np.testing.assert_allclose(mean, gaussian - 2 * (np.diag(a) ** 2).sum(), rtol=0.02)


def test_the_gradient_is_unbiased_in_params_and_input(layer, stack, jacobians):
    params, h = stack(2, (3,))
    keys = jax.random.split(jax.random.key(2), 40_000)

    def each(key):
        return jax.grad(
            lambda params, h: dyson.isometry_penalty(layer, params, h, key=key), (0, 1)
        )(params, h)

    def both(keys):
        samples = jax.vmap(each)(keys)
        return jax.tree.map(lambda x: (x.mean(0), x.std(0) / len(keys) ** 0.5), samples)

    expected = jax.jit(jax.grad(lambda p, h: closed_form(jacobians(p, h)), (0, 1)))(params, h)
    found = jax.tree.leaves(jax.jit(both)(keys))
    for mean, error, value in zip(found[::2], found[1::2], jax.tree.leaves(expected), strict=True):
        mean, error = np.asarray(mean), np.asarray(error)
        assert np.all(np.abs(mean - value) < 4.5 * error + 1e-12)


def test_zero_just_for_isometries():
    rng = np.random.default_rng(0)
    q = jnp.asarray(np.stack([np.linalg.qr(rng.normal(size=(5, 5)))[0] for _ in range(3)]))
    key = jax.random.key(0)

    def of(matrices):
        return dyson.isometry_penalty(lambda w, h: w @ h, matrices, jnp.ones(5), key=key)

    assert float(of(q)) < 1e-25
    # Squares that keep their mean (chi = 1) but spread are seen: |A|^2 / d = 1 here.
    spread = q * jnp.sqrt(jnp.array([2.0, 0.0, 1.0, 1.0, 1.0]))[None, None, :]
    found = jax.vmap(
        lambda key: dyson.isometry_penalty(lambda w, h: w @ h, spread, jnp.ones(5), key=key)
    )(jax.random.split(key, 20_000))
    np.testing.assert_allclose(found.mean(), 2 / 5, rtol=0.05)


def test_descending_it_makes_layers_isometric(layer, stack, jacobians):
    params, h = stack(3, (6,), gain=0.7)

    @jax.jit
    def step(params, key):
        def loss(params):
            return penalty(layer, params, h, jax.random.split(key, 8)).mean()

        return jax.tree.map(lambda p, g: p - 0.02 * g, params, jax.grad(loss)(params))

    before = closed_form(jacobians(params, h))
    for key in jax.random.split(jax.random.key(0), 150):
        params = step(params, key)
    assert closed_form(jacobians(params, h)) < 0.2 * before


def test_remat_changes_no_value(layer, stack):
    params, h = stack(2)

    @jax.jit
    def both(params):
        def loss(remat):
            return lambda params: dyson.isometry_penalty(
                layer, params, h, key=jax.random.key(3), probes=2, remat=remat
            )

        return [jax.value_and_grad(loss(remat))(params) for remat in (False, True)]

    for a, b in zip(*map(jax.tree.leaves, both(params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)


def test_remat_keeps_the_inputs_of_layers_alone():
    def layer(w, h):
        for _ in range(3):  # more inside than between
            h = jnp.tanh(h @ w)
        return h

    w, h = jnp.zeros((16, 8, 8)), jnp.zeros((256, 8))

    def memory(remat):
        def loss(w):
            return dyson.isometry_penalty(layer, w, h, key=jax.random.key(0), remat=remat)

        compiled = jax.jit(jax.grad(loss)).lower(w).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert memory(True) < memory(False) / 2


def test_low_precision(layer, stack):
    for dtype, out in ((np.float32, np.float32), (jnp.bfloat16, np.float32)):
        value = dyson.isometry_penalty(layer, *stack(dtype=dtype), key=jax.random.key(0))
        assert value.dtype == out
        assert np.isfinite(value)
