"""The experts of BK-Core (the float64 forward, causality and decoding: among the variants)."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from bk_models import CONFIG, apply, init, lively, tokens

from physnet import hyperbolic, moe, optim
from physnet.models import bk_core

# One layer without attention and one expert a token: what the experts do, and little to compile.
CONFIG = dataclasses.replace(CONFIG, layers=1, attention=False, experts=4, route_dim=3)


def text():
    """A cycle of eleven tokens, entered anywhere; inputs (2, 40), as in most tests here."""
    start = np.array([[2], [7]], np.int32)
    return (start + 3 * np.arange(41, dtype=np.int32)[None]) % 11


def loss(params, rows):
    logits = bk_core.apply(CONFIG, params, rows[:, :-1])
    return optax.softmax_cross_entropy_with_integer_labels(logits, rows[:, 1:]).mean()


loss_and_gradient = jax.jit(jax.value_and_grad(loss))
calibrate = jax.jit(bk_core.calibrate, static_argnums=0)


def test_what_a_model_reports_about_its_experts():
    _, info = apply(CONFIG, lively(CONFIG), tokens(2, 40), return_info=True)
    assert info["expert"].shape == (1, 2, 40, 1)
    expected = jax.jit(lambda expert: moe.load(expert, experts=4))(info["expert"])
    np.testing.assert_allclose(info["expert_load"][0], np.asarray(expected.count) / 80, rtol=1e-6)
    np.testing.assert_allclose(info["effective_experts"][0], expected.effective)
    np.testing.assert_allclose(info["expert_imbalance"][0], expected.imbalance)
    assert float(info["kept_pairs"]) == 0


@pytest.mark.slow
def test_gradients_reach_the_map_the_centroids_and_the_experts_in_use():
    params = lively(CONFIG)
    layers = params["layers"]
    far = 20.0 + np.zeros_like(layers["route"]["centroids"][:, :1])  # one that no token takes
    route = layers["route"] | {
        "centroids": np.concatenate([layers["route"]["centroids"][:, :3], far], 1)
    }
    params = params | {"layers": layers | {"route": route}}
    _, info = apply(CONFIG, params, text()[:, :-1], return_info=True)
    used = np.asarray(info["expert_load"][0] > 0)
    assert used.sum() > 1
    assert not used[3]
    found = loss_and_gradient(params, text())[1]["layers"]
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    assert np.abs(found["route"]["project"]).min() > 0
    assert (np.abs(found["route"]["centroids"]).max(-1)[0] > 1e-6)[used].all()
    for leaf in found["mlp"].values():
        np.testing.assert_array_equal(np.abs(leaf).max((0, 2, 3)) > 0, used)


def test_calibration_with_a_key_places_the_centroids_once():
    params, rows = init(CONFIG), tokens(2, 40)
    found = calibrate(CONFIG, params, rows, key=jax.random.key(1))
    differs = jax.tree_util.tree_map_with_path(
        lambda path, a, b: path[-1].key if not np.array_equal(a, b) else None, params, found
    )
    assert jax.tree.leaves(differs) == ["centroids"]
    assert bk_core.calibrate(CONFIG, params, rows) is params
    _, info = apply(CONFIG, found, rows, return_info=True)
    assert float(info["expert_load"].min()) > 0
    assert float(info["effective_experts"][0]) > 2.5
    with pytest.raises(ValueError, match="k must be between 1 and the number of points 2, got 4"):
        calibrate(CONFIG, params, np.asarray(rows)[:1, :2], key=jax.random.key(1))


@pytest.mark.slow
def test_an_ensemble_of_parameters():
    ensemble = jax.tree.map(lambda *leaves: np.stack(leaves), *(init(CONFIG, k) for k in range(2)))
    together = jax.jit(jax.vmap(jax.value_and_grad(loss), in_axes=(0, None)))(ensemble, text())
    for index in range(2):
        one = jax.tree.map(lambda leaf, i=index: leaf[i], ensemble)
        expected = loss_and_gradient(one, text())
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(expected), strict=True):
            np.testing.assert_allclose(np.asarray(a)[index], b, rtol=2e-3, atol=1e-6)


def test_bfloat16_routes_nearly_all_tokens_alike():
    params = lively(CONFIG)
    _, full = apply(CONFIG, params, tokens(2, 40), return_info=True)
    logits, low = apply(CONFIG, params, tokens(2, 40), dtype=jnp.bfloat16, return_info=True)
    assert logits.dtype == jnp.float32
    assert np.isfinite(logits).all()
    assert np.mean(full["expert"] == low["expert"]) > 0.9


def test_training_with_riemannian_steps_of_the_centroids():
    def kind(path, _):
        return "points" if path[-1].key == "centroids" else "others"

    rates = {"points": optim.riemannian_adam(1e-2, coordinates="tangent"), "others": optax.sgd(0.5)}
    optimiser = optax.partition(
        rates, lambda params: jax.tree_util.tree_map_with_path(kind, params)
    )

    @jax.jit
    def update(params, gradient, state):
        updates, state = optimiser.update(gradient, state, params)
        return optax.apply_updates(params, updates), state

    params = start = init(CONFIG)
    state, losses = optimiser.init(params), []
    for _ in range(30):
        value, gradient = loss_and_gradient(params, text())
        with jax.numpy_dtype_promotion("standard"):  # optax mixes counts and rates
            params, state = update(params, gradient, state)
        losses.append(float(value))
    assert losses[-1] < losses[0] - 0.5
    before, after = (p["layers"]["route"]["centroids"] for p in (start, params))
    moved = jax.jit(hyperbolic.polar.distance)(before, after)
    assert float(moved.min()) > 1e-3
    assert float(moved.max()) < 0.3 * 1.2  # a step is about the learning rate, a distance


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"experts": -1}, "experts must be >= 0, got -1"),
        ({"expert_top_k": 5}, "expert_top_k must be at most experts=4, got 5"),
        ({"expert_width": 0}, "expert_width must be >= 1, got 0"),
        ({"route_dim": 0}, "route_dim must be >= 1, got 0"),
    ],
)
def test_a_bad_config_is_named(change, message, bare_errors):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)
