"""The public linear recurrence against a plain scan."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import greens


def plain(factor, source):
    batch = np.broadcast_shapes(factor.shape, source.shape)
    factor, source = (jnp.moveaxis(jnp.broadcast_to(x, batch), -1, 0) for x in (factor, source))

    def step(y, site):
        y = site[0] * y + site[1]
        return y, y

    return jnp.moveaxis(jax.lax.scan(step, jnp.zeros_like(source[0]), (factor, source))[1], 0, -1)


@pytest.mark.parametrize("kind", ["real", "complex"])
@pytest.mark.parametrize("n", [1, 23])
def test_equals_a_plain_scan_with_its_derivatives(kind, n):
    rng = np.random.default_rng(n)
    factor, source = (jnp.asarray(rng.normal(size=shape)) for shape in ((3, n), (2, 1, n)))
    if kind == "complex":
        factor, source = (jax.lax.complex(x, jnp.cos(3 * x)) for x in (factor, source))

    def loss(f, factor, source):
        return jnp.sum(jnp.sin(f(factor, source).real) @ jnp.arange(1.0, n + 1))

    def both(f):
        gradient = jax.grad(lambda *a: loss(f, *a), (0, 1))
        return jax.jit(lambda *a: (f(*a), gradient(*a)))(factor, source)

    (y, ours), (y_plain, expected) = both(greens.recurrence), both(plain)
    assert y.dtype == source.dtype
    np.testing.assert_allclose(y, y_plain, rtol=1e-12, atol=1e-12)
    for value, other in zip(ours, expected, strict=True):
        np.testing.assert_allclose(value, other, rtol=1e-10, atol=1e-12)
    # a real source alone: its tangent has no imaginary plane
    slope = jax.jit(jax.grad(lambda s: loss(greens.recurrence, factor, s)))(source)
    np.testing.assert_allclose(slope, expected[1], rtol=1e-10, atol=1e-12)


@pytest.mark.usefixtures("optimized")
def test_later_sites_change_no_bit():
    rng = np.random.default_rng(0)
    factor, source = jnp.asarray(rng.normal(size=(2, 200)))
    recurrence = jax.jit(greens.recurrence)
    before = recurrence(factor, source)
    for j in (1, 130, 199):
        after = recurrence(factor.at[j:].set(jnp.nan), source.at[j:].add(1.0))
        np.testing.assert_array_equal(after[:j], before[:j])


def test_single_precision_and_bad_input(bare_errors):
    one = jnp.ones(4, jnp.bfloat16)
    assert greens.recurrence(one, one).dtype == jnp.float32
    with pytest.raises(ValueError, match=r"same number of sites .*\(4,\) and \(3,\)"):
        greens.recurrence(one, one[:3])
    with pytest.raises(ValueError, match=r"factor \(2,\), source \(3,\)"):
        greens.recurrence(jnp.ones((2, 4)), jnp.ones((3, 4)))
    with pytest.raises(TypeError, match=r"factor must be .*got dtype int64"):
        greens.recurrence(one.astype(int), one)
