"""Protected slots: against a dense float64 code, and against other codes of the same size."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.fft import idct
from scipy.linalg import hadamard

from physnet import holography

KEY = jax.random.key(3)
K, N = 64, 128
LOST = np.random.default_rng(0).permutation(N) < N // 4
protect = jax.jit(holography.protect, static_argnames="rate")
recover = jax.jit(functools.partial(holography.recover, slots=K, return_info=True))


@functools.cache
def code(k=K, n=N, seed=3):
    """E, as protect applies it."""
    eye = np.eye(k, dtype=np.float32)
    return np.asarray(protect(eye, rate=k / n, key=jax.random.key(seed)), np.float64)


@functools.cache
def slots(k=K, d=6, seed=1):
    return np.float32(np.random.default_rng(seed).normal(size=(k, d)))


@pytest.mark.parametrize(("k", "n"), [(64, 128), (48, 96), (65, 130), (37, 74), (9, 9), (1, 2)])
def test_isometric_at_any_size_and_every_row_holds_a_part(k, n):
    matrix = code(k, n)
    assert matrix.shape == (n, k)
    np.testing.assert_allclose(matrix.T @ matrix, np.eye(k), atol=2e-6)
    assert n < 64 or np.abs(matrix).max() < 5 / np.sqrt(n)  # spread, as a random isometry's
    encoded = protect(slots(k), rate=k / n, key=KEY)
    np.testing.assert_allclose(encoded, matrix @ np.asarray(slots(k)), atol=1e-5)


@pytest.mark.parametrize("rate", [1.0, 0.7, 0.5, 0.3])
def test_the_size_is_the_rate(rate):
    made = jax.eval_shape(functools.partial(holography.protect, rate=rate, key=KEY), slots(21))
    assert made.shape == (-(-210 // (rate * 10)), 6)


def test_recovers_exactly_whatever_lies_in_lost_rows():
    coded = protect(slots(), key=KEY)
    spoilt = np.where(LOST[:, None], np.float32(np.nan), coded)
    found, rank, condition = recover(spoilt, LOST, key=KEY)
    np.testing.assert_allclose(found, slots(), atol=2e-5)
    values = np.linalg.svd(code()[~LOST], compute_uv=False)
    np.testing.assert_allclose(condition, values[0] / values[-1], rtol=1e-4)
    assert rank == K
    assert found.dtype == jnp.float32
    spoilt[np.flatnonzero(~LOST)[0], 2] = np.nan  # in a row that is left
    nan = np.isnan(np.asarray(recover(spoilt, LOST, key=KEY).slots))
    np.testing.assert_array_equal(nan.all(0), np.arange(6) == 2)
    assert nan.sum() == K


@pytest.mark.parametrize("left", [0, 1, 30, 63])
def test_too_few_survivors_give_the_shortest_explanation(left):
    lost = np.random.default_rng(5).permutation(N) >= left
    found, rank, condition = recover(protect(slots(), key=KEY), lost, key=KEY)
    rows = code()[~lost]
    np.testing.assert_allclose(found, np.linalg.pinv(rows) @ (rows @ slots()), atol=1e-3)
    assert rank == left
    assert condition == np.inf
    assert np.linalg.norm(found) < np.linalg.norm(slots())


def test_noise_is_the_damped_least_squares_and_helps_where_the_code_is_thin():
    lost = np.random.default_rng(6).permutation(N) >= 68
    rows = code()[~lost]
    error = 0.1 * np.random.default_rng(7).normal(size=(N, 6)).astype(np.float32)
    coded = np.asarray(protect(slots(), key=KEY)) + error
    damped, plain = (recover(coded, lost, key=KEY, noise=noise).slots for noise in (0.1, 0.0))
    normal = rows.T @ rows + 0.01 * np.eye(K)
    want = np.linalg.solve(normal, rows.T @ coded[~lost])
    np.testing.assert_allclose(damped, want, atol=1e-4)
    assert np.linalg.norm(damped - slots()) < 0.8 * np.linalg.norm(plain - slots())


def conditions(matrix, share, draws=40):
    """Condition numbers after that share of the rows is lost, at random."""
    left = round(len(matrix) * (1 - share))
    draw = (np.random.default_rng(s).permutation(len(matrix))[:left] for s in range(draws))
    return np.array([np.linalg.cond(matrix[rows]) for rows in draw])


def test_conditions_against_repetition_and_a_low_pass_code():
    """At n = 2 k = 128, a quarter and 40% lost."""
    ours = [np.median([conditions(code(seed=s), p, 8) for s in range(5)]) for p in (0.25, 0.4)]
    low_pass = [np.median(conditions(idct(np.eye(N), norm="ortho", axis=0)[:, :K], p))
                for p in (0.25, 0.4)]  # fmt: skip
    repeated = np.vstack([np.eye(K)] * 2) / np.sqrt(2)
    assert np.all(np.array(ours) < [3.7, 9]), ours
    assert np.all(np.array(low_pass) > [6, 50]), low_pass
    assert np.median(conditions(repeated, 0.25)) > 1e10


def smallest(matrix, left, draws):
    """Smallest singular values of that many rows, drawn at random."""
    draw = (np.random.default_rng(s).permutation(len(matrix))[:left] for s in range(draws))
    return np.array([np.linalg.svd(matrix[rows], compute_uv=False)[-1] for rows in draw])


@pytest.mark.parametrize(("k", "n"), [(16, 32), (64, 128)])
def test_just_enough_survivors_are_enough_as_for_a_random_isometry(k, n):
    """Random columns of one Hadamard matrix are singular on many sets of k rows, and of k + 2."""
    ours = np.concatenate([smallest(code(k, n, seed), k + 2, 10) for seed in range(6)])
    rng = np.random.default_rng(0)
    random = np.concatenate([
        smallest(np.linalg.qr(rng.normal(size=(n, k)))[0], k + 2, 10) for _ in range(6)
    ])  # fmt: skip
    columns = np.concatenate([
        smallest(hadamard(n)[:, rng.permutation(n)[:k]] / np.sqrt(n), k, 10) for _ in range(6)
    ])  # fmt: skip
    assert ours.min() > 0.2 * random.min() > 1e-4
    assert 0.7 < np.median(ours) / np.median(random) < 1.4
    assert np.mean(columns < 1e-9) > 0.05


def test_gradients_reach_what_is_left_alone():
    coded = protect(slots(), key=KEY)
    weights = np.float32(np.random.default_rng(8).normal(size=(K, 6)))

    def value(coded):
        return jnp.sum(weights * recover(coded, LOST, key=KEY).slots)

    gradient = np.asarray(jax.jit(jax.grad(value))(coded))
    assert not np.any(gradient[LOST])
    left = code()[~LOST]
    want = np.linalg.pinv(left).T @ np.asarray(weights, np.float64)
    np.testing.assert_allclose(gradient[~LOST], want, atol=1e-4)
    along = jax.jit(lambda x, v: jax.jvp(value, (x,), (v,))[1])
    forward = along(coded, gradient)  # linear: the square of the gradient
    np.testing.assert_allclose(forward, np.sum(gradient**2), rtol=1e-5)
    through = jax.jit(jax.grad(lambda x: jnp.sum(weights * protect(x, key=KEY)[:K])))(slots())
    np.testing.assert_allclose(through, code()[:K].T @ weights, atol=1e-5)


def test_gradients_under_jit_and_vmap_over_heads_and_losses():
    heads = np.stack([slots(8, 3, s) for s in range(6)]).reshape(2, 3, 8, 3)
    keys = jax.random.split(KEY, (2, 3))
    lost = np.random.default_rng(9).random((2, 3, 16)) < 0.3
    assert lost.sum(-1).min() >= 1

    def undone(x, mask, key):
        coded = jnp.where(mask[:, None], jnp.nan, holography.protect(x, key=key))
        return holography.recover(coded, mask, slots=8, key=key)

    @jax.jit
    @jax.vmap
    @jax.vmap
    def both(x, mask, key):
        found, back = jax.vjp(lambda x: undone(x, mask, key), x)
        return found, back(x)[0]

    found, slope = both(heads, lost, keys)
    np.testing.assert_allclose(found, heads, atol=1e-4)
    np.testing.assert_allclose(slope, heads, atol=1e-4)  # of the identity
    alone = jax.jit(undone)(heads[1, 2], lost[1, 2], keys[1, 2])
    np.testing.assert_allclose(np.asarray(found)[1, 2], alone, atol=1e-5)


def test_low_precision_in_low_precision_out():
    coded = protect(slots().astype(jnp.bfloat16), key=KEY)
    assert coded.dtype == jnp.bfloat16
    found = recover(coded, LOST, key=KEY).slots
    assert found.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(found, np.float32), slots(), atol=0.05)


def test_what_was_coded_in_double_may_be_stored_in_single():
    coded = np.asarray(protect(slots().astype(np.float64), key=KEY))
    assert coded.dtype == np.float64
    np.testing.assert_allclose(coded.T @ coded, slots().T @ slots(), rtol=1e-6, atol=1e-5)
    found = recover(coded.astype(np.float32), LOST, key=KEY).slots
    np.testing.assert_allclose(found, slots(), atol=2e-5)


def test_products_are_in_full_precision_on_every_device():
    both = jax.make_jaxpr(lambda x: recover(protect(x, key=KEY), LOST, key=KEY))(slots())
    assert str(both).count("dot_general[") == str(both).count("(Precision.HIGHEST") > 5


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda x, m: holography.protect(x, rate=0.0, key=KEY), ValueError, "rate .* got 0.0"),
        (lambda x, m: holography.protect(x, rate=1.5, key=KEY), ValueError, "rate .* got 1.5"),
        (lambda x, m: holography.protect(x, rate=np.nan, key=KEY), ValueError, "rate .* got nan"),
        (lambda x, m: holography.protect(x, rate="1", key=KEY), TypeError, "rate .* got '1'"),
        (lambda x, m: holography.protect(x[0], key=KEY), ValueError, r"slots .* got \(6,\)"),
        (lambda x, m: holography.protect(x > 0, key=KEY), TypeError, "slots .* got dtype bool"),
        (lambda x, m: holography.recover(x, m, slots=65, key=KEY), ValueError, "64 .* got 65"),
        (lambda x, m: holography.recover(x, m, slots=0, key=KEY), ValueError, "slots .* got 0"),
        (
            lambda x, m: holography.recover(x, m, slots=2, key=KEY, noise=-1.0),
            ValueError,
            "noise .* got -1.0",
        ),
        (lambda x, m: holography.recover(x, m[1:], slots=2, key=KEY), ValueError, r"got \(63,\)"),
        (lambda x, m: holography.recover(x, x[:, 0], slots=2, key=KEY), TypeError, "got .*float32"),
    ],
)
def test_errors_name_the_argument_and_what_came(call, error, words, bare_errors):
    with pytest.raises(error, match=words):
        call(jax.device_put(slots()), jax.device_put(LOST[:K]))
