"""Whether a force is a gradient: the measure against the dense Jacobian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.symplectic import echo


def force(w, position, given):
    return jnp.tanh(w @ position + given)


def test_measure_is_the_antisymmetric_share_of_the_jacobian():
    rng = np.random.default_rng(0)
    w, q, u = (jnp.asarray(rng.normal(size=s)) for s in ((6, 6), 6, 6))
    jacobian = np.asarray(jax.jacobian(force, argnums=1)(w, q, u))
    wanted = np.linalg.norm(jacobian - jacobian.T) / np.linalg.norm(jacobian)
    measure = jax.jit(lambda key: echo.check_conservative(force, w, q, u, key=key, probes=4000))
    np.testing.assert_allclose(measure(jax.random.key(0)), wanted, rtol=0.05)


def test_it_raises_outside_jit_and_returns_under_it():
    w = jnp.asarray(np.random.default_rng(1).normal(size=(4, 4)), jnp.float32)
    q = jnp.ones(4, jnp.float32)
    linear = lambda w, q, _: w @ q  # noqa: E731
    key = jax.random.key(2)
    with pytest.raises(ValueError, match="force must be the gradient of a potential"):
        echo.check_conservative(linear, w, q, None, key=key)
    measure = jax.jit(lambda w: echo.check_conservative(linear, w, q, None, key=key))
    assert 0.1 < measure(w) <= 2
    assert measure(w).dtype == jnp.float32
    assert echo.check_conservative(linear, w + w.T, q, None, key=key) < 1e-6
    assert echo.check_conservative(linear, w, q, None, key=key, tolerance=2.0) > 0.1
    with pytest.raises(ValueError, match="nan"):
        echo.check_conservative(linear, w * jnp.nan, q, None, key=key)


def test_trees_and_a_constant_force():
    key, q = jax.random.key(0), {"x": jnp.ones(2), "y": jnp.ones((3, 1))}
    constant = lambda p, q, _: jax.tree.map(jnp.ones_like, q)  # noqa: E731
    assert echo.check_conservative(constant, None, q, None, key=key) == 0

    def swap(p, q, _):  # d(force x)/dy without d(force y)/dx
        return {"x": q["y"][:2, 0], "y": jnp.zeros_like(q["y"])}

    with pytest.raises(ValueError, match="antisymmetric"):
        echo.check_conservative(swap, None, q, None, key=key)
