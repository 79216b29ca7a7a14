"""Weights of particles: against bisection in float64, and at the edges of float32."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.superposition import path_integral

K = 24
LOSSES = np.random.default_rng(0).normal(size=K)


@functools.partial(jax.jit, static_argnames="effective")
def weights(losses, effective=0.4):
    return path_integral.weights(losses, effective=effective)


def f32(x):
    return jnp.asarray(x, jnp.float32)


def reference(losses, target):
    """P and lambda by bisection of lambda itself, float64."""

    def p(inverse):
        heights = np.exp(-inverse * (losses - losses.min()))
        return heights / heights.sum()

    low, high = 0.0, 1e12 / np.ptp(losses)
    for _ in range(400):
        middle = (low + high) / 2
        large = 1 / np.sum(p(middle) ** 2) > target
        low, high = (middle, high) if large else (low, middle)
    return p(low), low


@pytest.mark.parametrize("power", [1, 9])  # 9: a few losses lie far from the others
def test_effective_size_is_held(power):
    losses = LOSSES**power
    for dtype, tolerance in ((jnp.float32, 2e-5), (jnp.float64, 1e-9)):
        found = weights(jnp.asarray(losses, dtype))
        p, inverse = reference(losses, 0.4 * K)
        assert found.probability.dtype == dtype
        np.testing.assert_allclose(found.probability, p, atol=tolerance)
        np.testing.assert_allclose(found.temperature, inverse, rtol=50 * tolerance)
        np.testing.assert_allclose(found.effective, 0.4 * K, rtol=tolerance)


@pytest.mark.parametrize("scale", [1e-30, 1e-4, 1e30])
def test_scale_and_origin_of_the_losses_do_not_matter(scale):
    found = weights(f32(scale * LOSSES))
    there = weights(f32(LOSSES))
    np.testing.assert_allclose(found.probability, there.probability, atol=1e-5)
    np.testing.assert_allclose(found.temperature * scale, there.temperature, rtol=1e-4)
    moved = weights(jnp.asarray(3.0 * LOSSES - 700.0))  # float64: no digits lost
    np.testing.assert_allclose(
        moved.probability, weights(jnp.asarray(LOSSES)).probability, atol=1e-9
    )


def test_ties_share():
    found = weights(f32([0.0] * 12 + [1.0] * 12))
    np.testing.assert_allclose(found.probability[:12], 1 / 12, rtol=1e-6)
    assert found.effective > 0.4 * K
    alike = weights(f32([3.0] * K))
    np.testing.assert_allclose(alike.probability, 1 / K, rtol=1e-6)
    assert alike.temperature == 0


def test_not_finite_is_no_weight():
    losses = f32(np.where(np.arange(K) % 3 == 0, [np.nan, np.inf, -np.inf] * 8, LOSSES))
    found = weights(losses)
    good = np.arange(K) % 3 != 0
    np.testing.assert_array_equal(found.usable, good)
    assert not np.any(np.asarray(found.probability)[~good])
    np.testing.assert_allclose(found.effective, 0.4 * good.sum(), rtol=1e-4)
    alone = weights(f32([np.nan] * (K - 1) + [5.0]))
    np.testing.assert_array_equal(alone.probability, np.eye(K)[-1])
    none = weights(f32([np.nan] * K))
    assert not np.any(none.probability)
    assert none.effective == 0
    assert np.isfinite(none.temperature)


def test_widest_and_narrowest_spreads():
    wide = weights(f32([-3e38, 3e38, *([1e38] * (K - 2))]))
    assert np.all(np.isfinite(wide.probability))
    np.testing.assert_allclose(np.sum(wide.probability), 1, rtol=1e-6)
    outlier = weights(f32([*LOSSES[1:], 1e35]))
    np.testing.assert_allclose(outlier.effective, 0.4 * K, rtol=1e-2)
    assert outlier.probability[-1] == 0
    close = weights(f32([1.0, 1.0 + 2**-23, *([2.0] * (K - 2))]))
    assert np.all(np.isfinite(close.probability))
    # 40 over the nearest gap is more than the largest number.
    nearest = weights(f32([0.0, 5e-38, *([1.0] * (K - 2))]))
    np.testing.assert_allclose(nearest.effective, 0.4 * K, rtol=1e-4)


def test_fixed_temperature_is_softmax():
    found = path_integral.weights(f32(LOSSES), temperature=1.5)
    np.testing.assert_allclose(found.probability, jax.nn.softmax(-1.5 * LOSSES), rtol=1e-5)
    assert found.temperature == 1.5


def test_temperatures_of_no_use_give_no_nan():
    fixed = jax.jit(lambda losses, x: path_integral.weights(losses, temperature=x).probability)
    alone = np.arange(K) == np.argmin(LOSSES)
    for inverse in (3e38, np.inf):
        np.testing.assert_array_equal(fixed(f32(LOSSES), f32(inverse)), alone)
    for inverse in (np.nan, -1e3):
        np.testing.assert_allclose(fixed(f32(LOSSES), f32(inverse)), 1 / K, rtol=1e-6)


def test_errors(bare_errors):
    for losses, options, error, words in [
        (
            f32(LOSSES),
            {"effective": 1.0},
            ValueError,
            "effective must be one number between 0 and 1",
        ),
        (f32(LOSSES), {"temperature": -1.0}, ValueError, "temperature must be >= 0"),
        (f32(LOSSES), {"temperature": np.ones(2)}, ValueError, "temperature must be one number"),
        (f32(LOSSES)[None], {}, ValueError, "losses must have one axis"),
        (f32([]), {}, ValueError, "losses must have one axis, of K >= 1"),
        (jnp.arange(3), {}, TypeError, "losses must be a real"),
    ]:
        with pytest.raises(error, match=words):
            path_integral.weights(losses, **options)
