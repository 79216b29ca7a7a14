"""float32 against float64, where the obvious formulas fail: at the rim, far out, and close by."""

import ball_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from physnet.hyperbolic import klein, lorentz, poincare, polar

N, D = 2000, 4


def near_and_far(reach, curvature):
    """Pairs of tangents: unrelated, at all small distances, on one ray, one bit apart."""
    r = np.random.default_rng(0)
    scale = 1 / np.sqrt(curvature)
    v = (oracle.directions(r, (N, D)) * r.uniform(0, reach, (N, 1)) * scale).astype(np.float32)
    other = oracle.directions(r, (N, D)) * r.uniform(0, reach, (N, 1)) * scale
    close = v * (1 + r.normal(size=(N, D)) * np.exp(r.uniform(-17, -2, (N, 1))))
    ray = v * r.uniform(0.1, 1, (N, 1))
    bit = v.copy()
    bit[:, 0] = np.nextafter(bit[:, 0], np.float32(99))
    w = np.stack([other, close, ray, bit]).astype(np.float32)
    return np.broadcast_to(v, w.shape), w


@pytest.mark.parametrize("curvature", [1.0, 0.37])
@pytest.mark.parametrize("reach", [15.0, 20.0])
def test_polar_distance_is_right_to_1e_5(reach, curvature):
    curvature = np.float32(curvature)
    v, w = near_and_far(reach, curvature)
    got = oracle.call(polar.distance, v, w, curvature=curvature)
    assert got.dtype == np.float32
    want = oracle.polar_distance(v, w, np.float64(curvature))
    assert want.max() > 2 * reach
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("flat", [1.0, 1e-3, 1e-6])
def test_any_angle_however_small(flat):
    """All but on one ray of a plane: angles down to 1e-16, which the points tell exactly."""
    r = np.random.default_rng(2)
    v = oracle.directions(r, (20_000, 2)) * r.uniform(0, 20, (20_000, 1)) * [flat, 1]
    v = v.astype(np.float32)
    w = v * r.uniform(0.01, 1, (20_000, 1)).astype(np.float32)
    got = oracle.call(polar.distance, v, w)
    np.testing.assert_allclose(got, oracle.polar_distance(v, w, 1.0), rtol=1e-5)


def test_polar_distance_stays_finite_beyond():
    v = jnp.array([[40.0, 0.0], [40.0, 0.0], [1e4, 0.0], [1e30, 1.0]], jnp.float32)
    w = jnp.array([[-40.0, 0.0], [0.0, 40.0], [-1e4, 1.0], [1e30, -1.0]], jnp.float32)
    d = np.asarray(oracle.call(polar.distance, v, w))
    assert np.isfinite(d).all()
    np.testing.assert_allclose(d[:3], [160, 160 - np.log(2), 4e4], rtol=1e-6)


def rim():
    """Points of the float32 ball at all distances from its rim; those beside them."""
    r = np.random.default_rng(1)
    gap = np.exp(r.uniform(-14, 0, (2, N, 1)))
    x, y = ((1 - gap) * oracle.directions(r, (2, N, D))).astype(np.float32)
    z = (x * (1 + 0.1 * gap[0] * r.normal(size=(N, D)))).astype(np.float32)
    inside = oracle.call(poincare.project, np.stack([x, y, z]))
    return np.asarray(inside)


def stable(x, y):
    x, y = np.float64(x), np.float64(y)
    below = (1 - oracle.dot(x, x)) * (1 - oracle.dot(y, y))
    return (2 * np.arcsinh(oracle.norm(x - y) / np.sqrt(below)))[:, 0]


def test_ball_distance_up_to_the_rim():
    x, y, z = rim()
    for other in (y, z):
        got = oracle.call(poincare.distance, x, other)
        np.testing.assert_allclose(got, stable(x, other), rtol=2e-4)
    assert stable(x, y).max() > 25
    radius = 2 * np.arctanh(np.float64(oracle.norm(np.float64(x))))
    got = 2 * oracle.norm(np.float64(oracle.call(poincare.logmap0, x)))
    np.testing.assert_allclose(got, radius, rtol=2e-5)


def test_riemannian_gradient_norm_is_one():
    x, y, _ = rim()
    for apart in (poincare.distance, polar.distance):
        gradient = np.asarray(jax.jit(jax.vmap(jax.grad(apart)))(x, y), np.float64)
        if apart is poincare.distance:
            norm = oracle.norm(gradient) / oracle.factor(np.float64(x), 1)
        else:
            n = np.float64(x) / oracle.norm(np.float64(x))
            along = oracle.dot(n, gradient)
            r = 2 * oracle.norm(np.float64(x))
            across = oracle.norm(gradient - along * n) * r / np.sinh(r)
            norm = np.hypot(along, across) / 2
        assert abs(norm - 1).max() < 1e-3


def test_hyperboloid_distance_far_out():
    v, w = near_and_far(15.0, 1.0)
    x, y = oracle.call(lorentz.from_tangent, v), oracle.call(lorentz.from_tangent, w)
    s, t = np.float64(x)[..., 1:], np.float64(y)[..., 1:]
    a, b = (np.arcsinh(oracle.norm(z)) / 2 / oracle.norm(z) * z for z in (s, t))
    np.testing.assert_allclose(
        oracle.call(lorentz.distance, x, y)[:3], oracle.polar_distance(a, b, 1.0)[:3], rtol=2e-5
    )
    assert np.isfinite(oracle.call(lorentz.from_tangent, v * 100)).all()


def test_float64_keeps_far_digits():
    v = np.array([[15.0, 0.3125], [15.0, 15.0]])
    w = np.array([[15.0, 0.3125 + 2.0**-43], [-15.0, 15.0]])
    got = oracle.call(polar.distance, v, w)
    np.testing.assert_allclose(got, oracle.polar_distance(v, w, 1.0), rtol=1e-12)


def _functions():
    def everything(x, y):
        c = jnp.float32(1.0)
        inside, other = poincare.project(x, curvature=c), poincare.project(y, curvature=c)
        on, beside = klein.project(x, curvature=c), klein.project(y, curvature=c)
        return [
            polar.distance(x, y),
            poincare.distance(inside, other),
            klein.distance(on, beside),
            poincare.logmap(inside, other),
            poincare.expmap(inside, y),
            poincare.transport(inside, other, x),
            poincare.mobius_add(inside, other),
            lorentz.from_tangent(x),
        ]

    def slopes(x, y):
        return [
            jax.grad(lambda x, y: jnp.sum(polar.distance(x, y)), (0, 1))(x, y),
            jax.grad(lambda x, y: jnp.sum(poincare.distance(x, y)), (0, 1))(
                poincare.project(x), poincare.project(y)
            ),
        ]

    return jax.jit(lambda x, y: (everything(x, y), slopes(x, y)))


_all = _functions()
numbers = arrays.arrays(
    np.float32, (2, 16, 3), elements=st.floats(-100, 100, width=32, allow_subnormal=False)
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(numbers)
def test_nothing_is_ever_nan(points):
    points[1, 0] = points[0, 0]
    points[:, 1] = 0
    points[1, 2] = 0
    for leaf in jax.tree.leaves(_all(*map(jnp.asarray, points))):
        assert np.isfinite(leaf).all()
