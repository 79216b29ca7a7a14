"""Distances of all pairs against float64, those of single pairs, and those of the kernels."""

import functools
import importlib.util

import ball_oracle as oracle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import _dispatch
from physnet.hyperbolic import _pairwise, polar

gpu = pytest.mark.gpu
IMPLEMENTATIONS = ["xla", pytest.param("triton", marks=gpu)]
ONE = np.float32(1)
both = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@functools.partial(jax.jit, static_argnames="implementation")
def pairwise(u, v, c=ONE, implementation="xla"):
    return polar.pairwise(u, v, curvature=c, implementation=implementation)


def points(n, d, radius, seed=0):
    r = np.random.default_rng(seed)
    lengths = r.uniform(0, radius / 2, (n, 1))
    return jnp.asarray(oracle.directions(r, (n, d)) * lengths, jnp.float32)


def near(u, seed=1):
    """Beside each point, at all small distances and angles; a tenth of them the points."""
    r = np.random.default_rng(seed)
    size = np.where(r.random((len(u), 1)) < 0.1, 0, 10.0 ** r.uniform(-8, 0, (len(u), 1)))
    return jnp.asarray(np.asarray(u, np.float64) + size * r.normal(size=u.shape), jnp.float32)


@both
@pytest.mark.parametrize("radius", [1e-6, 1.0, 10.0, 40.0])
@pytest.mark.parametrize("d", [2, 7, 64])
def test_distances_are_right_to_1e_5(radius, d, implementation):
    u = points(70, d, radius)
    v = jnp.concatenate([near(u), points(65, d, radius, 2), jnp.zeros((1, d), jnp.float32)])
    got = pairwise(u, v, np.float32(0.7), implementation=implementation)
    whole = lambda x: np.asarray(x, np.float64)  # noqa: E731
    with np.errstate(invalid="ignore", divide="ignore"):
        want = oracle.polar_distance(whole(u)[:, None], whole(v)[None], np.float64(np.float32(0.7)))
    known = np.isfinite(want)  # not of the origin
    np.testing.assert_allclose(np.asarray(got)[known], want[known], rtol=1e-5, atol=1e-12)
    origin = 2 * np.linalg.norm(np.asarray(u, np.float64), axis=1)
    np.testing.assert_allclose(got[:, -1], origin, rtol=1e-5)
    same = (np.asarray(u)[:, None] == np.asarray(v)).all(-1)
    assert (np.asarray(got)[same] == 0).all()


def total(form, u, v, c, weight):
    return jnp.sum(weight * form(u, v, c))


@functools.partial(jax.jit, static_argnums=0)
def slopes(form, *arrays):
    return jax.grad(functools.partial(total, form), (0, 1, 2))(*arrays)


@jax.jit
def single(u, v, c):
    return polar.distance(u[:, None], v[None], curvature=c)


@both
@pytest.mark.parametrize("radius", [1.0, 10.0, 25.0])
@pytest.mark.parametrize("d", [3, 64])
def test_gradients_are_those_of_single_pairs(radius, d, implementation):
    u = points(70, d, radius).at[3].set(0)
    v = jnp.concatenate([near(u), points(65, d, radius, 2)]).at[5].set(0)
    weight = jnp.asarray(np.random.default_rng(4).normal(size=(70, 135)), jnp.float32)
    arrays = (u, v, jnp.float32(0.7), weight)
    form = functools.partial(pairwise, implementation=implementation)
    count = 2 if radius > 10 else 3  # far out the slope in c is what rounding leaves of the others
    pairs = zip(slopes(form, *arrays), slopes(single, *arrays), strict=True)
    for got, want in list(pairs)[:count]:
        assert np.isfinite(got).all()
        np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-5 * np.abs(want).max())


@pytest.mark.slow
@both
def test_far_pairs_have_precise_gradients(implementation):
    u, v, weight = points(90, 16, 8.0), points(130, 16, 8.0, 1), jnp.ones((90, 130), jnp.float32)
    form = functools.partial(pairwise, implementation=implementation)
    arrays = (u, v, jnp.float32(1.0), weight)
    for got, want in zip(slopes(form, *arrays), slopes(single, *arrays), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5 * np.abs(want).max())


@pytest.mark.slow
@both
def test_vmap_and_parts(implementation, monkeypatch):
    u, v = points(60, 4, 5.0).reshape(3, 20, 4), points(33, 4, 5.0, 1)
    form = functools.partial(pairwise, implementation=implementation)
    want = single(u.reshape(60, 4), v, ONE).reshape(3, 20, 33)
    np.testing.assert_allclose(jax.jit(jax.vmap(form, (0, None)))(u, v), want, rtol=1e-5)
    monkeypatch.setattr(_pairwise, "COORDINATES", 33 * 4 * 7)
    parts = functools.partial(polar.pairwise, implementation=implementation)
    got, slope = jax.jit(jax.value_and_grad(lambda u: jnp.sum(parts(u, v))))(u[0])
    slope_of_single = jax.jit(jax.grad(lambda u: jnp.sum(single(u, v, ONE))))(u[0])
    np.testing.assert_allclose(got, want[0].sum(), rtol=1e-5)
    np.testing.assert_allclose(slope, slope_of_single, rtol=1e-4, atol=1e-4)


def test_second_derivatives_and_other_types():
    u, v = points(2, 2, 5.0), points(1, 2, 5.0, 1)
    curve = jax.jit(jax.hessian(lambda u: jnp.sum(pairwise(u, v))))(u)
    want = jax.jit(jax.hessian(lambda u: jnp.sum(single(u, v, ONE))))(u)
    np.testing.assert_allclose(curve, want, rtol=1e-4, atol=1e-4)
    assert pairwise(u.astype(jnp.bfloat16), v.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    assert pairwise(u[:0], v).shape == (0, 1)


def test_bad_arguments(bare_errors, monkeypatch):
    u = points(3, 4, 1.0)
    for arguments, error, match in [
        ((u[0], u, 1.0), ValueError, "u must have shape"),
        ((u, u[None], 1.0), ValueError, "v must have shape"),
        ((u, u[:, :2], 1.0), ValueError, "last axes"),
        ((u, u, jnp.ones((3, 3))), ValueError, "curvature must be one number"),
        ((u, u, -1.0), ValueError, "curvature must be positive"),
        ((u.astype(int), u, 1.0), TypeError, "u"),
    ]:
        with pytest.raises(error, match=match):
            polar.pairwise(*arguments[:2], curvature=arguments[2])
    monkeypatch.setattr(_dispatch, "_capability", lambda facts: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    for x, match in [(u.astype(jnp.float64), "float32"), (points(2, 130, 1.0), "d of at most 128")]:
        with pytest.raises(NotImplementedError, match=match):
            polar.pairwise(x, x, implementation="triton")
