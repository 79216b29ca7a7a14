"""Probes of the layers against dense Jacobians: expectations, errors, shapes, precision."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import dyson


def exact(jacobians):
    """rho, chi and |J^T - rho 1|^2 / d of dense Jacobians (L, d, d)."""
    j = np.asarray(jacobians)
    d = j.shape[-1]
    rho = np.trace(j, axis1=1, axis2=2) / d
    rest = np.swapaxes(j, 1, 2) - rho[:, None, None] * np.eye(d)
    return rho, (j**2).sum((1, 2)) / d, (rest**2).sum((1, 2)) / d


@pytest.mark.parametrize("skip", [0.0, 1.0])
@pytest.mark.parametrize("shape", [(6,), (2, 3)])
def test_expectations_are_those_of_the_dense_jacobians(layer, stack, jacobians, shape, skip):
    params, h = stack(3, shape, skip=skip)
    keys = jax.random.split(jax.random.key(0), 2000)
    probe = jax.jit(jax.vmap(lambda key: dyson.probe_layers(layer, params, h, key=key, probes=4)))
    found = jax.tree.map(np.asarray, probe(keys))
    for name, expected in zip(
        ("rho", "chi", "self_energy"), exact(jacobians(params, h)), strict=True
    ):
        samples = getattr(found, name)
        spread = samples.std(0) / len(keys) ** 0.5
        assert np.all(np.abs(samples.mean(0) - expected) < 4 * spread), name
        # The squared standard error is that of the sample, on average (of self_energy nearly).
        stated = (getattr(found, f"{name}_error") ** 2).mean(0)
        np.testing.assert_allclose(stated, samples.var(0), rtol=0.35, atol=1e-12)
    assert np.all(found.self_energy >= 0)
    together = found.chi - found.rho**2 + found.rho_error**2
    np.testing.assert_allclose(found.self_energy, together, rtol=1e-9, atol=1e-12)


def test_backward_probes_would_say_the_same(layer, stack, jacobians):
    params, h = stack()
    j = np.asarray(jacobians(params, h))
    for a, b in zip(exact(j), exact(np.swapaxes(j, 1, 2)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_multiple_of_the_identity_has_no_self_energy_and_no_error():
    scale = jnp.array([0.5, 1.0, -2.0])
    found = dyson.probe_layers(
        lambda s, h: s * h, scale, jnp.ones((3, 4)), key=jax.random.key(0), probes=2
    )
    np.testing.assert_array_equal(found.rho, scale)
    np.testing.assert_array_equal(found.chi, scale**2)
    for zero in found[2:]:
        np.testing.assert_array_equal(zero, 0)


def test_a_batch_by_vmap_is_one_example_at_a_time(layer, stack):
    params, h = stack()
    batch = jnp.stack([h, 2 * h, -h])
    keys = jax.random.split(jax.random.key(1), 3)
    one = jax.jit(lambda h, key: dyson.probe_layers(layer, params, h, key=key))
    mapped = jax.jit(jax.vmap(lambda h, key: dyson.probe_layers(layer, params, h, key=key)))
    found = mapped(batch, keys)
    for i in range(3):
        for a, b in zip(found, one(batch[i], keys[i]), strict=True):
            np.testing.assert_allclose(a[i], b, rtol=1e-10, atol=1e-14)


def test_low_precision(layer, stack):
    single = dyson.probe_layers(layer, *stack(dtype=np.float32), key=jax.random.key(0), probes=64)
    low = dyson.probe_layers(layer, *stack(dtype=jnp.bfloat16), key=jax.random.key(0), probes=64)
    assert {x.dtype for x in (*single, *low)} == {np.dtype(np.float32)}
    np.testing.assert_allclose(low.chi, single.chi, rtol=0.1)


def test_the_estimates_have_derivatives(layer, stack, jacobians):
    params, h = stack(2, (3,))
    keys = jax.random.split(jax.random.key(0), 4000)

    def sampled(params):
        def one(key):
            return dyson.probe_layers(layer, params, h, key=key, probes=2).chi.sum()

        return jnp.mean(jax.vmap(one)(keys))

    def dense(params):
        return jnp.sum(jacobians(params, h) ** 2) / h.size

    ours, expected = (jax.jit(jax.grad(f))(params)["w"] for f in (sampled, dense))
    np.testing.assert_allclose(ours, expected, atol=0.1 * float(jnp.abs(expected).max()))
