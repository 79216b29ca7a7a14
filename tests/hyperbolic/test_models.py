"""All models against definitions in float64, and against one another."""

import functools

import ball_oracle as oracle
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.hyperbolic import klein, lorentz, poincare, polar

CURVATURE, X, Y, V = oracle.cases(count=3)
C = CURVATURE[:, None]
close = functools.partial(np.testing.assert_allclose, rtol=1e-11, atol=1e-12)


call = functools.partial(oracle.call, curvature=CURVATURE)


def test_ball_matches_the_definitions():
    close(call(poincare.distance, X, Y), oracle.distance(X, Y, C))
    close(call(poincare.mobius_add, X, Y), oracle.add(X, Y, C))
    close(call(poincare.expmap, X, V), oracle.expmap(X, V, C))
    close(call(poincare.logmap, X, Y), oracle.logmap(X, Y, C))
    close(call(poincare.expmap0, V), oracle.exp0(V, C))
    close(call(poincare.transport, X, Y, V), oracle.transport(X, Y, V, C), rtol=1e-9, atol=1e-9)


def test_polar_matches_the_definitions():
    got = call(polar.distance, X, Y)
    close(got, oracle.polar_distance(X, Y, C))
    close(got, oracle.distance(oracle.exp0(X, C), oracle.exp0(Y, C), C), rtol=1e-10)


def test_distances_of_all_models_agree():
    want = call(poincare.distance, X, Y)
    for model, convert in (
        (polar, polar.from_poincare),
        (klein, klein.from_poincare),
        (lorentz, lorentz.from_poincare),
    ):
        close(call(model.distance, call(convert, X), call(convert, Y)), want, rtol=1e-10)


@pytest.mark.parametrize("model", [polar, klein, lorentz])
def test_conversions_invert_and_commute(model):
    there = call(model.from_poincare, X)
    close(call(model.to_poincare, there), X)
    if model is not polar:
        close(call(model.to_tangent, there), call(polar.from_poincare, X), atol=1e-11)
        close(call(model.from_tangent, V), call(model.from_poincare, call(poincare.expmap0, V)))


def test_lorentz_maps_are_those_of_the_hyperboloid():
    x, y = call(lorentz.from_poincare, X), call(lorentz.from_poincare, Y)
    close(lorentz.inner(x, x), -1 / CURVATURE, rtol=1e-9)
    distance = call(lorentz.distance, x, y)
    close(np.cosh(np.sqrt(CURVATURE) * distance), -CURVATURE * lorentz.inner(x, y), rtol=1e-10)
    v = call(lorentz.logmap, x, y)
    scale = np.abs(x).max(-1) * np.abs(v).max(-1)
    close(lorentz.inner(x, v) / scale, 0 * distance)
    close(lorentz.inner(v, v) / scale, distance**2 / scale)
    close(call(lorentz.expmap, x, v), y, rtol=1e-8, atol=1e-9)
    moved = call(lorentz.transport, x, y, v)  # along its own geodesic: minus the way back
    close(moved, -call(lorentz.logmap, y, x), rtol=1e-8, atol=1e-8)
    close(call(lorentz.expmap0, call(lorentz.logmap0, x)), x, rtol=1e-11)
    close(call(lorentz.project, np.asarray(x) + np.eye(4)[0]), x, rtol=1e-11)


def _clouds():
    """Twelve clouds of seven points with the origin in each, and weights."""
    c, x = oracle.cases(1, n=84, count=1)
    c, r = c[:12], np.random.default_rng(2)
    scale = np.sqrt(c[:, None, None]) * oracle.norm(x).reshape(12, 7, 1)
    x = x.reshape(12, 7, 3) * 0.9 / np.maximum(scale, 1)
    x[:, 0] = 0
    return c, x, r.uniform(size=(12, 7))


def test_midpoints_of_all_models_are_one_point():
    c, x, weights = _clouds()
    every = c[:, None]
    factor = oracle.factor(x, c[:, None, None])
    w = weights[..., None]
    k = (w * factor * x).sum(1) / (w * (factor - 1)).sum(1)
    want = k / (1 + np.sqrt(1 - every * oracle.dot(k, k)))
    for model, enter, leave in (
        (poincare, poincare.project, poincare.project),
        (polar, polar.from_poincare, polar.to_poincare),
        (klein, klein.from_poincare, klein.to_poincare),
        (lorentz, lorentz.from_poincare, lorentz.to_poincare),
    ):
        points = oracle.call(enter, x, curvature=every)
        mean = oracle.call(model.midpoint, points, weights=weights, curvature=c)
        close(oracle.call(leave, mean, curvature=c), want)


def test_midpoints_far_out_stay_where_the_points_are():
    v = [[6.5, 1.0], [6.5, 1.0]], [[17.0, 0.0], [5.0, 0.0]], [[20.0, 0.0], [-20.0, 0.0]]
    v = jnp.asarray(v, jnp.float32)
    want = np.array([[6.5, 1.0], [11.0, 0.0], [0.0, 0.0]])
    np.testing.assert_allclose(oracle.call(polar.midpoint, v), want, rtol=1e-4)
    x = oracle.call(poincare.expmap0, v * jnp.float32(0.3))
    got = oracle.call(poincare.logmap0, oracle.call(poincare.midpoint, x))
    np.testing.assert_allclose(got, want * 0.3, rtol=1e-3)


def test_midpoint_of_nothing_is_the_origin():
    points, nothing = jnp.full((12, 7, 3), 0.4), jnp.zeros((12, 7))
    for model in (poincare, klein, polar, lorentz):
        mean = oracle.call(model.midpoint, points, weights=nothing, curvature=jnp.ones(12))
        origin = [1.0, 0.0, 0.0] if model is lorentz else [0.0, 0.0, 0.0]
        np.testing.assert_array_equal(mean, [origin] * 12)
