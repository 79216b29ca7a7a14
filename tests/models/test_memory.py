"""Models whose heads attend through a boundary memory: forward, training, decoding."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bk_models import CONFIG, apply, extend, init, lively, tokens

from physnet.holography import memory
from physnet.models import bk_core, transformer

SMALL = memory.Config(window=4, block=2, sinks=2, landmarks=3, per_level=2, levels=3)
BK = dataclasses.replace(CONFIG, layers=1, memory=SMALL)
PLAIN = transformer.TransformerConfig(
    vocab_size=11, layers=1, heads=2, width=8, context=40, memory=SMALL
)


def plain_params():
    params = jax.jit(transformer.init, static_argnums=0)(PLAIN, jax.random.key(0))
    return jax.tree.map(lambda x: 5 * np.asarray(x), params)  # attention that is not uniform


plain_apply = jax.jit(transformer.apply, static_argnums=0, static_argnames="return_info")
plain_extend = jax.jit(transformer.extend, static_argnums=0)
MODELS = {
    "bk_core": lambda: (BK, lively(BK), apply, extend, bk_core.init_cache),
    "transformer": lambda: (
        PLAIN,
        plain_params(),
        plain_apply,
        plain_extend,
        transformer.init_cache,
    ),
}
models = pytest.mark.parametrize("name", MODELS)


@pytest.mark.slow
@models
def test_pieces_give_the_logits_of_the_whole(name):
    config, params, apply, extend, init_cache = MODELS[name]()
    row = tokens(2, 40, seed=3)
    whole, info = apply(config, params, row, return_info=True)
    cache, pieces = init_cache(config, 2, 40), []
    size = sum(x.nbytes for x in jax.tree.leaves(cache))
    for start, stop in itertools.pairwise((0, 38, 39, 40)):
        logits, cache = extend(config, params, row[:, start:stop], cache)
        pieces.append(logits)
    got = jnp.concatenate(pieces, 1)
    np.testing.assert_allclose(got, whole, atol=1e-5 * max(1, float(jnp.abs(whole).max())))
    assert int(cache.length) == 40
    assert sum(x.nbytes for x in jax.tree.leaves(cache)) == size
    assert 0.3 < float(info["kept_pairs"]) < 0.8
    dense, _ = apply(dataclasses.replace(config, memory=None), params, row, return_info=True)
    assert float(jnp.abs(dense - whole).max()) > 1e-3  # it is another attention


@pytest.mark.slow
def test_with_quantised_entries_and_a_reversible_stack():
    own = dataclasses.replace(SMALL, bits=4)
    config = dataclasses.replace(BK, layers=2, reversible=True, memory=own)
    params, row = lively(config), tokens(2, 20, seed=3)
    whole, _ = apply(config, params, row, return_info=True)
    start, cache = extend(config, params, row[:, :10], bk_core.init_cache(config, 2, 20))
    end, _ = extend(config, params, row[:, 10:], cache)
    np.testing.assert_allclose(jnp.concatenate([start, end], 1), whole, atol=3e-5)


@models
def test_no_logit_depends_on_a_later_token(name):
    config, params, apply, *_ = MODELS[name]()
    row = tokens(2, 40, seed=3)
    whole, _ = apply(config, params, row, return_info=True)
    later, _ = apply(config, params, row.at[:, 23].set(5), return_info=True)
    np.testing.assert_array_equal(later[:, :23], whole[:, :23])
    assert float(jnp.abs(later[:, 39] - whole[:, 39]).max()) > 0


@pytest.mark.slow
@models
def test_it_trains(name):
    config, params, apply, *_ = MODELS[name]()
    row = tokens(2, 40, seed=3)

    def loss(params):
        logits = apply(config, params, row[:, :-1])
        return jnp.mean(
            optax.softmax_cross_entropy_with_integer_labels(logits, row[:, 1:].astype(jnp.int32))
        )

    step = jax.jit(jax.value_and_grad(loss))
    found, grads = step(params)
    if name == "bk_core":  # through the masses: with no other path the potential has a gradient
        alone = jax.tree.map(lambda x: float(np.abs(x).max()), grads["layers"]["mixer"])
        assert all(value > 0 for value in jax.tree.leaves(alone))
        for constant in ("ceiling", "threshold"):
            assert not np.any(grads["layers"]["attention"][constant])
    for _ in range(2):
        params = jax.tree.map(lambda x, g: np.asarray(x) - np.float32(0.02) * g, params, grads)
        before, (found, grads) = found, step(params)
        assert float(found) < float(before)


def test_tokens_under_the_threshold_go_straight_to_the_levels():
    params = lively(BK)
    row = tokens(2, 40, seed=3)
    score = apply(BK, params, row, return_info=True)[1]["score"][0]  # (B, T, N)
    _, cache = extend(BK, params, row, bk_core.init_cache(BK, 2, 40))
    held = jax.tree.map(np.asarray, cache.layers[0].memory)
    score, slots = np.asarray(score), jax.jit(memory.slots)
    threshold = np.asarray(params["layers"]["attention"]["threshold"])[0]
    assert 0.1 < np.mean(score > threshold[None, None]) < 0.9
    for b, n in itertools.product(range(2), range(2)):
        one = jax.tree.map(lambda x, b=b, n=n: x[b, n], (held.near, held.far))
        found = jax.tree.map(np.asarray, slots(memory.Memory(held.count, *one, held.config)))
        landmarks = (found.level == -2) & (found.mass > 0)
        assert (found.mass[landmarks] > threshold[n]).all()
        gone = score[b, 2:34, n]  # neither sinks nor window
        able = np.sort(gone[gone > float(threshold[n])])[::-1][:3]
        np.testing.assert_allclose(found.mass[landmarks], able, rtol=1e-5)
        np.testing.assert_allclose(np.sum(found.mass), np.sum(score[b, :, n]), rtol=1e-5)


def test_greedy_text_is_that_of_the_uncached_model():
    params, prompt = lively(BK), tokens(2, 5, seed=7)
    made = bk_core.generate(BK, params, prompt, 35, key=jax.random.key(0), temperature=0.0)
    row = np.pad(prompt, ((0, 0), (0, 35)))
    for t in range(5, 40):
        logits, _ = apply(BK, params, row, return_info=True)
        row[:, t] = np.argmax(np.asarray(logits)[:, t - 1], -1)
    np.testing.assert_array_equal(made, row[:, 5:])


def test_parameters_are_those_without():
    shapes = jax.eval_shape(lambda: bk_core.init(BK, jax.random.key(0)))
    plain = init(dataclasses.replace(CONFIG, layers=1))
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, plain)
    assert hash(BK) == hash(dataclasses.replace(BK))


def test_what_does_not_go_with_a_memory_is_refused(bare_errors):
    for change, why in (
        ({"soft_gate": True}, "soft_gate must be False"),
        ({"attention": False}, "memory is for attention"),
    ):
        with pytest.raises(ValueError, match=why):
            dataclasses.replace(BK, **change)
    with pytest.raises(ValueError, match=r"config.memory must be None"):
        jax.eval_shape(functools.partial(bk_core.pairs, BK), lively(BK), tokens())
    by_cudnn = functools.partial(transformer.apply, PLAIN, implementation="cudnn")
    with pytest.raises(NotImplementedError, match="'cudnn'"):
        jax.eval_shape(by_cudnn, plain_params(), tokens())
    on_a_gpu = functools.partial(bk_core.apply, BK, implementation="mosaic_gpu")
    with pytest.raises(NotImplementedError, match="mosaic_gpu"):
        jax.eval_shape(on_a_gpu, lively(BK), tokens())
