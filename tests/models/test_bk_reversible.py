"""BK-Core in two halves that rebuild their stream: values, gradients and memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.models import bk_core

SIZES = {"vocab_size": 11, "layers": 2, "heads": 2, "width": 16, "chains": 4, "local_window": 3}
CONFIG = bk_core.BKCoreConfig(**SIZES, reversible=True)
TOKENS = jax.random.randint(jax.random.key(1), (2, 12), 0, 11)
CHANGES = {
    "attention and dropout": {"dropout": 0.2},
    "experts": {"attention": False, "experts": 3},
}


apply = jax.jit(bk_core.apply, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def start(config):
    params = bk_core.init(config, jax.random.key(0))
    params = jax.tree.map(lambda x: x * 4 if x.ndim > 2 else x, params)  # blocks that do something
    return bk_core.calibrate(config, params, TOKENS)


@functools.cache
def model(**change):
    config = dataclasses.replace(CONFIG, **change)
    return config, start(config)


@functools.partial(jax.jit, static_argnums=(0, 4), static_argnames="dtype")
def value_and_gradient(config, params, tokens, key=None, stored=False, dtype=jnp.float32):
    """`stored`: what apply does where it reports, by blocks that keep their activations."""

    def loss(params):
        found = bk_core.apply(config, params, tokens, key=key, return_info=stored, dtype=dtype)
        logits = found[0] if stored else found
        return jnp.mean(jnp.sin(logits)), logits

    with jax.default_matmul_precision("float32"):  # GPUs round operands to 10 bits by default
        return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.parametrize(
    "name", ["attention and dropout", pytest.param("experts", marks=pytest.mark.slow)]
)
def test_values_and_gradients_are_those_of_stored_activations(name):
    config, params = model(**CHANGES[name])
    key = jax.random.key(3) if config.dropout else None
    (_, found), gradient = value_and_gradient(config, params, TOKENS, key)
    (_, wanted), stored = value_and_gradient(config, params, TOKENS, key, True)
    np.testing.assert_allclose(found, wanted, atol=2e-4)
    assert np.abs(wanted).max() > 0.1
    for ours, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(stored), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=5e-4 * float(np.abs(theirs).max()) + 1e-7)


@pytest.mark.slow
def test_sixteen_bits():
    config, params = model()
    (_, logits), gradient = value_and_gradient(config, params, TOKENS, dtype=jnp.bfloat16)
    (_, wanted), _ = value_and_gradient(config, params, TOKENS)
    np.testing.assert_allclose(logits, wanted, atol=0.1 * float(np.abs(wanted).max()))
    assert all(np.isfinite(np.asarray(g)).all() for g in jax.tree.leaves(gradient))


def test_a_later_token_moves_no_earlier_logit():
    config, params = model()
    before, after = (apply(config, params, t) for t in (TOKENS, TOKENS.at[:, 8].set(0)))
    np.testing.assert_array_equal(before[:, :8], after[:, :8])
    assert (before[:, 8:] != after[:, 8:]).any()


def test_decoding_gives_the_same_logits():
    config, params = model()
    extend = jax.jit(bk_core.extend, static_argnums=0)
    cache = bk_core.init_cache(config, 2, capacity=12)
    first, cache = extend(config, params, TOKENS[:, :6], cache)
    second, cache = extend(config, params, TOKENS[:, 6:], cache)
    whole = apply(config, params, TOKENS)
    np.testing.assert_allclose(jnp.concatenate([first, second], 1), whole, atol=2e-4)


def test_what_the_lattice_cannot_hold_gives_nan():
    config, params = model()
    wanted = np.zeros(TOKENS.shape, bool)
    for tokens in (TOKENS, TOKENS.at[0, 5].set(11)):  # the second has a token that is none
        np.testing.assert_array_equal(np.isnan(apply(config, params, tokens)).any(-1), wanted)
        wanted[0, 5:] = True
    layers = params["layers"]
    for factor in (jnp.nan, 1e5):  # the first is met on the way, the second leads beyond 512
        mlp = layers["mlp"] | {"down": layers["mlp"]["down"].at[0].multiply(factor)}
        found = apply(config, params | {"layers": layers | {"mlp": mlp}}, TOKENS)
        assert np.isnan(found).all()


@pytest.mark.slow
def test_gradients_can_jump_too_and_blocks_can_be_probed():
    config, params = model()
    plain = value_and_gradient(config, params, TOKENS)[1]
    jumping = dataclasses.replace(config, teleport=0.1, teleport_mode="gated")
    (_, logits), jumped = value_and_gradient(jumping, params, TOKENS)
    np.testing.assert_allclose(logits, value_and_gradient(config, params, TOKENS)[0][1], atol=2e-4)
    weights = [g["layers"]["mlp"]["up"] for g in (plain, jumped)]
    assert jnp.abs(weights[0] - weights[1]).max() > 1e-3 * jnp.abs(weights[0]).max()
    probe = functools.partial(bk_core.probe_layers, config, key=jax.random.key(2), probes=2)
    assert jax.jit(probe)(params, TOKENS).rho.shape == (2, 2)
    penalty = functools.partial(bk_core.isometry_penalty, config, key=jax.random.key(2))
    assert jax.jit(penalty)(params, TOKENS) > 0


@pytest.mark.slow
def test_memory_does_not_grow_with_depth():
    def temporary(layers, reversible):
        sizes = SIZES | {"layers": layers, "reversible": reversible, "attention": False}
        config = bk_core.BKCoreConfig(**sizes)
        params = jax.eval_shape(lambda: bk_core.init(config, jax.random.key(0)))
        tokens = jax.ShapeDtypeStruct((16, 64), jnp.int32)
        run = jax.jit(
            jax.grad(lambda params, tokens: jnp.mean(bk_core.apply(config, params, tokens)))
        )
        return run.lower(params, tokens).compile().memory_analysis().temp_size_in_bytes

    few = temporary(2, True)
    assert temporary(6, True) < 1.1 * few
    assert temporary(3, False) > 1.5 * few
