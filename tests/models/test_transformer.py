"""The baseline transformer: shapes, causality, an independent float64 forward, vmap, dropout."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import _dispatch
from physnet.models import transformer

CONFIG = transformer.TransformerConfig(vocab_size=11, layers=3, heads=2, width=16, context=12)
CONFIG_DROP = transformer.TransformerConfig(11, layers=1, width=32, context=12, dropout=0.5)
CONFIG_HEAD_4 = transformer.TransformerConfig(11, layers=1, width=16, context=12)


def tokens(batch=2, time=12, seed=0):
    return jnp.asarray(np.random.default_rng(seed).integers(0, 11, (batch, time)), jnp.int32)


# Compiled: op by op the small tests would take most of their time.
init = jax.jit(transformer.init, static_argnums=0)
apply = jax.jit(transformer.apply, static_argnums=0, static_argnames=("dtype", "return_info"))
extend = jax.jit(transformer.extend, static_argnums=0, static_argnames="dtype")


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
    params = jax.tree.map(lambda x: 5 * x, init(CONFIG, jax.random.key(1)))
    expected = reference(CONFIG, params, tokens())
    np.testing.assert_allclose(apply(CONFIG, params, tokens()), expected, atol=2e-4)
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), params)
    exact = apply(CONFIG, wide, tokens(), dtype=jnp.float64)
    np.testing.assert_allclose(exact, expected, atol=1e-12)


def test_no_logit_depends_on_a_later_token():
    params = init(CONFIG, jax.random.key(0))
    before = apply(CONFIG, params, tokens())
    for position in (0, 5, 11):
        changed = tokens().at[:, position].set((tokens()[:, position] + 1) % 11)
        after = apply(CONFIG, params, changed)
        np.testing.assert_array_equal(after[:, :position], before[:, :position])
        assert not np.array_equal(after[:, position], before[:, position])


def test_float32_stays_float32_and_bfloat16_is_near():
    params = init(CONFIG, jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    logits, info = apply(CONFIG, params, tokens(), return_info=True)
    low = apply(CONFIG, params, tokens(), dtype=jnp.bfloat16)
    assert logits.dtype == low.dtype == jnp.float32
    assert float(info["kept_pairs"]) == 1.0
    np.testing.assert_allclose(low, logits, atol=0.02 * float(jnp.abs(logits).max()) + 0.01)


@pytest.mark.slow
def test_an_ensemble_of_parameters_under_vmap_jit_and_grad():
    config = dataclasses.replace(CONFIG, layers=1)
    keys = jax.random.split(jax.random.key(0), 3)
    ensemble = jax.jit(jax.vmap(lambda key: transformer.init(config, key)))(keys)

    def loss(params):
        return jnp.mean(jnp.square(transformer.apply(config, params, tokens())))

    together, gradient = jax.jit(jax.vmap(jax.grad(loss)))(ensemble), jax.jit(jax.grad(loss))
    for index in range(3):
        alone = gradient(jax.tree.map(lambda leaf, i=index: leaf[i], ensemble))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-3, atol=1e-6)


def test_dropout_needs_a_key_and_is_a_function_of_it():
    config = transformer.TransformerConfig(11, layers=2, heads=2, width=16, context=12, dropout=0.5)
    params = init(config, jax.random.key(0))
    silent = apply(config, params, tokens())
    np.testing.assert_array_equal(silent, apply(CONFIG_NO_DROP, params, tokens()))
    one, same, other = (apply(config, params, tokens(), key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, silent)


CONFIG_NO_DROP = transformer.TransformerConfig(11, layers=2, heads=2, width=16, context=12)


def test_weights_keep_whole_where_only_the_stream_is_dropped():
    config = CONFIG_DROP
    whole = dataclasses.replace(config, drop_weights=False)
    params = init(config, jax.random.key(0))
    # Without what the parts add, dropout acts on the embedding alone: weights make no difference.
    silent = params | {"layers": params["layers"] | {"out": 0 * params["layers"]["out"]}}
    one, other = (
        apply(c, p, tokens(), key=jax.random.key(1)) for c, p in ((config, silent), (whole, silent))
    )
    np.testing.assert_array_equal(one, other)
    lively = jax.tree.map(lambda leaf: 5 * leaf, params)
    one, other = (apply(c, lively, tokens(), key=jax.random.key(1)) for c in (config, whole))
    assert not np.array_equal(one, other)


@pytest.mark.parametrize("cuts", [(0, 12), (0, 5, 11, 12)])
def test_pieces_give_the_logits_of_the_whole(cuts):
    params = jax.tree.map(lambda x: 5 * x, init(CONFIG, jax.random.key(1)))
    cache, pieces = transformer.init_cache(CONFIG, 2, 12), []
    for start, stop in itertools.pairwise(cuts):
        logits, cache = extend(CONFIG, params, tokens()[:, start:stop], cache)
        pieces.append(logits)
    whole = apply(CONFIG, params, tokens())
    np.testing.assert_allclose(jnp.concatenate(pieces, 1), whole, atol=2e-5)
    assert int(cache.length) == 12
    logits, _ = extend(CONFIG, params, tokens()[:, :1], cache)
    assert np.isnan(logits).all()  # no room


def test_a_bad_cache_is_named(bare_errors):
    params = init(CONFIG, jax.random.key(0))
    cache = transformer.init_cache(CONFIG, 2, 4)
    for change, message in (
        ({"tokens": tokens(3, 2)}, r"cache's batch size 2, got \(3, 2\)"),
        ({"tokens": tokens(2, 5)}, "at most the cache's 4, got 5"),
        ({"dtype": jnp.bfloat16}, "dtype must be the cache's float32, got bfloat16"),
    ):
        options = {"tokens": tokens(2, 2), "cache": cache} | change
        with pytest.raises(ValueError, match=message):
            transformer.extend(CONFIG, params, **options)
    with pytest.raises(ValueError, match="capacity must be at most context=12, got 13"):
        transformer.init_cache(CONFIG, 2, 13)


@pytest.fixture
def fused(monkeypatch):
    """Attention as on a Hopper GPU; what is asked of JAX's fused attention."""
    asked = []
    plain = jax.nn.dot_product_attention

    def attention(*tensors, implementation, **options):
        asked.append((implementation, tensors[0].dtype.name))
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            return plain(*tensors, **options)

    monkeypatch.setattr(_dispatch, "_capability", lambda facts: (9, 0))
    monkeypatch.setattr(jax.nn, "dot_product_attention", attention)
    return asked


def test_a_gpu_takes_fused_attention_where_it_serves(fused):
    config = CONFIG_DROP
    params = jax.tree.map(lambda x: 5 * x, init(config, jax.random.key(1)))
    low = functools.partial(transformer.apply, params=params, tokens=tokens(), dtype=jnp.bfloat16)
    expected = jax.jit(lambda: low(config, implementation="xla"))()
    assert not fused
    served = jax.jit(lambda: low(config))()
    np.testing.assert_allclose(served, expected, atol=0.05 * float(jnp.abs(expected).max()))
    assert fused == [("cudnn", "bfloat16")]
    whole = dataclasses.replace(config, drop_weights=False)
    jax.eval_shape(lambda: low(whole, key=jax.random.key(0)))
    assert len(fused) == 2
    jax.eval_shape(lambda: low(config, key=jax.random.key(0)))  # drops weights
    jax.eval_shape(lambda: low(config, dtype=jnp.float32))
    small = init(CONFIG_HEAD_4, jax.random.key(0))
    jax.eval_shape(lambda: low(CONFIG_HEAD_4, params=small))  # head dimension 4
    assert len(fused) == 2


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"dtype": jnp.float32}, "dtype bfloat16 or float16, got float32"),
        ({"key": jax.random.key(0)}, "attention weights without dropout"),
        ({"config": CONFIG_HEAD_4}, "at most 256, a multiple of 8, got 4"),
    ],
)
def test_a_named_implementation_that_does_not_serve_says_why(fused, change, why):
    options = {"config": CONFIG_DROP, "tokens": tokens(), "dtype": jnp.bfloat16} | change
    params = init(options["config"], jax.random.key(0))
    with pytest.raises(NotImplementedError, match=why):
        transformer.apply(params=params, implementation="cudnn", **options)


def test_initial_loss_is_that_of_a_uniform_guess():
    config = transformer.TransformerConfig(vocab_size=64)
    params = init(config, jax.random.key(0))
    text = jnp.asarray(np.random.default_rng(0).integers(0, 64, (4, 64)), jnp.int32)
    scores = jax.nn.log_softmax(apply(config, params, text))
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
    params = init(CONFIG, jax.random.key(0))
    with pytest.raises(ValueError, match=r"tokens must be at most context=12 long, got 13"):
        transformer.apply(CONFIG, params, tokens(time=13))
    with pytest.raises(ValueError, match=r"shape \(batch, time\) .*got \(12,\)"):
        transformer.apply(CONFIG, params, tokens()[0])
    with pytest.raises(TypeError, match="tokens must be integers, got dtype float32"):
        transformer.apply(CONFIG, params, tokens().astype(jnp.float32))
