"""Schedules against brute force: orders, exact bounds, kept fraction, causality to the bit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import scattering

schedule = jax.jit(
    scattering.schedule, static_argnames=("block_size", "classes", "is_causal", "local_window")
)


def lognormal(*shape, seed=0):
    return np.random.default_rng(seed).lognormal(size=shape).astype(np.float32)


def block_masks(plan, passing):
    """For each pair of blocks: does any pair pass, and do all pairs of tokens pass?"""
    size = plan.block_size
    slots = [np.asarray(order).reshape(-1, size) for order in (plan.query_order, plan.key_order)]
    some = np.zeros((len(slots[0]), len(slots[1])), bool)
    whole = np.zeros_like(some)
    for i, query in enumerate(slots[0]):
        for j, key in enumerate(slots[1]):
            query_tokens = query[query < passing.shape[0]]
            key_tokens = key[key < passing.shape[1]]
            inner = passing[np.ix_(query_tokens, key_tokens)]
            some[i, j], whole[i, j] = inner.any(), inner.size > 0 and inner.all()
    return some, whole


def ranges(plan):
    """Kept and full blocks of the schedule's ranges, as (Q, K) booleans; and each key's class."""
    first, last, full = (np.asarray(x) for x in (plan.first, plan.last, plan.full))
    count = plan.key_order.shape[-1] // plan.block_size
    block = np.arange(count)[None, None]
    kept = (block >= first[..., None]) & (block < last[..., None])
    whole = (block >= first[..., None]) & (block < (first + full)[..., None])
    assert (kept.sum(1) <= 1).all()  # ranges of different classes are disjoint
    return kept.any(1), whole.any(1)


@pytest.mark.parametrize("fitted", [True, False])
@pytest.mark.parametrize("is_causal", [True, False])
def test_bounds_are_exact(fitted, is_causal):
    s = np.concatenate([lognormal(150), np.zeros(20, np.float32), [np.nan]]).astype(np.float32)
    s = np.random.default_rng(1).permutation(s)
    tau = scattering.threshold_for_density(jnp.asarray(s), 0.3)
    edges = (
        None
        if fitted
        else scattering.class_edges(
            jnp.asarray(lognormal(500, seed=4)), tau, length=171, block_size=8, classes=6
        )
    )
    plan = jax.jit(
        lambda s, tau: scattering.schedule(
            s, tau, edges=edges, block_size=8, classes=6, is_causal=is_causal
        )
    )(jnp.asarray(s), tau)
    order = np.asarray(plan.query_order)
    np.testing.assert_array_equal(np.sort(order[order < 171]), np.arange(171))
    passing = np.asarray(scattering.pair_gate(jnp.asarray(s), jnp.asarray(s), tau))
    if is_causal:
        passing = np.tril(passing)
    some, whole = block_masks(plan, passing)
    kept, full = ranges(plan)
    assert not (some & ~kept).any()  # nothing that passes is lost
    assert not (full & ~whole).any()  # what needs no mask has none
    # The bounds are tight: a range ends where a block can hold a pair.
    assert kept.sum() <= 1.25 * some.sum()
    assert full.sum() >= 0.7 * whole.sum()
    blocks = -(-171 // 8)
    dense = blocks * (blocks + 1) / 2 if is_causal else blocks**2
    np.testing.assert_allclose(plan.kept_fraction, kept.sum() / dense, rtol=1e-6)


def test_keys_of_their_own_with_positions_and_empty_slots():
    query, key = lognormal(40), lognormal(75, seed=1)
    r = np.random.default_rng(2)
    place, key_place = r.permutation(100)[:40], r.permutation(100)[:75]
    key_place[:5] = 2**31 - 1
    plan = schedule(
        jnp.asarray(query),
        1.0,
        key_score=jnp.asarray(key),
        query_position=jnp.asarray(place),
        key_position=jnp.asarray(key_place),
        edges=jnp.array([0.5, 1.0, 2.0], jnp.float32),
        block_size=8,
    )
    passing = query[:, None] * key[None] > 1.0
    passing &= place[:, None] >= key_place[None]
    some, whole = block_masks(plan, passing)
    kept, full = ranges(plan)
    assert not (some & ~kept).any()
    real = np.asarray(plan.key_order).reshape(-1, 8)
    real = [not (set(block) & set(range(5))) for block in real]  # absent keys are masked anyway
    assert not (full & ~whole)[:, real].any()
    assert kept.sum() < 0.7 * kept.size


@pytest.mark.parametrize("window", [1, 20, 300])
def test_kept_fraction_counts_the_local_band(window):
    s = jnp.zeros(300, jnp.float32)
    plan = schedule(s, 0.5, local_window=window, block_size=16)
    i, j = np.indices((300, 300))
    near = (np.abs(i - j) < window) & (j <= i)
    near = np.pad(near, ((0, 4), (0, 4))).reshape(19, 16, 19, 16).any((1, 3))
    np.testing.assert_allclose(plan.kept_fraction, near.sum() / 190, rtol=1e-6)


@pytest.mark.parametrize("fitted", [True, False])
def test_a_product_gate_pays(fitted):
    """25% of pairs at N = 16384: <= 0.40 of the dense causal blocks, 0.25 is the exact share."""
    s = jnp.asarray(lognormal(16384))
    tau = scattering.threshold_for_density(s, 0.25)
    edges = None
    if not fitted:
        edges = scattering.class_edges(jnp.asarray(lognormal(16384, seed=9)), tau, length=16384)
        assert bool(jnp.isfinite(edges).all())
        assert edges.size < 16
    plan = schedule(s, tau, edges=edges)
    assert 0.25 < float(plan.kept_fraction) < (0.38 if fitted else 0.395)


def test_edges_are_as_wide_as_an_array_is_and_numbers_are_not():
    with jax.enable_x64(True):
        found = [
            scattering.default_edges(tau, length=256).dtype
            for tau in (0.04, np.float64(0.04), np.float32(0.04), jnp.asarray(0.04, jnp.float64))
        ]
    assert found == [jnp.float32, jnp.float32, jnp.float32, jnp.float64]


def test_default_edges_pay_for_bounded_scores():
    s = jnp.asarray(np.random.default_rng(0).beta(1, 3, size=16384).astype(np.float32))
    tau = scattering.threshold_for_density(s, 0.25)
    edges = scattering.default_edges(tau, length=16384)
    assert float(schedule(s, tau, edges=edges).kept_fraction) < 0.40


def test_a_later_token_moves_no_earlier_one_in_its_block():
    s, edges = lognormal(200), jnp.array([0.5, 1.0, 2.0], jnp.float32)
    later = s.copy()
    later[120:] = lognormal(80, seed=3)

    def neighbours(score):
        order = np.asarray(schedule(jnp.asarray(score), 1.0, edges=edges, block_size=8).query_order)
        return {
            token: (slot % 8, tuple(t for t in order[slot - slot % 8 : slot]))
            for slot, token in enumerate(order)
            if token < 120
        }

    assert neighbours(s) == neighbours(later)


def test_batch_axes_vmap_and_pytree():
    s = jnp.asarray(lognormal(2, 3, 64))
    tau = jnp.array([[0.5], [1.0]], jnp.float32) * jnp.ones((2, 3), jnp.float32)
    whole = schedule(s, tau, block_size=8, classes=4)
    mapped = jax.jit(
        jax.vmap(jax.vmap(lambda s, t: scattering.schedule(s, t, block_size=8, classes=4)))
    )(s, tau)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(mapped), strict=True):
        np.testing.assert_array_equal(a, b)
    assert (mapped.block_size, mapped.classes, mapped.query_length) == (8, 4, 64)


def test_equal_scores_and_a_zero_threshold():
    flat = schedule(jnp.ones(64, jnp.float32), 0.5, block_size=8)
    assert float(flat.kept_fraction) == 1.0
    closed = schedule(jnp.ones(64, jnp.float32), 1.0, block_size=8)
    assert float(closed.kept_fraction) == 0.0
    s = jnp.tile(jnp.array([0.0, 1e-3], jnp.float32), 64)
    edges = scattering.default_edges(0.0, length=128, block_size=8)
    half = schedule(s, 0.0, edges=edges, block_size=8)
    np.testing.assert_allclose(half.kept_fraction, 36 / 136)


def test_errors_name_the_argument(bare_errors):
    s = jnp.ones(8, jnp.float32)
    with pytest.raises(ValueError, match="threshold must be >= 0"):
        scattering.schedule(s, -1.0)
    with pytest.raises(ValueError, match="at least one token"):
        scattering.schedule(s[:0], 0.1)
    with pytest.raises(ValueError, match="query_position and key_position must be given"):
        scattering.schedule(s, 0.1, key_score=s[:5])
    with pytest.raises(TypeError, match="query_position must be integers"):
        scattering.schedule(s, 0.1, query_position=s)
    with pytest.raises(ValueError, match="classes must be >= 2"):
        scattering.schedule(s, 0.1, classes=1)
    with pytest.raises(ValueError, match="sample must hold"):
        scattering.class_edges(s[:0], 0.1, length=8)
