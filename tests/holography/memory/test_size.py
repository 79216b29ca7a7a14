"""Area law, sums, budgets: what a memory holds and what it weighs."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.holography import memory
from physnet.holography.memory import _counter
from physnet.holography.memory._assign import shares

extend, slots = jax.jit(memory.extend), jax.jit(memory.slots)  # not op by op

TINY = memory.Config(window=16, block=16, sinks=1, landmarks=2, per_level=4, levels=16)


def test_slots_grow_with_the_logarithm_of_a_line(optimized):
    """2^20 tokens, counted; and their sums are still there."""
    run = jax.jit(lambda held, x, s: memory.extend(held, x, x, s))
    listed = jax.jit(memory.slots)
    piece, held, used, total = 2**16, memory.init(None, 2, config=TINY), {}, np.zeros(4)
    for n in range(16):
        rng = np.random.default_rng(n)
        x = np.float32(rng.normal(size=(piece, 2)) + 1)
        score = np.float32(rng.uniform(0.01, 1, size=piece))
        held = run(held, x, score)
        t, s = n * piece + np.arange(piece), np.asarray(score, float)
        total += [s.sum(), *(s @ np.asarray(x, float)), s @ t]
        found = jax.tree.map(np.asarray, listed(held))
        used[int(held.count)] = int(np.sum((found.mass > 0) & (found.level >= 0)))
    mass = np.asarray(found.mass, float)
    means = np.asarray(found.key, float), np.asarray(found.position, float)
    np.testing.assert_allclose([mass.sum(), *(mass @ means[0]), mass @ means[1]], total, rtol=2e-5)
    assert max(used) == 2**20
    for count, slots in used.items():  # c (log2(n / c) + 1) of n blocks
        assert 3 * math.log2(count / 16 / 4) <= slots <= 4 * (math.log2(count / 16 / 4) + 1)
    assert used[2**20] <= used[2**16] + 4 * 4 <= 64


def test_the_last_level_takes_any_length():
    config = dataclasses.replace(TINY, levels=2, block=2, window=2)
    x = np.ones((301, 1), np.float32)
    found = slots(extend(memory.init(None, 1, config=config), x, x))
    found = jax.tree.map(np.asarray, found)
    assert float(found.mass.sum()) == 301
    oldest = found.mass[found.level == 1][0]
    assert float(oldest) > 250  # all that no other slot holds


def test_sizes_of_a_budget_are_named(bare_errors):
    for given, why in (
        ({"budget_bytes": 0}, "budget_bytes must be >= 1, got 0"),
        ({"head_dim": 0}, "head_dim must be >= 1, got 0"),
        ({"block": 0}, "block must be >= 1, got 0"),
        ({"per_level": 1}, "per_level must be >= 2, got 1"),
        ({"longest": 0}, "longest must be >= 1, got 0"),
    ):
        with pytest.raises(ValueError, match=why):
            memory.configure(**({"budget_bytes": 10_000, "head_dim": 8} | given))


@pytest.mark.parametrize("bits", [None, 8, 4, 2])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float64])
def test_a_budget_counts_every_leaf(bits, dtype):
    for budget in (10_000, 300_000):
        start = functools.partial(memory.init, budget, 16, value_dim=8, dtype=dtype, bits=bits)
        held = jax.eval_shape(start)
        leaves = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(held))
        assert leaves == held.nbytes == held.config.nbytes(16, value_dim=8, dtype=dtype)
        assert leaves <= budget
    assert leaves > 0.98 * budget  # and it is used
    with pytest.raises(ValueError, match="budget_bytes must be at least"):
        memory.init(500, 16, value_dim=8, dtype=dtype, bits=bits)


def test_levels_that_a_length_needs():
    for longest in (16, 100, 1_000):
        config = memory.configure(10**5, 4, block=4, per_level=3, longest=longest)
        for levels, enough in ((config.levels, True), (config.levels - 1, False)):
            blocks = np.full((), -(-longest // 4), np.int32)
            sizes = dataclasses.replace(config, levels=max(levels, 1))
            start, stop = _counter.spans(sizes, blocks)
            top = sizes.per_level * (sizes.levels - 1)
            merged_in_place = stop[top] - start[top] > 2 ** (sizes.levels - 1)
            assert merged_in_place != enough or levels == 0


@pytest.mark.parametrize("merge", ["mean", "kernel"])
def test_no_token_is_lost_where_positions_are_rounded(merge):
    config = dataclasses.replace(TINY, levels=18, merge=merge)
    block = 2**20 + 3  # the tokens of the last block, from 2^24 on
    edges = _counter.spans(config, np.full((), block + 1, np.int32))
    start, stop = (np.float32(x * 16) for x in edges)
    token = np.arange(block * 16, block * 16 + 16, dtype=np.int32).astype(np.float32)
    assert np.any(token == np.max(stop))
    part = np.asarray(jax.jit(shares, static_argnums=0)(config, token, start, stop))
    np.testing.assert_allclose(np.sum(part, 0), 1.0, rtol=1e-6)
    assert (part[np.argmax(edges[1])] >= 0.3).all()


@pytest.mark.parametrize("merge", ["mean", "kernel"])
def test_shares_of_a_token_sum_to_one(merge):
    config = dataclasses.replace(TINY, merge=merge, window=0, sinks=0, landmarks=3)
    rng = np.random.default_rng(0)
    x = np.float32(rng.normal(size=(700, 3)))
    score = np.float32(rng.uniform(size=700))
    found = slots(extend(memory.init(None, 3, config=config), x, x, score))
    found = jax.tree.map(np.asarray, found)
    np.testing.assert_allclose(found.mass.sum(), score.sum(), rtol=1e-6)
    np.testing.assert_allclose(found.mass @ found.value, score @ x, atol=1e-4)
    lowest = found.mass[found.level == 0]
    assert (lowest > 0).sum() >= 3
