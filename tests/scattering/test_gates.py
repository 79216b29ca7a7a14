"""Gates against NumPy, one comparison at a time; thresholds against a sort of all pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import scattering


def lognormal(shape, seed=0):
    return np.random.default_rng(seed).lognormal(size=shape).astype(np.float32)


def test_pair_gate_is_the_outer_product_and_counts_bad_scores_as_zero():
    query, key = lognormal((2, 5)), lognormal((2, 7), seed=1)
    query[0, 1], key[1, 2] = np.nan, -3.0
    threshold = np.array([0.5, 0.0], np.float32)
    got = np.asarray(jax.jit(scattering.pair_gate)(query, key, threshold))
    for b in range(2):
        for i in range(5):
            for j in range(7):
                a, c = (x if x > 0 else np.float32(0) for x in (query[b, i], key[b, j]))
                assert got[b, i, j] == (a * c > threshold[b])


def test_a_tie_does_not_pass():
    s = jnp.array([0.5, 0.3], jnp.float32)
    tie = np.float32(0.5) * np.float32(0.3)
    assert scattering.pair_gate(s, s, tie).tolist() == [[True, False], [False, False]]
    below = np.nextafter(tie, np.float32(0))
    assert scattering.pair_gate(s, s, below).tolist() == [[True, True], [True, False]]
    assert scattering.token_gate(s, 0.5).tolist() == [False, False]


@pytest.mark.parametrize("call", [scattering.pair_gate, scattering.token_gate])
@pytest.mark.parametrize("threshold", [-1e-6, float("nan")])
def test_bad_thresholds_raise(call, threshold):
    score = jnp.ones(3, jnp.float32)
    args = (score, score) if call is scattering.pair_gate else (score,)
    with pytest.raises(ValueError, match="threshold must be >= 0"):
        call(*args, threshold)


def test_virtual_tokens_of_bounded_scores_pass_no_pair():
    s = jnp.asarray(np.random.default_rng(2).uniform(size=200).astype(np.float32))
    virtual = ~scattering.token_gate(s, 0.3)
    pairs = scattering.pair_gate(s, s, 0.3)
    assert virtual.any()
    assert not pairs[virtual].any()
    assert not pairs[:, virtual].any()


def test_head_gate_closes_a_head_only_when_all_its_tokens_are_closed():
    s = jnp.asarray(lognormal((3, 40, 6)))
    threshold = jnp.asarray(np.quantile(np.asarray(s).max(1), [0.1, 0.3, 0.5, 0.7, 0.9, 1.0]))
    threshold = threshold.astype(jnp.float32)
    gate = scattering.head_gate(s, threshold)
    tokens = scattering.token_gate(s, threshold)
    np.testing.assert_array_equal(gate, np.asarray(tokens).any(1))
    assert 0 < int(gate.sum()) < gate.size


def test_block_gate_rules_with_a_short_last_block():
    s = lognormal((2, 11))
    s[0, 3] = np.nan
    for reduce, rule in (("max", max), ("sum", sum)):
        got = scattering.block_gate(jnp.asarray(s), 2.5, block_size=4, reduce=reduce)
        want = [
            [rule(x if x > 0 else 0 for x in row[b : b + 4]) > 2.5 for b in (0, 4, 8)] for row in s
        ]
        np.testing.assert_array_equal(got, want)
    closed = ~scattering.block_gate(jnp.asarray(s), 1.0, block_size=4)
    tokens = np.pad(np.asarray(scattering.token_gate(jnp.asarray(s), 1.0)), ((0, 0), (0, 1)))
    np.testing.assert_array_equal(closed, ~tokens.reshape(2, 3, 4).any(-1))


def test_gate_errors_name_the_argument(bare_errors):
    s = jnp.ones((2, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"score must have shape .*time, heads"):
        scattering.head_gate(s[0], 0.1)
    with pytest.raises(ValueError, match="reduce must be one of"):
        scattering.block_gate(s, 0.1, block_size=2, reduce="mean")
    with pytest.raises(ValueError, match="block_size must be >= 1"):
        scattering.block_gate(s, 0.1, block_size=0)
    with pytest.raises(TypeError, match="score must be a real floating"):
        scattering.token_gate(jnp.arange(3), 0.1)


def smallest_threshold(score, density):
    """The definition: a candidate is 0 or a product; count the pairs above each."""
    clean = np.where(score > 0, score, 0).astype(score.dtype)
    products = np.sort(np.outer(clean, clean).ravel())
    allowed = int(np.floor(density * products.size))
    for candidate in np.concatenate([np.zeros(1, score.dtype), products]):
        if np.sum(products > candidate) <= allowed:
            return candidate
    raise AssertionError


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", ["distinct", "ties", "zeros", "one"])
def test_threshold_is_the_smallest_that_fits(dtype, kind):
    s = lognormal(23).astype(dtype)
    if kind == "ties":
        s = np.round(s * 2) / 2
    if kind == "zeros":
        s[::3], s[1], s[2] = 0, np.nan, -1
    if kind == "one":
        s = s[:1]
    densities = np.array([0.0, 0.03, 0.25, 0.5, 0.9, 1.0])
    got = np.asarray(jax.jit(scattering.threshold_for_density)(s, densities))
    assert got.dtype == dtype
    for density, value in zip(densities, got, strict=True):
        assert value == smallest_threshold(s, float(density))


def test_share_is_met_to_the_pair_where_products_differ():
    s = lognormal((2, 1000))
    threshold = np.asarray(scattering.threshold_for_density(jnp.asarray(s), 0.25))
    for row, tau in zip(s, threshold, strict=True):
        passing = int((np.outer(row, row) > tau).sum())
        assert 250_000 - 1 <= passing <= 250_000  # off the diagonal pairs come in twos


def test_counts_beyond_32_bits():
    s = jnp.concatenate([jnp.full(60_000, 2.0), jnp.full(20_000, 1.0)]).astype(jnp.float32)
    share = 60_000**2 / 80_000**2  # 3.6e9 of 6.4e9 pairs have product 4
    assert float(scattering.threshold_for_density(s, share)) == 2.0
    assert float(scattering.threshold_for_density(s, share - 1e-9)) == 4.0


def test_threshold_for_density_under_jit_and_vmap():
    s = jnp.asarray(lognormal((3, 50)))
    want = scattering.threshold_for_density(s, 0.3)
    got = jax.jit(jax.vmap(lambda row, d: scattering.threshold_for_density(row, d)))(
        s, jnp.full(3, 0.3, jnp.float32)
    )
    np.testing.assert_array_equal(got, want)


def test_threshold_for_density_errors():
    with pytest.raises(ValueError, match=r"density must be in \[0, 1\]"):
        scattering.threshold_for_density(jnp.ones(3, jnp.float32), 1.5)
    with pytest.raises(ValueError, match="T = 0"):
        scattering.threshold_for_density(jnp.zeros((2, 0), jnp.float32), 0.5)
