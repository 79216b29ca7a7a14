"""The expert in the ball against Mobius addition in float64, and its invariants."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import moe
from physnet.hyperbolic import polar


def mobius(x, y, c):
    xy, xx, yy = (np.sum(a * b, -1, keepdims=True) for a, b in ((x, y), (x, x), (y, y)))
    below = 1 + 2 * c * xy + c**2 * xx * yy
    return ((1 + 2 * c * xy + c * yy) * x + (1 - c * xx) * y) / below


def exp0(v, c):
    size = np.sqrt(c) * np.linalg.norm(v, axis=-1, keepdims=True)
    return v * np.where(size > 0, np.tanh(size) / np.where(size > 0, size, 1), 1)


def log0(x, c):
    size = np.sqrt(c) * np.linalg.norm(x, axis=-1, keepdims=True)
    return x * np.where(size > 0, np.arctanh(size) / np.where(size > 0, size, 1), 1)


def reference(x, centroid, network, c):
    mu = exp0(centroid, c)
    inside = log0(mobius(-mu[None], exp0(x, c), c), c)
    return log0(mobius(mu[None], exp0(network(inside), c), c), c)


def points(n=30, d=4, scale=0.6, seed=0):
    rng = np.random.default_rng(seed)
    return scale * rng.normal(size=(n, d)), scale * rng.normal(size=d)


def reverse(t):
    return 0.5 * t[:, ::-1]


@jax.jit
def half_reversed(x, mu, c):
    return moe.ball_expert(x, mu, reverse, curvature=c)


@pytest.mark.parametrize("c", [0.3, 1.0, 2.0])
@pytest.mark.parametrize("scale", [1e-3, 0.1, 0.6, 1.5])
def test_equal_to_mobius_addition(c, scale):
    x, mu = points(scale=scale)
    got = half_reversed(x, mu, c)
    np.testing.assert_allclose(got, reference(x, mu, reverse, c), rtol=1e-8, atol=1e-10 * scale)


@jax.jit
def there_and_back(x, mu):
    return moe.ball_expert(x, mu, lambda t: t)


@pytest.mark.parametrize("radius", [0.0, 1e-6, 0.3, 2.0, 5.0, 9.0])
def test_nothing_is_lost_far_out_in_float32(radius):
    """There and back with the identity, beside the centroid: to what float32 angles can hold."""
    rng = np.random.default_rng(1)
    mu = jnp.asarray(radius * np.eye(4)[0] + 0.01 * radius, jnp.float32)
    x = mu[None, :] * (1 + 1e-3 * jnp.asarray(rng.normal(size=(50, 4)), jnp.float32))
    back = there_and_back(x, mu)
    np.testing.assert_allclose(back, x, rtol=2e-6, atol=1e-9)


@jax.jit
def both(x, mu):
    """Twice the length of a token in its expert's frame, and its distance."""
    seen = []
    moe.ball_expert(x, mu, lambda t: seen.append(t) or t)
    return 2 * jnp.linalg.norm(seen[0], axis=-1), polar.distance(x, mu[None, :])


@pytest.mark.parametrize("radius", [0.2, 3.0, 6.0])
def test_the_frame_keeps_the_distance_to_the_centroid(radius):
    rng = np.random.default_rng(2)
    mu = jnp.asarray(radius * np.eye(4)[1], jnp.float32)
    x = jnp.asarray(radius * (np.eye(4)[1] + 0.05 * rng.normal(size=(20, 4))), jnp.float32)
    np.testing.assert_allclose(*both(x, mu), rtol=2e-5)


def test_at_the_origin_it_is_the_plain_expert():
    x = jnp.asarray(points()[0], jnp.float32)
    got = jax.jit(lambda x, mu: moe.ball_expert(x, mu, jnp.sin))(x, jnp.zeros(4, jnp.float32))
    np.testing.assert_allclose(got, jnp.sin(x), rtol=2e-6)


@jax.jit
def value(x, mu, c):
    network = lambda t: jnp.tanh(t @ jnp.arange(9.0).reshape(3, 3) / 9)  # noqa: E731
    return jnp.sum(jnp.sin(moe.ball_expert(x, mu, network, curvature=c)))


slopes = jax.jit(jax.grad(value, (0, 1, 2)))


@pytest.mark.parametrize("case", ["origin", "token", "both", "same", "far"])
def test_derivatives_are_those_of_differences(case):
    x, mu = points(n=2, d=3)
    x, mu = {
        "origin": (x, 0 * mu),
        "token": (0 * x, mu),
        "both": (0 * x, 0 * mu),
        "same": (np.stack([mu, mu]), mu),
        "far": (4 * x, 4 * mu),
    }[case]
    arrays = jnp.asarray(x), jnp.asarray(mu), jnp.float64(0.8)
    gradients = slopes(*arrays)
    rng = np.random.default_rng(3)
    for i, gradient in enumerate(gradients):
        step = jnp.asarray(rng.normal(size=gradient.shape))
        ends = [value(*arrays[:i], arrays[i] + t * step, *arrays[i + 1 :]) for t in (1e-5, -1e-5)]
        slope = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(jnp.sum(gradient * step), slope, rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_as_an_expert_of_a_mixture():
    rng = np.random.default_rng(4)
    tokens = jnp.asarray(rng.normal(size=(12, 3)), jnp.float32)
    params = {
        "centroid": jnp.asarray(rng.normal(size=(4, 3)), jnp.float32),
        "weight": jnp.asarray(rng.normal(size=(4, 3, 3)), jnp.float32),
    }

    def expert(p, x):
        return moe.ball_expert(x, p["centroid"], lambda t: t @ p["weight"])

    routing = jax.jit(moe.route)(tokens, params["centroid"])
    got = jax.jit(lambda p: moe.apply(tokens, routing, expert, p))(params)
    one = jax.jit(expert)
    for i, e in enumerate(np.asarray(routing.expert)[:, 0]):
        own = {name: p[e] for name, p in params.items()}
        want = routing.gate[i, 0] * one(own, tokens[i : i + 1])[0]
        np.testing.assert_allclose(got[i], want, rtol=1e-5, atol=1e-6)


def test_errors_name_the_argument(bare_errors):
    x, mu = (jnp.asarray(a, jnp.float32) for a in points())
    with pytest.raises(ValueError, match="x must have shape"):
        moe.ball_expert(x, mu[:2], jnp.sin)
    with pytest.raises(ValueError, match="network must return shape"):
        moe.ball_expert(x, mu, lambda t: t[:, :2])
    for bad in (0.0, -1.0, jnp.ones(x.shape[1]), jnp.ones((len(x), 1))):
        with pytest.raises(ValueError, match="curvature must be"):
            moe.ball_expert(x, mu, jnp.sin, curvature=bad)
