"""The baseline transformer: shapes, causality, an independent float64 forward, vmap, dropout."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.models import transformer

CONFIG = transformer.TransformerConfig(vocab_size=11, layers=3, heads=2, width=16, context=12)


def tokens(batch=2, time=12, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 11, (batch, time)), jnp.int32)


def reference(config, params, token_rows):
    """The same network in NumPy float64, one example, one head and one query at a time."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, scale):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale

    size, rows = config.width // config.heads, []
    for row in np.asarray(token_rows):
        x = p["token"][row] + p["position"][: len(row)]
        for index in range(config.layers):
            layer = {name: leaf[index] for name, leaf in p["layers"].items()}
            q, k, v = np.split(norm(x, layer["norm_attention"]) @ layer["qkv"], 3, axis=-1)
            y = np.zeros_like(x)
            for head in range(config.heads):
                part = slice(head * size, (head + 1) * size)
                for t in range(len(row)):
                    e = np.exp(k[: t + 1, part] @ q[t, part] / np.sqrt(size))
                    y[t, part] = e / e.sum() @ v[: t + 1, part]
            x = x + y @ layer["out"]
            h = norm(x, layer["norm_mlp"]) @ layer["up"]
            h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
            x = x + h @ layer["down"]
        rows.append(norm(x, p["norm"]) @ p["token"].T)
    return np.stack(rows)


def test_matches_a_float64_reference():
    params = jax.tree.map(lambda x: 5 * x, transformer.init(CONFIG, jax.random.key(1)))
    expected = reference(CONFIG, params, tokens())
    np.testing.assert_allclose(transformer.apply(CONFIG, params, tokens()), expected, atol=2e-4)
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    exact = transformer.apply(CONFIG, wide, tokens(), dtype=jnp.float64)
    np.testing.assert_allclose(exact, expected, atol=1e-12)


def test_no_logit_depends_on_a_later_token():
    params = transformer.init(CONFIG, jax.random.key(0))
    before = transformer.apply(CONFIG, params, tokens())
    for position in (0, 5, 11):
        changed = tokens().at[:, position].set((tokens()[:, position] + 1) % 11)
        after = transformer.apply(CONFIG, params, changed)
        np.testing.assert_array_equal(after[:, :position], before[:, :position])
        assert not np.array_equal(after[:, position], before[:, position])


def test_float32_stays_float32_and_bfloat16_is_near():
    params = transformer.init(CONFIG, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    logits, info = transformer.apply(CONFIG, params, tokens(), return_info=True)
    low = transformer.apply(CONFIG, params, tokens(), dtype=jnp.bfloat16)
    assert logits.dtype == low.dtype == jnp.float32
    assert float(info["kept_pairs"]) == 1.0
    np.testing.assert_allclose(low, logits, atol=0.02 * float(jnp.abs(logits).max()) + 0.01)


def test_an_ensemble_of_parameters_under_vmap_jit_and_grad():
    keys = jax.random.split(jax.random.key(0), 3)
    ensemble = jax.vmap(lambda key: transformer.init(CONFIG, key))(keys)

    def loss(params):
        return jnp.mean(jnp.square(transformer.apply(CONFIG, params, tokens())))

    together = jax.jit(jax.vmap(jax.grad(loss)))(ensemble)
    for index in range(3):
        alone = jax.grad(loss)(jax.tree.map(lambda leaf, i=index: leaf[i], ensemble))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-3, atol=1e-6)


def test_dropout_needs_a_key_and_is_a_function_of_it():
    config = transformer.TransformerConfig(11, layers=2, heads=2, width=16, context=12, dropout=0.5)
    params = transformer.init(config, jax.random.key(0))
    silent = transformer.apply(config, params, tokens())
    np.testing.assert_array_equal(silent, transformer.apply(CONFIG_NO_DROP, params, tokens()))
    one, same, other = (
        transformer.apply(config, params, tokens(), key=jax.random.key(k)) for k in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, silent)


CONFIG_NO_DROP = transformer.TransformerConfig(11, layers=2, heads=2, width=16, context=12)


def test_initial_loss_is_that_of_a_uniform_guess():
    config = transformer.TransformerConfig(vocab_size=64)
    params = transformer.init(config, jax.random.key(0))
    text = jnp.asarray(np.random.default_rng(0).integers(0, 64, (4, 64)), jnp.int32)
    scores = jax.nn.log_softmax(transformer.apply(config, params, text))
    assert abs(-float(scores.mean()) - np.log(64)) < 0.1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 15}, "width must be a multiple of heads=2, got 15"),
        ({"dropout": 1.0}, r"dropout must be in \[0, 1\), got 1.0"),
        ({"layers": 0}, "layers must be >= 1, got 0"),
    ],
)
def test_a_bad_config_is_named(change, message, bare_errors):
    with pytest.raises(ValueError, match=message):
        transformer.TransformerConfig(**{"vocab_size": 11, "heads": 2, "width": 16} | change)


def test_bad_tokens_are_named(bare_errors):
    params = transformer.init(CONFIG, jax.random.key(0))
    with pytest.raises(ValueError, match=r"tokens must be at most context=12 long, got 13"):
        transformer.apply(CONFIG, params, tokens(time=13))
    with pytest.raises(ValueError, match=r"shape \(batch, time\) .*got \(12,\)"):
        transformer.apply(CONFIG, params, tokens()[0])
    with pytest.raises(TypeError, match="tokens must be integers, got dtype float32"):
        transformer.apply(CONFIG, params, tokens().astype(jnp.float32))
