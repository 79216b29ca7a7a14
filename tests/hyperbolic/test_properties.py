"""Laws of the geometry, on a thousand random cases and more each."""

import functools

import ball_oracle as oracle
import jax.numpy as jnp
import numpy as np

from physnet.hyperbolic import lorentz, poincare, polar

CURVATURE, X, Y, V, W = oracle.cases(3, reach=0.9, count=4)
close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9)
call = functools.partial(oracle.call, curvature=CURVATURE)
distance, expmap, logmap, add, transport = (
    functools.partial(call, getattr(poincare, name))
    for name in ("distance", "expmap", "logmap", "mobius_add", "transport")
)


def length(x, v):
    return np.asarray(oracle.factor(x, CURVATURE[:, None]) * oracle.norm(v))[:, 0]


def test_left_cancellation_and_neutral_element():
    close(add(-X, add(X, Y)), Y)
    close(add(X, 0 * X), X)
    close(add(0 * X, Y), Y)
    np.testing.assert_array_equal(add(-X, X), 0 * X)


def test_round_trips():
    close(expmap(X, logmap(X, Y)), Y)
    close(call(poincare.expmap0, call(poincare.logmap0, X)), X)
    v = V / oracle.factor(X, CURVATURE[:, None])
    close(logmap(X, expmap(X, v)), v)


def test_distance_is_a_metric():
    close(distance(X, Y), distance(Y, X))
    close(distance(X, Y), length(X, np.asarray(logmap(X, Y))))
    assert bool((distance(X, V) <= distance(X, Y) + distance(Y, V) + 1e-9).all())
    np.testing.assert_array_equal(distance(X, X), 0 * CURVATURE)


def test_translations_are_isometries():
    close(distance(add(V, X), add(V, Y)), distance(X, Y), rtol=1e-7)


def test_geodesics_have_constant_speed():
    v = logmap(X, Y)
    a, b = expmap(X, 0.3 * v), expmap(X, 0.8 * v)
    close(distance(a, b), 0.5 * distance(X, Y), rtol=1e-8)


def test_transport_is_an_isometry_and_goes_back():
    v, w = transport(X, Y, V), transport(X, Y, W)
    before, after = oracle.factor(X, CURVATURE[:, None]), oracle.factor(Y, CURVATURE[:, None])
    close(after**2 * oracle.dot(v, w), before**2 * oracle.dot(V, W), rtol=1e-7, atol=1e-7)
    close(transport(Y, X, v), V)
    np.testing.assert_array_equal(transport(X, X, V), V)
    close(transport(X, Y, logmap(X, Y)), -logmap(Y, X))


def test_transport_of_the_hyperboloid_keeps_inner_products():
    x, y, v, w = (call(lorentz.from_poincare, point) for point in (X, Y, V, W))
    v, w = call(lorentz.logmap, x, v), call(lorentz.logmap, x, w)
    moved, also = call(lorentz.transport, x, y, v), call(lorentz.transport, x, y, w)
    scale = np.linalg.norm(moved, axis=-1) * np.linalg.norm(also, axis=-1)
    close(lorentz.inner(moved, also) / scale, lorentz.inner(v, w) / scale)
    close(lorentz.inner(moved, y) / np.linalg.norm(y, axis=-1) / scale, 0 * scale)


def test_curvature_scales_lengths():
    s, one = np.sqrt(CURVATURE), np.ones_like(CURVATURE)
    x, y = s[:, None] * X, s[:, None] * Y
    close(distance(X, Y), oracle.call(poincare.distance, x, y, curvature=one) / s)
    apart = call(polar.distance, 5 * X, 5 * Y)
    close(apart, oracle.call(polar.distance, 5 * x, 5 * y, curvature=one) / s)


def test_flat_space_is_the_limit():
    flat = functools.partial(oracle.call, curvature=np.full_like(CURVATURE, 1e-12))
    apart = 2 * oracle.norm(X - Y)[:, 0]
    close(flat(poincare.distance, X, Y), apart, rtol=1e-8)
    close(flat(polar.distance, X, Y), apart, rtol=1e-8)
    close(flat(poincare.expmap, X, V), X + V, rtol=1e-8)


def test_projection_holds_after_rounding():
    r = np.random.default_rng(5)
    for dtype in (np.float64, np.float32, jnp.float16, jnp.bfloat16):
        eps = float(jnp.finfo(dtype).eps)
        c = np.exp(r.uniform(-2, 2, 2000))
        x = oracle.directions(r, (2000, 5)) * np.exp(r.uniform(-1, 9, (2000, 1)))
        inside = oracle.call(poincare.project, jnp.asarray(x, dtype), curvature=c)
        assert inside.dtype == dtype
        size = np.sqrt(c) * oracle.norm(np.asarray(inside, np.float64))[:, 0]
        assert size.max() < 1
        assert size.max() > 1 - 8 * eps
    np.testing.assert_array_equal(call(poincare.project, X), X)
