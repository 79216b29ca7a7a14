"""Derivatives against closed forms and differences, where they are delicate, and transforms."""

import ball_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import hyperbolic
from physnet.hyperbolic import klein, lorentz, poincare, polar

CURVATURE, X, Y, V = (jnp.asarray(a) for a in oracle.cases(7, n=64, count=3))


def test_ball_distance_has_its_closed_gradient():
    got = jax.jit(jax.vmap(jax.grad(lambda x, y, c: poincare.distance(x, y, curvature=c))))
    c, p = CURVATURE[:, None], X - Y
    apart = oracle.norm(p)
    below = 1 - 2 * c * oracle.dot(X, Y) + c**2 * oracle.dot(X, X) * oracle.dot(Y, Y)
    inner = p / apart + c * apart * X / (1 - c * oracle.dot(X, X))
    np.testing.assert_allclose(got(X, Y, CURVATURE), 2 / jnp.sqrt(below) * inner, rtol=1e-10)


def by_ball(u, v, c):
    points = (poincare.expmap0(z, curvature=c) for z in (u, v))
    return poincare.distance(*points, curvature=c)


def test_polar_derivatives_are_those_through_the_ball():
    def derivatives(apart):
        def both(u, v, c):
            slope = jax.grad(apart, (0, 1, 2))
            return jax.jvp(slope, (u, v, c), (u, v, c))

        return jax.jit(jax.vmap(both))(X, Y, CURVATURE)

    def polar_apart(u, v, c):
        return polar.distance(u, v, curvature=c)

    for got, want in zip(
        jax.tree.leaves(derivatives(polar_apart)),
        jax.tree.leaves(derivatives(by_ball)),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, rtol=1e-8, atol=1e-9)


def test_gradients_at_the_origin_and_at_one_point():
    zero, inside = jnp.zeros_like(X), 0.1 * Y
    for apart in (polar.distance, poincare.distance):
        slope = jax.jit(jax.vmap(jax.grad(apart)))
        np.testing.assert_allclose(slope(zero, inside), -2 * Y / oracle.norm(Y), rtol=1e-10)
        np.testing.assert_array_equal(slope(zero, zero), zero)
        np.testing.assert_array_equal(slope(inside, inside), zero)


def test_maps_are_smooth_where_points_meet():
    def slopes(x, y):
        return (
            jax.jacrev(poincare.logmap, 1)(x, y),
            jax.jacrev(poincare.expmap, 1)(x, 0 * x),
            jax.jacrev(poincare.logmap0)(y),
            jax.jacrev(lambda x: lorentz.to_tangent(lorentz.from_tangent(x)))(y),
            jax.jacrev(lambda x: klein.to_poincare(klein.from_poincare(x)))(y),
        )

    identity = np.broadcast_to(np.eye(3), (64, 3, 3))
    for leaf in jax.jit(jax.vmap(slopes))(jnp.zeros_like(X), jnp.zeros_like(X)):
        np.testing.assert_allclose(leaf, identity, atol=1e-12)


def test_nested_vmap_is_broadcasting():
    pairs = jax.vmap(jax.vmap(poincare.distance, (None, 0)), (0, None))
    inside = X[:8] * 0.1, Y[:6] * 0.1
    got = jax.jit(pairs)(*inside)
    want = jax.jit(poincare.distance)(inside[0][:, None], inside[1][None])
    np.testing.assert_allclose(got, want, rtol=1e-14)
    assert want.shape == (8, 6)
    every = jnp.ones((2, 1, 1))
    shape = jax.eval_shape(poincare.distance, inside[0][:, None], inside[1], curvature=every).shape
    assert shape == (2, 8, 6)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16])
def test_results_keep_the_dtype(dtype):
    x, y = jnp.asarray([0.1, 0.2], dtype), jnp.asarray([-0.3, 0.2], dtype)
    for function in (poincare.distance, polar.distance, poincare.expmap, klein.distance):
        for curvature in (1, np.float64(0.7), jnp.asarray(0.7)):
            assert jax.eval_shape(function, x, y, curvature=curvature).dtype == dtype
    assert float(jax.jit(poincare.distance)(x, y)) == pytest.approx(0.8538, rel=2e-2)


@pytest.mark.usefixtures("bare_errors")
def test_bad_input_is_named():
    x = jnp.zeros((4, 2))
    for bad in (0.0, -1.0, np.nan, np.inf, jnp.asarray([1.0, -1.0, 1.0, 1.0])):
        with pytest.raises(ValueError, match="curvature"):
            poincare.distance(x, x, curvature=bad)
    with pytest.raises(TypeError, match="curvature"):
        polar.distance(x, x, curvature=1j)
    with pytest.raises(TypeError, match="v must be"):
        poincare.expmap(x, jnp.zeros((4, 2), int))
    with pytest.raises(ValueError, match="last axes"):
        klein.distance(x, jnp.zeros((4, 3)))
    with pytest.raises(ValueError, match="broadcast"):
        polar.distance(x, jnp.zeros((3, 2)))
    with pytest.raises(ValueError, match="broadcast"):
        polar.distance(x, x, curvature=jnp.ones(3))
    with pytest.raises(ValueError, match="y must have"):
        poincare.logmap(x, jnp.asarray(0.0))
    with pytest.raises(ValueError, match=r"d \+ 1"):
        lorentz.project(jnp.zeros((4, 1)))
    with pytest.raises(ValueError, match="weights"):
        hyperbolic.poincare.midpoint(x, weights=jnp.ones(3))


def test_points_outside_the_ball_count_as_on_its_rim():
    x, origin = jnp.asarray([[2.0, 0.0], [1.0, 0.0]], jnp.float32), jnp.zeros((2, 2), jnp.float32)
    d, slope = jax.jit(jax.vmap(jax.value_and_grad(poincare.distance)))(x, origin)
    assert np.isfinite(slope).all()
    assert 15.2 < float(d[1]) < float(d[0]) < 21
    for model, reach in ((poincare.logmap0, d[1] / 2), (klein.to_tangent, d[1] / 4)):
        radius = jnp.linalg.norm(jax.jit(model)(x), axis=-1)
        np.testing.assert_allclose(radius, jnp.stack([reach, reach]), rtol=1e-6)
    lost = jax.jit(poincare.distance)(np.full_like(x, np.nan), origin)
    np.testing.assert_array_equal(np.isnan(lost), [True, True])
