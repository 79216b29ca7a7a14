"""Cached decoding of BK-Core: the same logits, fewer tokens stored, room that grows."""

import dataclasses
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bk_models import CONFIG, VARIANTS, apply, extend, init, lively, tokens

from physnet.models import bk_core

# Few programs for many tests: these, 40 tokens with `return_info`, and one layer of the first.
SPARSE = {
    name: dataclasses.replace(config, density=0.3, layers=1 + (name in ("both", "mixer")))
    for name, config in VARIANTS.items()
}
SHALLOW = dataclasses.replace(SPARSE["both"], layers=1)


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow if name != "both" else ()) for name in SPARSE],
)
def test_pieces_give_the_logits_of_the_whole(name):
    """And a token that no partner lets through is not stored."""
    config = SPARSE[name]
    params = lively(config)
    row = tokens(2, 40, seed=3)
    whole, info = apply(config, params, row, return_info=True)
    cache, pieces = bk_core.init_cache(config, 2, capacity=40), []
    for start, stop in itertools.pairwise((0, 38, 39, 40)):
        logits, cache = extend(config, params, row[:, start:stop], cache)
        pieces.append(logits)
    got = jnp.concatenate(pieces, 1)
    np.testing.assert_allclose(got, whole, atol=1e-5 * max(1, float(jnp.abs(whole).max())))
    assert int(cache.length) == 40
    if config.attention:
        only_tokens_with_partners_are_stored(config, params, info["score"], cache)


def only_tokens_with_partners_are_stored(config, params, score, cache):
    beyond = 40 - (config.local_window - 1)
    for index, layer in enumerate(cache.layers):
        threshold = params["layers"]["attention"]["threshold"][index][None, None]
        kept = np.asarray(score[index] > threshold)[:, :beyond]
        np.testing.assert_array_equal(layer.count, kept.sum(1))
        for n in range(config.heads):
            stored = np.asarray(layer.slots.position)[0, : int(layer.count[0, n]), n]
            np.testing.assert_array_equal(stored, np.flatnonzero(kept[0, :, n]))
        assert layer.ring.key.shape[1] == config.local_window - 1
    stored = sum(float(layer.count.mean()) for layer in cache.layers) / config.layers
    assert stored < 0.9 * beyond


def test_too_few_slots_show_as_nan_and_are_refused_where_known(bare_errors):
    params = init(CONFIG)  # uncalibrated: every token is kept
    row = tokens(1, 12)
    logits, cache = extend(CONFIG, params, row, bk_core.init_cache(CONFIG, 1, capacity=4))
    assert np.isnan(logits).all()
    with pytest.raises(ValueError, match="capacity must be at least the 10 tokens in use, got 4"):
        bk_core.fit_cache(cache, 4)
    with pytest.raises(ValueError, match=r"cache's batch size 1, got \(2, 12\)"):
        bk_core.extend(CONFIG, params, tokens(), cache)


def greedy(config, params, prompt, count):
    row = jnp.pad(prompt, ((0, 0), (0, count)))
    for t in range(prompt.shape[1], row.shape[1]):
        logits, _ = apply(config, params, row, return_info=True)
        row = row.at[:, t].set(jnp.argmax(logits[:, t - 1], -1).astype(row.dtype))
    return row[:, prompt.shape[1] :]


@pytest.mark.parametrize("name", ["both", "mixer"])
def test_greedy_text_is_that_of_the_uncached_model(name):
    config = SPARSE[name]
    params = lively(config)
    prompt = tokens(2, 5, seed=7)
    made = bk_core.generate(config, params, prompt, 35, key=jax.random.key(0), temperature=0.0)
    np.testing.assert_array_equal(made, greedy(config, params, prompt, 35))
    assert made.dtype == prompt.dtype


@pytest.mark.slow
def test_samples_depend_on_the_key_alone_not_on_how_the_cache_grows(monkeypatch):
    config = SHALLOW
    params = lively(config)
    prompt, key, other = tokens(2, 3), jax.random.key(5), jax.random.key(6)

    def sample(params, key):
        return bk_core.generate(config, params, prompt, 13, key=key)

    outside = sample(params, key)
    inside = jax.jit(jax.vmap(sample, in_axes=(None, 0)))(params, jnp.stack([key, other]))
    assert inside.shape == (2, 2, 13)
    np.testing.assert_array_equal(outside, inside[0])
    assert not np.array_equal(inside[1], outside)
    monkeypatch.setattr("physnet.models.bk_core._generate._SEGMENT", 4)
    np.testing.assert_array_equal(sample(params, key), outside)
    np.testing.assert_array_equal(sample(params, other), inside[1])


def test_bad_arguments_of_generate_are_named(bare_errors):
    params = init(CONFIG)
    key = jax.random.key(0)
    with pytest.raises(ValueError, match=r"at least one token, got \(1, 0\)"):
        bk_core.generate(CONFIG, params, tokens(1, 0), 3, key=key)
    with pytest.raises(ValueError, match="count must be >= 1, got 0"):
        bk_core.generate(CONFIG, params, tokens(), 0, key=key)
    with pytest.raises(ValueError, match=r"temperature must be >= 0, got -1"):
        bk_core.generate(CONFIG, params, tokens(), 3, key=key, temperature=-1.0)


@pytest.mark.slow
def test_long_sequences_over_blocks_are_causal_and_decode_alike():
    config = SHALLOW
    params = lively(config)
    row = tokens(1, 300, seed=2)  # more than 256: attention computes kept blocks only
    whole = apply(config, params, row)
    later = apply(config, params, row.at[:, 280:].set(5))
    np.testing.assert_array_equal(later[:, :280], whole[:, :280])
    _, cache = extend(config, params, row[:, :299], bk_core.init_cache(config, 1, capacity=300))
    last, _ = extend(config, params, row[:, 299:], cache)
    np.testing.assert_allclose(last[:, 0], whole[:, 299], atol=1e-5 * float(jnp.abs(whole).max()))


def test_bfloat16_decodes_near_its_own_forward(bare_errors):
    config = SHALLOW
    params = lively(config)
    row = tokens(2, 12, seed=4)
    whole = apply(config, params, row, dtype=jnp.bfloat16)
    cache = bk_core.init_cache(config, 2, capacity=12, dtype=jnp.bfloat16)
    _, cache = extend(config, params, row[:, :11], cache, dtype=jnp.bfloat16)
    last, cache = extend(config, params, row[:, 11:], cache, dtype=jnp.bfloat16)
    scale = float(jnp.abs(whole).max())
    assert np.median(np.abs(last[:, 0] - whole[:, 11])) < 0.02 * scale
    with pytest.raises(ValueError, match="dtype must be the cache's bfloat16, got float32"):
        bk_core.extend(config, params, row[:, 11:], cache)


def test_nan_logits_are_no_text(bare_errors):
    params = init(CONFIG)
    broken = params | {"norm": params["norm"] * jnp.nan}
    with pytest.raises(FloatingPointError, match="token at position 3 are NaN"):
        bk_core.generate(CONFIG, broken, tokens(1, 3), 4, key=jax.random.key(0))
    outside = tokens(1, 3).at[0, 1].set(11)  # V = 11
    with pytest.raises(FloatingPointError, match="token at position 3 are NaN"):
        bk_core.generate(CONFIG, params, outside, 4, key=jax.random.key(0))
