"""Causal propagators: exponentials, the recurrence, no leak, streaming."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import holography

LAGS = np.concatenate(
    [np.geomspace(1e-4, 10, 2000), np.arange(3000.0), np.geomspace(3e3, 1e5, 2000)]
)


def error(delta, terms):
    found = holography.exponentials(delta, terms=terms)
    assert np.all(np.diff(found.rate) > 0)
    assert float(found.rate[0]) > 0
    value = np.exp(-np.outer(LAGS, found.rate)) @ np.asarray(found.weight)
    exact = (1 + LAGS) ** (-2 * delta)
    return np.abs(value - exact), exact


@pytest.mark.parametrize(("terms", "most"), [(16, 2.1e-4), (24, 4e-6)])
def test_exponentials_reach_the_kernel_over_all_lags(terms, most):
    gap, exact = error(1.0, terms)
    assert gap.max() < most
    assert (gap / exact)[LAGS <= 2000].max() < {16: 2e-3, 24: 4e-5}[terms]
    assert (gap / exact).max() < {16: 2e-2, 24: 1e-4}[terms]


@pytest.mark.parametrize("delta", [0.75, 1.5, 2.0, 3.0, 20.0, 49.0])
def test_exponentials_of_other_dimensions(delta):
    gap, _ = error(delta, 24)
    assert gap.max() < 2e-5
    assert error(delta, 32)[0].max() < 1e-6


def direct(field, z, delta):
    """sum over the past, by the kernel itself, (..., L, N, d)."""
    n = field.shape[-2]
    lag = np.subtract.outer(np.arange(n), np.arange(n))
    kernel = (2 * delta - 1) * z[:, None, None] ** delta
    kernel = kernel / (z[:, None, None] + np.maximum(lag, 0)) ** (2 * delta) * (lag >= 0)
    return kernel @ field[..., None, :, :]


to_bulk = jax.jit(holography.causal_to_bulk, static_argnames=("delta", "terms"))
to_boundary = jax.jit(holography.causal_to_boundary, static_argnames=("delta", "terms"))
Z = np.array([0.5, 2.0, 8.0])


@pytest.mark.parametrize("n", [7, 75])
def test_both_directions_against_direct_sums(n):
    rng = np.random.default_rng(0)
    field, bulk = rng.normal(size=(2, n, 3)), rng.normal(size=(2, 3, n, 3))
    found, state = to_bulk(jnp.asarray(field), jnp.asarray(Z), delta=1.0)
    np.testing.assert_allclose(found, direct(field, Z, 1.0), atol=3e-5)
    assert state.shape == (2, 3, 24, 3)
    found, _ = to_boundary(jnp.asarray(bulk), jnp.asarray(Z), delta=1.5)
    each = [direct(bulk[:, l], Z[l : l + 1], 1.5)[:, 0] for l in range(3)]
    np.testing.assert_allclose(found, sum(each), atol=3e-4)


def test_the_kernel_has_the_integral_of_the_propagator():
    """A constant past gives z^{1 - Delta}, as K does: for z of many steps."""
    field = jnp.ones((4000, 1))
    for delta in (1.0, 1.5):
        found, _ = to_bulk(field, jnp.asarray([20.0]), delta=delta)
        missing = (20 / (20 + 4000)) ** (2 * delta - 1)
        np.testing.assert_allclose(
            found[0, -1, 0], 20 ** (1 - delta) * (1 - missing), rtol=(2 * delta - 1) / 30
        )


def test_no_later_time_moves_an_earlier_output_to_the_bit():
    field = jax.random.normal(jax.random.key(0), (75, 2), jnp.float32)
    z = jnp.asarray(Z, jnp.float32)
    before, _ = to_bulk(field, z)
    for time in (5, 31, 32, 70):
        after, _ = to_bulk(field.at[time].add(1e6), z)
        np.testing.assert_array_equal(after[:, :time], before[:, :time])
        assert np.all(after[:, time] != before[:, time])


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_spoils_its_channel_from_its_time_on_and_nothing_before(bad):
    field = jax.random.normal(jax.random.key(0), (75, 2), jnp.float32)
    z = jnp.asarray(Z, jnp.float32)
    before, _ = to_bulk(field, z)
    for time in (5, 40, 70):
        after, state = to_bulk(field.at[time, 0].set(bad), z)
        np.testing.assert_array_equal(after[:, :time], before[:, :time])
        assert np.all(np.isnan(after[:, time:, 0]))
        np.testing.assert_array_equal(after[..., 1], before[..., 1])
        later, _ = to_bulk(field, z, state=state)
        assert np.all(np.isnan(later[..., 0]))
        assert np.all(np.isfinite(later[..., 1]))


def test_streaming_is_the_whole():
    field = jax.random.normal(jax.random.key(0), (40, 2), jnp.float32)
    z = jnp.asarray(Z, jnp.float32)
    whole, end = to_bulk(field, z)
    state, pieces = None, []
    for piece in (field[:1], field[1:2], field[2:35], field[35:]):
        out, state = to_bulk(piece, z, state=state)
        pieces.append(out)
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(state, end, rtol=2e-5, atol=1e-6)
    assert whole.dtype == end.dtype == jnp.float32


def test_gradients_in_field_and_depth():
    field = jax.random.normal(jax.random.key(1), (2, 9, 2))

    def loss(field, z):
        phi, _ = holography.causal_to_bulk(field, z, delta=1.0)
        return jnp.sum(holography.causal_to_boundary(phi**2, z, delta=1.0)[0] ** 2)

    z = jnp.asarray([0.7, 3.0])
    run = jax.jit(jax.value_and_grad(loss, (0, 1)))
    value, slopes = run(field, z)
    each = jax.jit(jax.vmap(loss, (0, None)))(field, z)
    np.testing.assert_allclose(jnp.sum(each), value, rtol=1e-12)
    for index in range(2):
        move = jnp.zeros(2).at[index].set(1e-6)
        found = (run(field, z + move)[0] - run(field, z - move)[0]) / 2e-6
        np.testing.assert_allclose(slopes[1][index], found, rtol=1e-6)
    tangent = jax.jvp(loss, (field, z), (jnp.ones_like(field), jnp.zeros(2)))[1]
    np.testing.assert_allclose(jnp.sum(slopes[0]), tangent, rtol=1e-10)


def test_errors_name_the_argument(bare_errors):
    field, z = jnp.ones((5, 1), jnp.float32), jnp.ones(2, jnp.float32)
    with pytest.raises(ValueError, match="delta must be above 1/2"):
        holography.exponentials(0.5)
    with pytest.raises(ValueError, match="terms must be <= 64 and span"):
        holography.exponentials(1.0, terms=65)
    with pytest.raises(ValueError, match="delta must be above 1/2"):
        holography.causal_to_bulk(field, z, delta=0.4)
    with pytest.raises(ValueError, match="z must be positive"):
        holography.causal_to_bulk(field, 0 * z)
    with pytest.raises(ValueError, match=r"z must have shape \(L >= 1,\)"):
        holography.causal_to_bulk(field, jnp.float32(1))
    with pytest.raises(ValueError, match=r"bulk must have shape \(..., 2, N, d\)"):
        holography.causal_to_boundary(jnp.ones((3, 5, 1), jnp.float32), z)
    with pytest.raises(TypeError, match="delta must be a static number"):
        jax.jit(lambda d: holography.causal_to_bulk(field, z, delta=d))(1.0)
    negative = jax.jit(lambda z: holography.causal_to_bulk(field, z)[0])(jnp.asarray([1.0, -1.0]))
    assert np.all(np.isfinite(negative[0]))
    assert np.all(np.isnan(negative[1]))
    with pytest.raises(ValueError, match=r"state must have shape \(2, 24, 1\)"):
        holography.causal_to_bulk(field, z, state=jnp.ones((2, 16, 1), jnp.float32))
