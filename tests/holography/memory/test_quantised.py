"""Entries in 8, 4 and 2 bits: rounding, growth of errors over merges, training sees the same."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.holography import memory
from physnet.holography.memory import _packing

CONFIG = memory.Config(window=8, block=4, sinks=2, landmarks=6, per_level=2, levels=5)


def rows(seed=0, n=200, d=32, scale=1.0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(n, d)) * scale, jnp.float32)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e20])
def test_no_channel_errs_by_more_than_half_a_step_and_what_that_rounds(bits, scale):
    x = rows(scale=scale) + scale * 3
    found = _packing.unpack(_packing.pack(x, bits), bits, jnp.float32)
    span, low = np.ptp(np.asarray(x, float), axis=1), np.abs(np.asarray(x).min(1))
    step = span / (2**bits - 1) * (1 + 2.0**-8) + 1e-37
    assert (np.abs(found - x).max(1) <= 0.5 * step + 2.0**-9 * (1 + 2.0**-8) * (span + low)).all()
    assert np.abs(found - x).max() > 0


def test_two_bits_err_as_the_best_four_even_levels_do():
    x = rows(n=4000, d=64)
    found = _packing.unpack(_packing.pack(x, 2), 2, jnp.float32)
    relative = float(jnp.mean((found - x) ** 2) / jnp.mean(x**2))
    assert 0.105 < relative < 0.1188  # Max 1960, table of N = 4, and a fit for each row


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_codes_are_packed_without_gaps(bits):
    packed = _packing.pack(rows(n=5, d=16), bits)
    assert packed.codes.shape == (5, 16 * bits // 8)
    assert packed.codes.dtype == jnp.uint8
    flat = jnp.full((3, 8), 1.5, jnp.float32)
    found = _packing.unpack(_packing.pack(flat, bits), bits, jnp.float32)
    np.testing.assert_allclose(found, flat, rtol=1e-2)
    np.testing.assert_array_equal(_packing.rounded(flat, bits), found)
    grad = jax.grad(lambda x: jnp.sum(_packing.rounded(x, bits) * flat))(rows(n=3, d=8))
    np.testing.assert_array_equal(grad, flat)  # as if nothing were rounded


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_errors_over_twenty_levels(bits):
    """A merge halves the variance of two errors, and rounds again: e^2 <- e^2 / 2 + q^2.

    So it is while rows differ. Means of many rows that have something in common hardly do: they
    round alike, and errors add up, in 20 levels to 3 first roundings instead of the 20 that may be.
    Of rows that have nothing in common the mean shrinks, e with it, but slower.
    """
    run = jax.jit(lambda x: _packing.unpack(_packing.pack(x, bits), bits, jnp.float32))

    def rounded(x):
        return np.asarray(run(jnp.asarray(x, jnp.float32)), float)

    for shared in (1.0, 0.0):
        rng = np.random.default_rng(0)
        exact = shared * rng.normal(size=(1, 32)) + 0.3 * rng.normal(size=(512, 32))
        found = rounded(exact)
        errors = [np.sqrt(np.mean((found - exact) ** 2))]
        relative = [errors[0] / exact.std(1).mean()]
        for _ in range(20):
            other = rng.permutation(512)
            exact = 0.5 * (exact + exact[other])
            found = rounded(0.5 * (found + found[other]))
            errors.append(np.sqrt(np.mean((found - exact) ** 2)))
            relative.append(errors[-1] / exact.std(1).mean())
        assert max(errors[:5]) < 1.6 * errors[0]
        assert max(errors) < 3 * errors[0]
        if not shared:
            assert max(errors) < 1.3 * errors[0]
            assert max(relative) < 1.1 * 20**0.5 * relative[0]


@pytest.mark.parametrize("bits", [8, 2])
def test_training_form_sees_the_stored_codes(bits, optimized):
    config = dataclasses.replace(CONFIG, bits=bits)
    query, key, value = (rows(seed, n=150, d=8) for seed in range(3))
    score = jnp.asarray(np.random.default_rng(4).uniform(size=150), jnp.float32)
    held, streamed = jax.jit(
        lambda *x: jax.lax.scan(
            lambda held, x: (
                held := memory.append(held, *x[1:]),
                memory.attend(x[0], held),
            ),
            memory.init(None, 8, config=config),
            x,
        )
    )(query, key, value, score)
    whole = jax.jit(lambda *x: memory.attention(*x, config=config))(query, key, value, score)
    np.testing.assert_allclose(whole, streamed, atol=2e-6)
    exact = jax.jit(lambda *x: memory.attention(*x, config=CONFIG))(query, key, value, score)
    error = float(jnp.linalg.norm(whole - exact) / jnp.linalg.norm(exact))
    assert {8: 1e-4, 4: 1e-3, 2: 2e-2}[bits] < error < {8: 6e-3, 4: 0.08, 2: 0.5}[bits]
    small, large = held.nbytes, memory.init(None, 8, config=CONFIG).nbytes
    assert small < large


def test_gradients_are_those_of_the_rounded_entries():
    config = dataclasses.replace(CONFIG, bits=4)
    x = rows(n=60, d=8)
    score = jnp.full((60,), 0.5, jnp.float32)

    def loss(x, score, config):
        return jnp.sum(memory.attention(x, x, x, score, config=config) ** 2)

    rounded, exact = (
        jax.jit(jax.grad(loss, (0, 1)), static_argnums=2)(x, score, c) for c in (config, CONFIG)
    )
    for a, b in zip(rounded, exact, strict=True):
        assert np.isfinite(a).all()
        assert float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b)) < 0.2


@pytest.mark.parametrize(("landmarks", "levels"), [(0, 0), (3, 0), (0, 2)])
def test_parts_that_are_not_there(landmarks, levels):
    config = memory.Config(
        window=0, block=2, sinks=1, landmarks=landmarks, per_level=2, levels=levels, bits=4
    )
    x = rows(n=11, d=8)
    held, y = memory.init(None, 8, config=config), []
    for row in x:
        held = memory.append(held, row, row)
        y.append(memory.attend(row, held))
    np.testing.assert_allclose(
        memory.attention(x, x, x, config=config), jnp.stack(y), rtol=1e-5, atol=1e-5
    )
    found = memory.slots(held).level[memory.slots(held).mass > 0]
    assert [int(jnp.sum(found == n)) for n in (-3, -2, -1)] == [1, min(landmarks, 9), 1]
    assert bool(jnp.any(found >= 0)) == (levels > 0)


def test_channels_that_fill_no_byte_are_refused(bare_errors):
    config, x = dataclasses.replace(CONFIG, bits=2), rows(n=3, d=6)
    for call in (
        lambda: memory.init(None, 6, config=config),
        lambda: memory.attention(x, x, x, config=config),
    ):
        with pytest.raises(
            ValueError, match="bits=2 needs channels that are a multiple of 4, got 6"
        ):
            call()
