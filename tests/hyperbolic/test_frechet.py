"""The Frechet mean: the condition for it, known cases, derivatives, and where rounding is large."""

import functools

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
    line = jnp.asarray([[-17.0, 0.0], [2.0, 0.0], [18.0, 0.0]], jnp.float32)
    mean = frechet_mean(line, coordinates="tangent")
    np.testing.assert_allclose(mean, [1.0, 0.0], atol=1e-5)
    two = frechet_mean(line, weights=jnp.asarray([0.0, 1.0, 3.0], jnp.float32), coordinates="tangent")
    np.testing.assert_allclose(two, [14.0, 0.0], rtol=1e-5)


def test_nothing_and_one_point():
    zero = jnp.zeros((24, 6))
    np.testing.assert_array_equal(tangent(V, zero, CURVATURE), jnp.zeros((24, 3)))
    one = zero.at[:, 2].set(0.3)
    np.testing.assert_allclose(tangent(V, one, CURVATURE), V[:, 2], rtol=1e-10)
    slope = jax.jit(jax.vmap(jax.jacrev(tangent)))(V, one, CURVATURE)
    want = np.zeros((24, 3, 6, 3))
    want[:, :, 2] = np.eye(3)
    np.testing.assert_allclose(slope, want, atol=1e-7)


def test_derivatives_match_finite_differences():
    primals = V, W, CURVATURE
    tangents = tuple(jnp.asarray(R.normal(size=x.shape)) for x in primals)
    _, forward = jax.jit(functools.partial(jax.jvp, tangent))(primals, tangents)
    step = 1e-6
    ends = [
        tangent(*(x + sign * step * dx for x, dx in zip(primals, tangents, strict=True)))
        for sign in (1, -1)
    ]
    np.testing.assert_allclose(forward, (ends[0] - ends[1]) / (2 * step), rtol=1e-5, atol=1e-6)
    cotangent = jnp.asarray(R.normal(size=forward.shape))
    pulled = jax.jit(lambda p, ct: jax.vjp(tangent, *p)[1](ct))(primals, cotangent)
    reverse = sum(jnp.sum(a * b) for a, b in zip(pulled, tangents, strict=True))
    np.testing.assert_allclose(reverse, jnp.sum(cotangent * forward), rtol=1e-9)


def test_steps_are_few_and_bounded():
    one = frechet_mean(V[0], coordinates="tangent", steps=1)
    few = frechet_mean(V[0], coordinates="tangent", steps=12)
    assert float(jnp.linalg.norm(one - few)) > 0
    np.testing.assert_allclose(few, frechet_mean(V[0], coordinates="tangent"), atol=1e-12)


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
