"""Hidden tokens: how many, whole, in training alone, the same in both models."""

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


def test_a_share_of_whole_tokens_is_zero():
    x = 1.0 + jax.random.uniform(jax.random.key(0), (64, 100, 3))
    hidden = np.asarray(_tokens.hide(0.3, jax.random.key(1), x))
    gone = (hidden == 0).all(-1)
    assert abs(gone.mean() - 0.3) < 0.02  # 6,400 tokens: 3.5 deviations
    assert (hidden[~gone] == np.asarray(x)[~gone]).all()


@pytest.mark.parametrize("name", MODELS)
def test_a_hidden_token_is_as_if_its_embedding_were_zero(name, monkeypatch):
    module, config = MODELS[name]
    config = dataclasses.replace(config, token_dropout=0.5)
    params = module.init(config, jax.random.key(0))
    tokens = jnp.arange(7, dtype=jnp.int32)[None]  # each once, so that a row is a token
    key = jax.random.key(3)
    kept = _tokens.hide(0.5, key, jnp.ones((1, 7, 1)))[0] > 0
    assert 0 < kept.sum() < 7
    apply = jax.jit(lambda p, key=None: module.apply(config, p, tokens, key=key))
    found, whole = apply(params, key), apply(params)
    table = params["token"]
    monkeypatch.setattr(
        bk_core._model if name == "bk" else transformer._network,
        "embed",
        lambda given, tokens, dtype: _tokens.embed(jnp.where(kept, table, 0.0), tokens, dtype),
    )
    wanted = jax.jit(lambda p: module.apply(config, p, tokens))(params)
    np.testing.assert_allclose(found, wanted, atol=1e-6)
    assert not np.allclose(found, whole, atol=1e-3)


@pytest.mark.parametrize("name", MODELS)
def test_rates_out_of_range_are_refused(name):
    with pytest.raises(ValueError, match="token_dropout must be in"):
        dataclasses.replace(MODELS[name][1], token_dropout=1.0)
