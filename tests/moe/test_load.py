"""Load metrics against their definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import moe


def test_metrics_by_their_definitions():
    expert = np.random.default_rng(0).zipf(1.5, 300) - 1
    kept = expert[expert < 16]
    got = jax.jit(lambda e: moe.load(e, experts=16))(jnp.asarray(expert.reshape(100, 3)))
    count = np.bincount(kept, minlength=16)
    share = count[count > 0] / count.sum()
    np.testing.assert_array_equal(got.count, count)
    np.testing.assert_allclose(got.effective, np.exp(-np.sum(share * np.log(share))), rtol=1e-5)
    np.testing.assert_allclose(got.imbalance, count.max() / count.mean(), rtol=1e-5)
    np.testing.assert_allclose(got.dropped, 1 - len(kept) / 300, atol=1e-6)
    assert all(x.dtype == jnp.float32 for x in got[1:])


def test_extremes():
    one = moe.load(jnp.full((8, 1), 2), experts=4)
    assert (float(one.effective), float(one.imbalance), float(one.dropped)) == (1, 4, 0)
    none = moe.load(jnp.zeros((0, 1), jnp.int32), experts=4)
    assert [float(x) for x in none[1:]] == [0, 0, 0]


def test_errors_name_the_argument():
    with pytest.raises(TypeError, match="expert must be integers"):
        moe.load.__wrapped__(jnp.ones(3), experts=4)
    with pytest.raises(ValueError, match="experts must be >= 1"):
        moe.load(jnp.zeros(3, jnp.int32), experts=0)
