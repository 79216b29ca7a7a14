"""Thresholds by path integrals: shares against counts of pairs, searches whose end is known."""

import dataclasses
import functools

import bk_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bk_models import CONFIG

from physnet import holography
from physnet.models import bk_core
from physnet.models.bk_core import _gates
from physnet.superposition import path_integral

TOKENS = bk_models.tokens(4, 24)
DENSITY = 0.5


@pytest.fixture(scope="module")
def params():
    return bk_models.lively(CONFIG)


@pytest.fixture(scope="module")
def measured(params):
    """Quantiles and scores of the sample; as one program, which makes the scores once."""

    @jax.jit
    def run(params):
        _, info = bk_core.apply(CONFIG, params, TOKENS, return_info=True)
        return bk_core.gate_quantiles(CONFIG, params, TOKENS), info["score"]

    return run(params)


@pytest.fixture(scope="module")
def table(measured):
    return measured[0]


def thresholds(params):
    return params["layers"]["attention"]["threshold"]


def test_quantiles_let_their_shares_of_products_through(measured):
    table, scores = measured
    assert table.shape == (2, 2, 65)
    assert table.dtype == jnp.float32
    for layer in range(2):
        for head in range(2):
            score = np.asarray(scores)[layer, ..., head].ravel()
            products = np.sort(np.outer(score, score).ravel())
            for index, threshold in enumerate(np.asarray(table)[layer, head]):
                through = np.mean(products > threshold)
                assert through <= index / 64 + 1e-6
                with_ties = np.mean(products >= threshold)  # those let one group too many through
                assert with_ties >= index / 64 - 1e-6


def test_shares_become_thresholds_and_nothing_else_changes(params, table):
    shares = jnp.array([[0.0, 0.25], [0.3, 1.0]], jnp.float32)
    moved = bk_core.with_shares(params, table, shares)
    found = np.asarray(thresholds(moved))
    q = np.asarray(table, np.float64)
    position = 64 * 0.3
    between = q[1, 0, 19] + (position - 19) * (q[1, 0, 20] - q[1, 0, 19])
    np.testing.assert_allclose(found, [[q[0, 0, 0], q[0, 1, 16]], [between, 0.0]], rtol=1e-5)
    back = bk_core.with_shares(moved, table, bk_core.shares_of(moved, table))
    np.testing.assert_allclose(thresholds(back), found, rtol=1e-5)
    same = moved["layers"] | {"attention": params["layers"]["attention"]}
    for a, b in zip(
        jax.tree.leaves(moved | {"layers": same}), jax.tree.leaves(params), strict=True
    ):
        assert a is b


allot = jax.jit(bk_core.allot)


@pytest.mark.parametrize("mean", [0.0, 1e-3, 0.4, 1.0])
def test_an_allotment_has_its_mean_and_keeps_odds_apart(mean):
    odds = jnp.array([[-3.0, 0.5], [2.0, 9.0]], jnp.float32)
    shares = np.asarray(allot(odds, mean), np.float64)
    assert shares.mean() == pytest.approx(mean, abs=1e-6)
    if 0 < mean < 1:
        found = np.log(shares / (1 - shares))
        np.testing.assert_allclose(found[:, 0] - found[0, 0], [0.0, 5.0], atol=1e-3)


@pytest.fixture(autouse=True)
def quantiles_at_hand(monkeypatch, table):
    """Those of the sample, once for all searches: most of a search's program is to find them."""

    def found(config, params, tokens, *, dtype):
        assert config is CONFIG
        assert tokens is TOKENS
        return table

    true = _gates.gate_quantiles
    monkeypatch.setattr(
        _gates,
        "gate_quantiles",
        lambda config, *rest, **options: (found if config is CONFIG else true)(
            config, *rest, **options
        ),
    )


@functools.partial(jax.jit, static_argnames="generations")
def search(params, target, switches, key, search, *, generations):
    """The squared distance from thresholds, the key's own noise, and NaN outside of bars."""
    apart, noise, least, most = switches

    def objective(params, key):
        found = thresholds(params)
        outside = (found[0, 0] < least) | (found[0, 0] > most)
        broken = jnp.where(outside, jnp.float32(jnp.nan), jnp.float32(0.0))
        own = noise * jax.random.normal(key, (), jnp.float32)
        return apart * jnp.sum(jnp.square(found - target)) + own + broken

    return bk_core.refine(
        CONFIG,
        params,
        TOKENS,
        objective,
        key=key,
        density=jnp.float32(DENSITY),
        generations=generations,
        particles=12,
        search=search,
    )


def switches(apart=1.0, noise=0.0, least=-1.0, most=2.0):
    return tuple(jnp.float32(value) for value in (apart, noise, least, most))


@pytest.fixture(scope="module")
def target(params, table):
    """Shares with the mean that the density asks for, and their thresholds."""
    mean = bk_core.beyond(CONFIG, DENSITY, TOKENS.shape[1])
    shares = allot(jnp.array([[-1.5, 0.5], [1.0, 0.0]], jnp.float32), mean)
    return shares, thresholds(bk_core.with_shares(params, table, shares))


@pytest.mark.slow
def test_the_best_allotment_is_found_at_the_density_that_is_asked_for(params, target):
    shares, wanted = target
    found = search(params, wanted, switches(), jax.random.key(0), None, generations=24)
    assert found.before > 1e-3
    assert found.after < 0.05 * found.before
    np.testing.assert_allclose(found.shares, shares, atol=0.03)
    assert float(found.shares.mean()) == pytest.approx(float(shares.mean()), abs=1e-5)
    time, near = TOKENS.shape[1], CONFIG.local_window
    pairs = time * (time + 1) / 2
    band = near * time - near * (near - 1) / 2
    assert band + float(shares.mean()) * (pairs - band) == pytest.approx(DENSITY * pairs, rel=1e-5)
    assert found.history.shape == (24,)
    assert found.history[-1] < found.history[0]
    assert found.shares.dtype == thresholds(found.params).dtype == jnp.float32


def test_going_on_is_one_search_to_the_bit(params, target):
    _, wanted = target
    key = jax.random.key(1)
    whole = search(params, wanted, switches(), key, None, generations=24)
    odds = whole.search.start
    start = bk_core.Search(path_integral.init(odds, particles=12, sigma=1.0), odds, odds)
    half = search(params, wanted, switches(), key, start, generations=12)
    both = search(params, wanted, switches(), key, half.search, generations=12)
    for a, b in zip(jax.tree.leaves(whole.search), jax.tree.leaves(both.search), strict=True):
        np.testing.assert_array_equal(a, b)
    np.testing.assert_array_equal(whole.shares, both.shares)
    np.testing.assert_array_equal(whole.history[12:], both.history)


def test_particles_of_a_generation_share_a_key_and_generations_do_not(params, target):
    _, wanted = target
    options = switches(apart=0.0, noise=1.0)
    found = search(params, wanted, options, jax.random.key(2), None, generations=24)
    assert found.search.state.status == 2  # equal losses tell nothing: the cloud has not moved
    np.testing.assert_array_equal(found.search.state.params, found.search.start)
    assert len(set(np.asarray(found.history).tolist())) == 24
    assert found.before == found.after


def test_what_is_nan_is_left_alone_and_what_is_worse_too(params, target):
    _, wanted = target
    bar = float(thresholds(params)[0, 0]) - 1e-3  # a lower threshold than at the start is broken
    found = search(params, wanted, switches(least=bar), jax.random.key(3), None, generations=24)
    assert thresholds(found.params)[0, 0] >= bar
    assert found.after < found.before
    aside = switches(most=bar)  # what it starts from is broken
    found = search(params, wanted, aside, jax.random.key(3), None, generations=24)
    assert jnp.isnan(found.before)
    assert found.after < np.inf
    assert thresholds(found.params)[0, 0] <= bar
    away = search(params, wanted, switches(least=2.0), jax.random.key(3), None, generations=24)
    assert away.search.state.status == 1  # every loss was NaN
    np.testing.assert_array_equal(away.search.state.params, away.search.start)
    assert bool(jnp.isfinite(away.shares).all())


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"density": 1.5}, r"density must be one number in \[0, 1\], got 1.5"),
        ({}, {"density": np.ones(2)}, "density must be one number"),
        ({}, {"objective": lambda p, _: jnp.zeros(2)}, "objective must return one number"),
        ({}, {"generations": -1}, "generations must be"),
        ({}, {"particles": 3}, "particles must be"),
        ({"attention": False}, {}, "config.attention must be True"),
        (
            {"memory": holography.memory.Config()},
            {},
            "config.memory must be None",
        ),
    ],
)
def test_what_cannot_be_refined_is_refused(params, change, options, message):
    config = dataclasses.replace(CONFIG, **change)
    options = {"objective": lambda p, _: jnp.float32(0.0)} | options
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(
            lambda key: bk_core.refine(config, params, TOKENS, key=key, **options).shares,
            jax.random.key(0),
        )


@pytest.mark.usefixtures("bare_errors")
def test_shares_and_quantiles_of_another_model_are_refused(params, table):
    with pytest.raises(ValueError, match=r"quantiles must have shape \(L, N, Q\) of \(2, 2\)"):
        bk_core.shares_of(params, table[:, :1])
    with pytest.raises(ValueError, match=r"shares must be one number or have shape \(2, 2\)"):
        bk_core.with_shares(params, table, jnp.ones(3))
    with pytest.raises(ValueError, match=r"mean must be one number in \[0, 1\], got 1.5"):
        bk_core.allot(jnp.zeros((2, 2)), 1.5)
