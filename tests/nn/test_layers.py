"""The small pieces: rotary positions, norms, products, dropout; and the layers' own errors."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from physnet import greens, holography
from physnet.nn import ResolventMixer, attention, layers, memory, mixer


def normal(seed, shape, dtype=jnp.float32):
    return jax.device_put(np.random.default_rng(seed).normal(size=shape).astype(dtype))


rotary = jax.jit(layers.rotary, static_argnames="base")


def test_rotated_products_depend_on_the_distance_alone():
    q, k = normal(0, (1, 3, 8)), normal(1, (1, 3, 8))
    place = lambda x, t: np.asarray(rotary(x, np.array([t], np.int32)))  # noqa: E731
    one = np.sum(place(q, 11) * place(k, 4), -1)
    other = np.sum(place(q, 107) * place(k, 100), -1)
    np.testing.assert_allclose(one, other, rtol=1e-4)
    assert not np.allclose(one, np.sum(place(q, 11) * place(k, 5), -1), rtol=1e-3)
    np.testing.assert_array_equal(place(q, 0), q)
    np.testing.assert_allclose(np.linalg.norm(place(q, 9)), np.linalg.norm(q), rtol=1e-6)


def test_rotary_turns_each_pair_by_its_own_rate():
    x = normal(0, (2, 1, 6))
    wide = np.asarray(x, np.float64)
    wave = wide[..., :3] + 1j * wide[..., 3:]
    turn = np.exp(1j * np.arange(2)[:, None, None] * 50.0 ** (-np.arange(3) / 3))
    expected = np.concatenate([(wave * turn).real, (wave * turn).imag], -1)
    got = rotary(x, np.arange(2, dtype=np.int32), base=50.0)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_rms_norm_and_linear_against_numpy():
    x, w = normal(0, (2, 5, 4)), normal(1, (4, 3))
    wide = np.asarray(x, np.float64)
    scale, rms_norm = np.arange(1.0, 5.0, dtype=np.float32), jax.jit(layers.rms_norm)
    expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * np.arange(1, 5)
    np.testing.assert_allclose(rms_norm(x, scale=scale), expected, rtol=1e-5)
    linear = jax.jit(layers.linear)
    np.testing.assert_allclose(linear(x, w), wide @ np.asarray(w, np.float64), atol=1e-5)
    assert rms_norm(np.asarray(x).astype(jnp.bfloat16)).dtype == jnp.bfloat16
    slope = jax.jit(jax.grad(lambda x: layers.rms_norm(x).sum()))
    assert np.isfinite(slope(np.zeros((4,)))).all()


@pytest.mark.parametrize("members", [None, 3])
def test_the_gradient_of_a_weight_in_16_bits_is_added_in_float32(members):
    """One after another, ones in bfloat16 add up to no more than 256."""

    def loss(w, x):
        return layers.linear(x, w).sum(dtype=jnp.float32)

    slope, lead = jax.grad(loss), ()
    if members:
        slope, lead = jax.vmap(slope), (members,)
    x, w = jnp.ones((*lead, 4, 1000, 8), jnp.bfloat16), jnp.ones((*lead, 8, 3), jnp.float32)
    np.testing.assert_array_equal(jax.jit(slope)(w, x), np.full(w.shape, 4000))


def test_dropout_keeps_the_mean_and_its_sites_are_independent():
    x = jnp.ones((400, 50), jnp.float32)
    drop = layers.dropout(0.25, jax.random.key(0))
    one, other = drop(x, 0), drop(x, 1)
    np.testing.assert_allclose(one.mean(), 1.0, atol=0.02)
    assert set(np.unique(one)) == {0.0, np.float32(1 / 0.75)}
    assert abs(np.corrcoef(np.ravel(one), np.ravel(other))[0, 1]) < 0.03
    np.testing.assert_array_equal(layers.dropout(0.25, None)(x, 0), x)


def test_a_mixer_forgets_nothing_but_sees_no_later_token():
    params = jax.jit(lambda key: mixer.init(key, 16, heads=4))(jax.random.key(0))
    run = jax.jit(lambda x: mixer.apply(params, x))
    x = normal(1, (2, 9, 16))
    moved = np.array(x)
    moved[:, 5] += 1.0
    before, after = (jax.tree.map(np.asarray, run(given)) for given in (x, moved))
    for one, other in zip(before[:2], after[:2], strict=True):
        np.testing.assert_array_equal(one[:, :5], other[:, :5])
        assert np.all(np.any(one[:, 5:] != other[:, 5:], -1))
    assert 0 <= float(before.openness.min()) <= float(before.openness.max()) <= 1


def test_sizes_that_do_not_fit_are_named(bare_errors):
    with pytest.raises(ValueError, match=r"width must be a multiple of 2 \* heads = 12, got 16"):
        mixer.init(jax.random.key(0), 16, heads=6)
    with pytest.raises(ValueError, match=r"width must be a multiple of 2 \* heads = 6, got 16"):
        attention.init(jax.random.key(0), 16, heads=3)
    with pytest.raises(ValueError, match="groups must divide the width 6, got 4"):
        ResolventMixer(6, heads=3, rngs=nnx.Rngs(0))
    params = jax.eval_shape(lambda: mixer.init(jax.random.key(0), 16, heads=4))
    for shape in ((0, 16), (3, 15)):
        with pytest.raises(ValueError, match=r"x must have shape \(\.\.\., T >= 1, 16\)"):
            mixer.apply(params, jnp.ones(shape))
    init = jax.jit(lambda key: attention.init(key, 16, heads=2))
    gate, openness = init(jax.random.key(0)), jnp.ones((1, 4, 3))
    with pytest.raises(ValueError, match=r"multiple of the 2 heads, got .*4, 3"):
        attention.score(gate, openness)
    for density in (-1.0, 2.0, float("nan")):
        with pytest.raises(ValueError, match=r"density must be in \[0, 1\], got"):
            attention.calibrate(gate, jnp.ones((1, 4, 4)), density=density, local_window=2)


def test_arguments_of_pieces_that_do_not_fit_are_named(bare_errors):
    one, key = jnp.ones, jax.random.key(0)
    gated = jax.jit(lambda key: attention.init(key, 16, heads=2, soft_gate=True))(key)
    mixing = jax.jit(lambda key: mixer.init(key, 16, heads=4))(key)
    x, score, time = one((1, 3, 16)), one((1, 3, 2)), jnp.arange(3)
    parts = attention.Projected(*3 * (one((1, 3, 2, 8)),))
    config = holography.memory.Config(window=2, block=2, sinks=0, landmarks=0, levels=1)
    held = memory.init(config, batch=1, heads=2, head_dim=8)
    behind = greens.PropagateState(*(jnp.zeros((1, 4, *each), complex) for each in ((), (2,))))
    decode = lambda held, *x: (x[0], held)  # noqa: E731
    cases = [
        (lambda: layers.linear(x, one((15, 4))), "and (I, O), got (1, 3, 16) and (15, 4)"),
        (lambda: layers.rms_norm(x, scale=one(15)), "scale must have shape (16,), got (15,)"),
        (lambda: layers.rotary(one((3, 1, 5)), time), "an even D >= 2, got (3, 1, 5)"),
        (lambda: layers.rotary(one((4, 1, 6)), time), "position must have shape (4,), got (3,)"),
        (lambda: layers.rotary(one((3, 1, 6)), time, base=0.0), "base must be positive and finite"),
        (lambda: layers.dropout(1.0, key), "rate must be in [0, 1), got 1.0"),
        (lambda: attention.score(gated, one((3, 4))), "openness must have shape (B, T, H)"),
        (lambda: attention.apply(gated, x, one((1, 3))), "score must have shape (1, 3, 2)"),
        (
            lambda: attention.project(gated, x, time, rotary_base=-1.0),
            "rotary_base must be positive and finite, got -1.0",
        ),
        (
            lambda: attention.softened(gated, parts, one((1, 4, 2))),
            "key_score must have shape (1, 3, 2), got (1, 4, 2)",
        ),
        (
            lambda: attention.softened(gated, parts._replace(value=one((1, 4, 2, 8))), score),
            "key and value (B, S, N, D), got (1, 3, 2, 8), (1, 3, 2, 8) and (1, 4, 2, 8)",
        ),
        (lambda: memory.apply(gated, x, one((1, 3)), config=config), "score must have shape"),
        (lambda: memory.extend(gated, one((2, 3, 16)), one((2, 3, 2)), held), "held must be of"),
        (lambda: memory.over_heads(decode, held, one((2, 2, 3, 8))), "args[0] must have shape (1"),
        (lambda: memory.over_heads(decode, held), "args must be at least one array"),
        (
            lambda: memory.over_heads(decode, holography.memory.init(None, 8, config=config), x),
            "held must have axes of batch and heads",
        ),
        (
            lambda: mixer.apply(mixing, one((2, 3, 16)), state=behind),
            "state.green must have shape (2, 4), got (1, 4)",
        ),
    ]
    for call, said in cases:
        with pytest.raises(ValueError, match=re.escape(said)):
            call()


def test_calls_outside_jit_compile_attention_through_a_memory_once(caplog):
    config = holography.memory.Config(window=2, block=2, sinks=0, landmarks=0, levels=1)
    params = jax.jit(lambda key: attention.init(key, 8, heads=2))(jax.random.key(0))
    held = memory.init(config, batch=1, heads=2, head_dim=4)
    seen = []
    with jax.log_compiles(), caplog.at_level("WARNING"):
        for _ in range(2):
            caplog.clear()
            _, held = memory.extend(params, jnp.ones((1, 1, 8)), jnp.ones((1, 1, 2)), held)
            seen.append(sum("Compiling" in line for line in caplog.messages))
    assert seen[0] > 0
    assert seen[1] == 0
