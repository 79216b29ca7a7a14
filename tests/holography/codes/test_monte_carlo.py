"""Rates and thresholds: closed forms, determinism, published figures within their errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.holography import codes

FIVE = codes.happy_code("pentagon", 0)
KEY = jax.random.key(0)


@pytest.mark.parametrize("decoder", ["optimal", "greedy"])
def test_five_qubits_in_closed_form(decoder):
    p = jnp.array([[0.1, 0.3], [0.5, 0.8]], jnp.float32)
    rate, error = codes.erasure_recovery(
        FIVE, p, key=KEY, samples=4000, decoder=decoder, return_error=True
    )
    q = np.asarray(p, np.float64)
    exact = (1 - q) ** 5 + 5 * q * (1 - q) ** 4 + 10 * q**2 * (1 - q) ** 3
    assert rate.shape == error.shape == (2, 2)
    assert rate.dtype == error.dtype == jnp.float32
    assert np.all(np.abs(np.asarray(rate) - exact) < 4 * np.asarray(error))
    np.testing.assert_allclose(error, np.sqrt(exact * (1 - exact) / 4000), rtol=0.3)


def test_certain_outcomes_have_an_error_too():
    rate, error = codes.erasure_recovery(FIVE, 0.0, key=KEY, samples=100, return_error=True)
    assert rate == 1
    assert 0.005 < error < 0.02
    rate, error = codes.erasure_recovery(
        FIVE, jnp.array([0, 1], jnp.float32), key=KEY, samples=1, return_error=True
    )
    assert rate.tolist() == [1, 0]
    assert jnp.all((error > 0.3) & (error < 0.5))


@pytest.mark.parametrize("decoder", ["optimal", "greedy"])
def test_one_key_one_answer_and_the_curve_is_that_of_the_tolerances(decoder):
    code = codes.happy_code("pentagon", 1)
    options = {"samples": 700, "decoder": decoder}
    found = codes.erasure_tolerance(code, key=KEY, **options)
    assert found.shape == (700,)
    np.testing.assert_array_equal(found, codes.erasure_tolerance(code, key=KEY, **options))
    other = codes.erasure_tolerance(code, key=jax.random.key(1), **options)
    assert len(np.intersect1d(found, other)) < 10
    p = jnp.linspace(0, 1, 11, dtype=jnp.float32)
    rates = codes.erasure_recovery(code, p, key=KEY, **options)
    np.testing.assert_allclose(rates, [np.mean(found >= x) for x in p], atol=1e-6)
    assert np.all(np.diff(rates) <= 0)


def test_both_decoders_see_the_same_losses():
    code = codes.happy_code("single-qubit", 1)
    greedy, optimal = (
        codes.erasure_tolerance(code, key=KEY, samples=300, decoder=d)
        for d in ("greedy", "optimal")
    )
    assert np.all(greedy <= optimal)
    assert np.mean(greedy == optimal) > 0.3


def test_single_qubit_half_of_all_at_one_half():
    """Exactly one of lost and left has the logical qubit, so that the rate at 1/2 is 1/2."""
    for layers in (1, 2):
        code = codes.happy_code("single-qubit", layers)
        rate = codes.erasure_recovery(code, 0.5, key=KEY, samples=2000)
        assert abs(float(rate) - 0.5) < 4 * 0.5 / np.sqrt(2000)


@pytest.mark.parametrize(("kind", "layers", "expected"), [
    ("pentagon-hexagon", (2, 4), 0.275),  # ends in pentagons
    ("pentagon-hexagon", (3, 5), 0.34),  # ends in hexagons
    ("single-qubit", (2, 4), 0.47),
])  # fmt: skip
def test_greedy_thresholds(kind, layers, expected):
    family = [codes.happy_code(kind, n) for n in layers]
    found = codes.erasure_threshold(family, key=KEY, samples=1000, decoder="greedy")
    assert found.probability.shape == found.error.shape == found.gain.shape == (1,)
    assert abs(found.probability[0] - expected) < 0.008
    assert 1e-4 < found.error[0] < 0.005
    assert found.gain[0] > 4


def test_pentagons_gain_nothing_by_size():
    family = [codes.happy_code("pentagon", n) for n in (2, 3, 5)]
    found = codes.erasure_threshold(family, key=KEY, samples=1000, decoder="greedy")
    assert np.all(found.gain < 3)
    rates = [codes.erasure_recovery(code, 0.15, key=KEY, samples=1000, decoder="greedy")
             for code in family]  # fmt: skip
    assert rates[0] - 0.03 > rates[1] > rates[2] + 0.2


def test_a_crossing_of_known_curves():
    """Tolerances uniform in (0.2, 0.6) and in (0.3, 0.5) cross at 0.4."""
    from physnet.holography.codes._monte_carlo import _crossings

    wide, narrow = jax.random.uniform(KEY, (2, 5000), jnp.float32) * 2 - 1
    found = jnp.stack([0.4 + 0.2 * wide, 0.4 + 0.1 * narrow])
    at, error, gain = _crossings(found, KEY)
    assert abs(at[0] - 0.4) < 4 * error[0] < 0.02
    np.testing.assert_allclose(gain[0], 0.025 / np.sqrt(1 / 75 / 4 / 5000), rtol=0.4)
    back, _, none = _crossings(found[::-1] * 0 + jnp.array([[0.5], [0.3]], jnp.float32), KEY)
    assert back[0] == none[0] == 0


@pytest.mark.parametrize(("call", "error", "words"), [
    (lambda: codes.erasure_tolerance(FIVE, key=KEY, samples=0), ValueError, "samples .* got 0"),
    (lambda: codes.erasure_recovery(FIVE, 0.1, key=KEY, samples=2, decoder="x"), ValueError, "'x'"),
    (lambda: codes.erasure_recovery(FIVE, 1.1, key=KEY, samples=2), ValueError, "lity .* got 1.1"),
    (lambda: codes.erasure_recovery(FIVE, [0.1, np.nan], key=KEY, samples=2), ValueError, "nan"),
    (lambda: codes.erasure_threshold([FIVE] * 2, key=KEY, samples=1), ValueError, "samples .* 1"),
    (lambda: codes.erasure_threshold([FIVE], key=KEY, samples=2), ValueError, "codes .* got 1"),
])  # fmt: skip
def test_errors(call, error, words, bare_errors):
    with pytest.raises(error, match=words):
        call()
