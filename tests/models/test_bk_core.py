"""BK-Core: an independent float64 forward, causality, gradients, the gate, transforms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bk_models import CONFIG, VARIANTS, apply, init, lively, tokens
from flax import nnx

from physnet.models import bk_core
from physnet.models.bk_core import BKCore

SHALLOW = dataclasses.replace(CONFIG, layers=1)  # where compiling is most of a test


def reference(config, params, rows):
    """The same network in NumPy float64 with dense inverses, one site, pair and head at a time."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def norm(x, scale=1.0):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5) * scale

    def rotate(x, t):
        half = len(x) // 2
        wave = (x[:half] + 1j * x[half:]) * np.exp(
            1j * t * config.rotary_base ** (-np.arange(half) / half)
        )
        return np.concatenate([wave.real, wave.imag])

    logits = []
    for row in np.asarray(rows):
        x, time, size = p["token"][row], len(row), config.width // config.heads
        for index in range(config.layers):
            layer = jax.tree.map(lambda leaf, i=index: leaf[i], p["layers"])
            h, m = norm(x, layer["norm_mixer"]), layer["mixer"]
            onsite = h @ m["potential"] + m["potential_bias"]
            openness = np.zeros((time, config.chains))
            waves = np.zeros((time, config.chains, config.width // config.chains // 2), complex)
            for c in range(config.chains):
                eta, b = np.exp(m["log_eta"][c]), np.exp(m.get("log_hopping", np.zeros(9))[c])
                for i in range(time):
                    a = np.diag(onsite[: i + 1, c]) + b * (np.eye(i + 1, k=1) + np.eye(i + 1, k=-1))
                    green = np.linalg.inv(1j * eta * np.eye(i + 1) - a)
                    openness[i, c] = -eta * green[i, i].imag
                    if config.mixer:
                        u = (h[: i + 1] @ m["source"]).reshape(i + 1, config.chains, -1, 2)[:, c]
                        waves[i, c] = green[i] @ (u[..., 0] + 1j * u[..., 1])
            added = np.zeros_like(x)
            if config.mixer:
                y = np.stack([waves.real, waves.imag], -1).reshape(time, config.heads, -1)
                y = norm(y).reshape(time, -1) * m["norm"]
                gate = h @ m["gate"]
                added += (y * gate / (1 + np.exp(-gate))) @ m["out"]
            if config.attention:
                at = layer["attention"]
                s = openness.reshape(time, config.heads, -1).mean(-1)
                s = np.minimum(s / at["ceiling"], 1)
                q, k, v = np.split((h @ at["qkv"]).reshape(time, 3 * config.heads, size), 3, 1)
                y = np.zeros((time, config.heads, size))
                for n in range(config.heads):
                    for i in range(time):
                        kept = [
                            j
                            for j in range(i + 1)
                            if s[i, n] * s[j, n] > at["threshold"][n] or i - j < config.local_window
                        ]
                        e = np.array(
                            [rotate(norm(q[i, n]), i) @ rotate(norm(k[j, n]), j) for j in kept]
                        )
                        e = e / np.sqrt(size)
                        if config.soft_gate:
                            e = e + at["soft_gate"][n] * np.log(s[kept, n])
                        e = np.exp(e - e.max())
                        y[i, n] = e @ v[kept, n] / e.sum()
                added += y.reshape(time, -1) @ at["out"]
            x = x + added
            x = x + feed_forward(config, layer, norm(x, layer["norm_mlp"]))
        logits.append(norm(x, p["norm"]) @ p["token"].T)
    return np.stack(logits)


def feed_forward(config, layer, x):
    """With experts, token by token: those nearest by arccosh, gates over them and one more."""
    mlp = layer["mlp"]
    if not config.experts:
        return np.maximum(x @ mlp["up"], 0) ** 2 @ mlp["down"]
    ball = lambda v: np.tanh(np.linalg.norm(v)) * v / np.linalg.norm(v)  # noqa: E731
    y, k = np.zeros_like(x), config.expert_top_k
    for i, token in enumerate(x):
        u, distance = ball(token @ layer["route"]["project"]), []
        for w in map(ball, layer["route"]["centroids"]):
            room = (1 - u @ u) * (1 - w @ w)
            distance.append(np.arccosh(1 + 2 * (u - w) @ (u - w) / room))
        nearest = np.argsort(distance)[: k + 1]
        gate = np.exp(-np.array(distance)[nearest])
        for e, g in zip(nearest[:k], gate / gate.sum(), strict=False):
            y[i] += g * np.maximum(token @ mlp["up"][e], 0) ** 2 @ mlp["down"][e]
    return y


@pytest.mark.parametrize("name", VARIANTS)
def test_matches_a_float64_reference_with_dense_inverses(name):
    config = VARIANTS[name]
    params = lively(config)
    expected = reference(config, params, tokens())
    got = apply(config, params, tokens())
    np.testing.assert_allclose(got, expected, atol=3e-5 * np.abs(expected).max())
    assert got.dtype == jnp.float32


@pytest.mark.parametrize("name", VARIANTS)
def test_no_logit_depends_on_a_later_token(name):
    config = VARIANTS[name]
    params = lively(config)
    run = lambda t: apply(config, params, t)  # noqa: E731
    before = run(tokens())
    for position in (1, 6, 11):
        changed = tokens().at[:, position].set((tokens()[:, position] + 1) % 11)
        after = run(changed)
        np.testing.assert_array_equal(after[:, :position], before[:, :position])
        assert not np.array_equal(after[:, position], before[:, position])


def test_the_gate_keeps_its_density_on_text_like_the_sample():
    config = dataclasses.replace(CONFIG, density=0.4)
    params = lively(config, samples=20)
    fresh = tokens(20, 40, seed=1)
    _, info = apply(config, params, fresh, return_info=True)
    assert abs(float(info["kept_pairs"]) - 0.4) < 0.05
    kept = np.asarray(jax.jit(bk_core.pairs, static_argnums=0)(config, params, fresh))
    assert kept.shape == (2, 20, 2, 40, 40)
    np.testing.assert_allclose(
        kept.sum() / (2 * 20 * 2 * 40 * 41 / 2), info["kept_pairs"], rtol=1e-6
    )
    distance = np.arange(40)[:, None] - np.arange(40)
    assert kept[..., (distance >= 0) & (distance < 3)].all()
    assert not kept[..., distance < 0].any()
    assert info["score"].shape == (2, 20, 40, 2)
    assert 0 <= float(info["score"].min()) <= float(info["score"].max()) <= 1


def test_calibration_changes_only_the_gates_constants():
    params = init(SHALLOW)
    calibrate = jax.jit(bk_core.calibrate, static_argnums=0)
    found = calibrate(SHALLOW, params, tokens())
    differs = jax.tree_util.tree_map_with_path(
        lambda path, a, b: path[-1].key if not np.array_equal(a, b) else None, params, found
    )
    assert set(jax.tree.leaves(differs)) == {"ceiling", "threshold"}
    dense = dataclasses.replace(SHALLOW, density=1.0)
    everything = calibrate(dense, params, tokens())
    assert float(apply(dense, everything, tokens(), return_info=True)[1]["kept_pairs"]) == 1
    none = dataclasses.replace(SHALLOW, density=0.0)
    band = calibrate(none, params, tokens())
    share = apply(none, band, tokens(), return_info=True)[1]["kept_pairs"]
    np.testing.assert_allclose(share, (3 * 12 - 3) / (12 * 13 / 2), rtol=1e-6)


def gradient(config):
    config = dataclasses.replace(config, layers=1)
    params = lively(config)
    return jax.jit(jax.grad(lambda p: jnp.sum(jnp.square(bk_core.apply(config, p, tokens())))))(
        params
    )


def test_the_potential_learns_through_the_mixer_or_a_soft_gate_alone():
    both, hard, soft = (
        gradient(VARIANTS["both"]),
        gradient(VARIANTS["attention"]),
        gradient(dataclasses.replace(VARIANTS["attention"], soft_gate=True)),
    )
    size = lambda g: float(jnp.abs(g["layers"]["mixer"]["potential"]).max())  # noqa: E731
    assert size(both) > 1e-3
    assert size(hard) == 0
    assert size(soft) > 1e-3
    for g in (both, hard, soft):
        for name in ("ceiling", "threshold"):
            assert not np.any(g["layers"]["attention"][name])
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((both, hard, soft)))


def test_an_ensemble_of_parameters_under_vmap_jit_and_grad():
    sample = tokens()
    ensemble = jax.tree.map(lambda *leaves: np.stack(leaves), *(init(SHALLOW, k) for k in range(3)))
    ensemble = jax.jit(jax.vmap(lambda p: bk_core.calibrate(SHALLOW, p, sample)))(ensemble)

    def loss(params):
        return jnp.mean(jnp.square(bk_core.apply(SHALLOW, params, sample)))

    together = jax.jit(jax.vmap(jax.grad(loss)))(ensemble)
    alone_gradient = jax.jit(jax.grad(loss))
    for index in range(3):
        alone = alone_gradient(jax.tree.map(lambda leaf, i=index: leaf[i], ensemble))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(alone), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=2e-3, atol=1e-6)


def test_bfloat16_is_near_and_parameters_stay_float32():
    params = init(CONFIG)
    assert {leaf.dtype for leaf in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}
    full = apply(CONFIG, params, tokens())
    low = apply(CONFIG, params, tokens(), dtype=jnp.bfloat16)
    assert low.dtype == jnp.float32
    np.testing.assert_allclose(low, full, atol=0.03 * float(jnp.abs(full).max()))


def test_dropout_needs_a_key_and_is_a_function_of_it():
    config = dataclasses.replace(CONFIG, dropout=0.5)
    params = lively(CONFIG)
    silent = apply(config, params, tokens())
    np.testing.assert_array_equal(silent, apply(CONFIG, params, tokens()))
    one, same, other = (apply(config, params, tokens(), key=jax.random.key(k)) for k in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)
    assert not np.array_equal(one, silent)


@pytest.mark.slow
def test_the_module_trains_and_generates_as_the_functions_do():
    model = nnx.jit(lambda: BKCore(SHALLOW, rngs=nnx.Rngs(0)))()
    nnx.jit(lambda m: m.calibrate(tokens()))(model)
    np.testing.assert_array_equal(
        nnx.jit(lambda m: m(tokens()))(model), apply(SHALLOW, model.tree(), tokens())
    )
    optimizer = nnx.Optimizer(model, optax.adamw(1e-2, weight_decay=0.1), wrt=nnx.Param)
    gate = {n: np.asarray(model.tree()["layers"]["attention"][n]) for n in ("ceiling", "threshold")}

    @nnx.jit
    def step(model, optimizer):
        def loss(model):
            logits = model(tokens()[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(logits, tokens()[:, 1:]).mean()

        value, grads = nnx.value_and_grad(loss)(model)
        optimizer.update(model, grads)
        return value

    with jax.numpy_dtype_promotion("standard"):  # optax mixes counts and rates
        losses = [float(step(model, optimizer)) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.1
    for name, constant in gate.items():  # neither gradients nor weight decay move them
        np.testing.assert_array_equal(model.tree()["layers"]["attention"][name], constant)
    made = model.generate(tokens(1, 3), 4, key=jax.random.key(0))
    same = bk_core.generate(SHALLOW, model.tree(), tokens(1, 3), 4, key=jax.random.key(0))
    np.testing.assert_array_equal(made, same)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 20}, r"width must be a multiple of 2 \* chains = 8, got 20"),
        ({"chains": 8, "heads": 3, "width": 48}, "chains must be a multiple of heads=3, got 8"),
        ({"density": 1.5}, r"density must be in \[0, 1\], got 1.5"),
        ({"dropout": -0.1}, r"dropout must be in \[0, 1\), got -0.1"),
        ({"local_window": -1}, "local_window must be >= 0, got -1"),
        ({"mixer": False, "attention": False}, "mixer or attention must be True"),
    ],
)
def test_a_bad_config_is_named(change, message, bare_errors):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)


def test_a_token_outside_the_vocabulary_shows_as_nan():
    params = init(CONFIG)
    for wrong in (11, -1):
        logits = apply(CONFIG, params, tokens().at[0, 5].set(wrong))
        assert np.isnan(logits[0, 5:]).all()
        assert np.isfinite(logits[0, :5]).all()
        assert np.isfinite(logits[1]).all()


def test_bad_tokens_are_named(bare_errors):
    params = init(CONFIG)
    for function in (bk_core.apply, bk_core.calibrate, bk_core.pairs):
        with pytest.raises(ValueError, match=r"got \(12,\)"):
            function(CONFIG, params, tokens()[0])
        with pytest.raises(TypeError, match="tokens must be integers, got dtype float32"):
            function(CONFIG, params, tokens().astype(jnp.float32))
    with pytest.raises(ValueError, match="without attention there are no pairs"):
        bk_core.pairs(VARIANTS["mixer"], params, tokens())


def test_a_program_has_the_block_once():
    """However many layers: kernels of a block are lowered once, not once a layer."""

    def size(layers):
        config = bk_core.BKCoreConfig(7, layers=layers, heads=1, width=8, chains=1)
        params = jax.eval_shape(lambda: bk_core.init(config, jax.random.key(0)))
        tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
        lowered = jax.jit(lambda p, t: bk_core.apply(config, p, t)).lower(params, tokens)
        return len(lowered.as_text())

    assert size(6) < 1.5 * size(2)
