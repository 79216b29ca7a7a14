"""The Frechet mean: the condition for it, known cases, derivatives, and where rounding is large."""

import ball_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.hyperbolic import frechet_mean, poincare, polar

R = np.random.default_rng(0)
CURVATURE = jnp.asarray(R.uniform(0.3, 2, 24))
V = R.normal(size=(24, 6, 3)) * R.uniform(0.1, 2, (24, 1, 1))
V[:, 0] = 0  # a point at the origin
V[:3, 1:] = V[:3, 1:2]  # and points that coincide
V = jnp.asarray(V)
W = jnp.asarray(R.uniform(size=(24, 6)))


@jax.jit
def tangent(v, weights, c):
    return frechet_mean(v, weights=weights, curvature=c, coordinates="tangent")


@jax.jit
def ball(x, weights, c):
    return frechet_mean(x, weights=weights, curvature=c)


def test_logarithms_cancel_at_the_mean():
    x = oracle.call(poincare.expmap0, V, curvature=CURVATURE[:, None])
    mean = ball(x, W, CURVATURE)
    logs = oracle.logmap(np.asarray(mean)[:, None], np.asarray(x), CURVATURE[:, None, None])
    residual = np.sum(W[..., None] * logs * oracle.factor(mean[:, None], 1.0), 1)
    assert abs(residual).max() < 1e-10
    also = oracle.call(poincare.expmap0, tangent(V, W, CURVATURE), curvature=CURVATURE)
    np.testing.assert_allclose(also, mean, rtol=1e-10, atol=1e-12)


def test_float32_finds_the_same_point():
    small = (x.astype(jnp.float32) for x in (V, W, CURVATURE))
    mean = tangent(*small)
    assert mean.dtype == jnp.float32
    np.testing.assert_allclose(mean, tangent(V, W, CURVATURE), rtol=2e-5, atol=2e-6)


def test_far_points_on_a_line():
    line = np.zeros((24, 6, 3), np.float32)
    line[:, :3, 0] = -17, 2, 18
    weights = np.zeros((24, 6), np.float32)
    weights[:12, :3] = 1
    weights[12:, :3] = 0, 1, 3
    mean = np.asarray(tangent(*map(jnp.asarray, (line, weights, np.ones(24, np.float32)))))
    np.testing.assert_allclose(mean[:12], [[1.0, 0.0, 0.0]] * 12, atol=1e-5)
    np.testing.assert_allclose(mean[12:], [[14.0, 0.0, 0.0]] * 12, rtol=1e-5)


@jax.jit
def pull_back(primals, cotangent):
    value, pull = jax.vjp(tangent, *primals)
    return value, pull(cotangent)


def test_nothing_and_one_point():
    zero = jnp.zeros((24, 6))
    np.testing.assert_array_equal(tangent(V, zero, CURVATURE), jnp.zeros((24, 3)))
    one = zero.at[:, 2].set(0.3)
    cotangent = jnp.asarray(R.normal(size=(24, 3)))
    value, pulled = pull_back((V, one, CURVATURE), cotangent)
    np.testing.assert_allclose(value, V[:, 2], rtol=1e-10)
    want = np.zeros(V.shape)
    want[:, 2] = cotangent
    np.testing.assert_allclose(pulled[0], want, atol=1e-7)


def test_derivatives_match_finite_differences():
    primals = V, W, CURVATURE
    steps = [R.normal(size=x.shape) for x in primals]
    cotangent = R.normal(size=(24, 3))
    _, pulled = pull_back(primals, jnp.asarray(cotangent))
    size = 1e-6
    ends = [
        np.asarray(tangent(*(x + sign * size * dx for x, dx in zip(primals, steps, strict=True))))
        for sign in (1, -1)
    ]
    want = np.sum(cotangent * (ends[0] - ends[1]), -1) / (2 * size)
    got = sum(
        np.sum((slope * dx).reshape(24, -1), -1)
        for slope, dx in zip(map(np.asarray, pulled), steps, strict=True)
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_mean_moves_with_the_points():
    x = oracle.call(poincare.expmap0, V, curvature=CURVATURE[:, None])
    by = jnp.broadcast_to(jnp.asarray([0.1, -0.3, 0.2]), x.shape)
    moved = oracle.call(poincare.mobius_add, by, x, curvature=CURVATURE[:, None])
    mean = oracle.call(poincare.mobius_add, by[:, 0], ball(x, W, CURVATURE), curvature=CURVATURE)
    np.testing.assert_allclose(ball(moved, W, CURVATURE), mean, rtol=1e-8, atol=1e-9)


@pytest.mark.usefixtures("bare_errors")
def test_bad_input_is_named():
    with pytest.raises(ValueError, match="coordinates"):
        frechet_mean(V[0], coordinates="klein")
    with pytest.raises(ValueError, match="steps"):
        frechet_mean(V[0], steps=0)
    with pytest.raises(ValueError, match="weights"):
        frechet_mean(V[0], weights=jnp.ones(5))
    with pytest.raises(ValueError, match="points"):
        frechet_mean(V[0, 0])
    with pytest.raises(ValueError, match="curvature"):
        polar.midpoint(V[0], curvature=0.0)
