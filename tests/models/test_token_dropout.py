"""Replaced tokens: how many, by what, in training alone, the same in both models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.models import _tokens, bk_core, transformer

MODELS = {
    "bk": (bk_core, bk_core.BKCoreConfig(7, layers=1, heads=1, width=8, chains=1)),
    "transformer": (transformer, transformer.TransformerConfig(7, 1, 1, 8, context=32)),
}


def test_a_share_of_tokens_is_replaced_by_any_other():
    tokens = jnp.full((64, 100), 3, jnp.int32)
    found = np.asarray(_tokens.replace(0.3, jax.random.key(1), tokens, 5))
    assert found.dtype == np.int32
    assert abs((found != 3).mean() - 0.3 * 4 / 5) < 0.02  # 6,400 tokens: 3.7 deviations
    others = np.bincount(found[found != 3], minlength=5) / (found != 3).sum()
    np.testing.assert_allclose(others, [0.25, 0.25, 0.25, 0, 0.25], atol=0.04)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_a_model_reads_the_replaced_tokens(name):
    module, config = MODELS[name]
    config = dataclasses.replace(config, token_dropout=0.5)
    params = module.init(config, jax.random.key(0))
    tokens = jnp.arange(7, dtype=jnp.int32)[None]
    key = jax.random.key(3)
    read = _tokens.replace(0.5, key, tokens, 7)
    assert (read != tokens).any()
    apply = jax.jit(lambda tokens, key=None: module.apply(config, params, tokens, key=key))
    np.testing.assert_allclose(apply(tokens, key), apply(read), atol=1e-6)
    assert not np.allclose(apply(tokens), apply(read), atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_rates_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match="token_dropout must be in"):
        dataclasses.replace(MODELS[name][1], token_dropout=1.0)
