"""Lists of blocks against the mask of all pairs: nothing is left out, and what is free is whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.attention import _arguments, _visits
from physnet.attention._dense import pair_mask
from physnet.attention._loops import Rule

SIZE, BLOCKS, KEY_BLOCKS, HEADS = 8, 6, 5, 3
NO_TOKEN = int(_arguments.NO_TOKEN)


def labels(r, *, segments, scores, extreme):
    """Positions (in part of no token), segments and scores of some queries and keys."""
    lengths = (BLOCKS * SIZE, KEY_BLOCKS * SIZE)
    low = -(2**30) if extreme else 0
    step = 2**31 // 64 if extreme else 1
    sides = []
    for length in lengths:
        place = r.permutation(60)[:length].astype(np.int64)
        if r.uniform() < 0.5:
            place = np.sort(place)
        place = low + step * place
        place[r.uniform(size=length) < r.choice([0.0, 0.1])] = NO_TOKEN
        if r.uniform() < 0.5:
            place[-SIZE:] = NO_TOKEN
        sides.append(place.astype(np.int32)[None])
    many = HEADS if scores == "own" else 1
    score = tau = (None, None)
    if scores:
        choice = r.choice([0.1, 0.5, 0.8], size=1 if r.uniform() < 0.5 else KEY_BLOCKS)
        score = [
            np.repeat(r.choice(choice, size=(1, many, n // SIZE)), SIZE, axis=2).astype(np.float32)
            for n in lengths
        ]
        tau = np.full((1, many), r.choice([0.0, 0.05, 0.25, 0.3]), np.float32)
    segment = (None, None)
    if segments:
        segment = [np.repeat(r.integers(0, 2, (1, n // SIZE)), SIZE, 1) for n in lengths]
        segment = [x.astype(np.int32) for x in segment]
    made = _visits.Labels(*sides, *segment, *score, tau if scores else None)
    return jax.tree.map(jnp.asarray, made)


def all_pairs(rule, x):
    """(1, H, T, S) by the plain form: the band apart, as the two passes have it."""

    def of(scores, window):
        pairs = _arguments.Pairs(
            scores,
            _arguments.Labels(x.query_position, x.key_position),
            None if x.query_segment is None else _arguments.Labels(x.query_segment, x.key_segment),
        )
        return np.asarray(pair_mask(pairs, local_window=window, is_causal=rule.is_causal))

    scores = nothing = None
    if x.query_score is not None:
        turned = (jnp.swapaxes(s, 1, 2) for s in (x.query_score, x.key_score))
        scores = _arguments.Scores(*turned, x.threshold[0])
    one = jnp.zeros((1, x.query_position.shape[1], 1), jnp.float32)
    other = jnp.zeros((1, x.key_position.shape[1], 1), jnp.float32)
    nothing = _arguments.Scores(one, other, jnp.ones(1, jnp.float32))
    gated, near = of(scores, 0), of(nothing, rule.window)
    return {"all": gated, "far": gated & ~near, "near": near}[rule.band]


@pytest.mark.parametrize("band", ["all", "far", "near"])
@pytest.mark.parametrize("is_causal", [True, False])
def test_lists_hold_every_pair_and_free_blocks_are_whole(band, is_causal):
    r = np.random.default_rng(7)
    found = np.zeros(3, int)
    for trial in range(40):
        extreme = trial % 5 == 4
        step = 2**31 // 64 if extreme else 1
        window = int(r.choice([1, 4, 20, 10**9])) * step
        rule = Rule(band, min(window, NO_TOKEN), is_causal, 1.0)
        scores = (None, "shared", "own")[trial % 3]
        x = labels(r, segments=trial % 2 == 0, scores=scores, extreme=extreme)
        kept = None
        if band == "all" and r.uniform() < 0.3:
            kept = jnp.asarray(r.uniform(size=(1, 1, BLOCKS, KEY_BLOCKS)) < 0.7)
        lists = _visits.lists(rule, x, kept, SIZE)
        mask = all_pairs(rule, x)
        if kept is not None:
            mask = mask & np.kron(np.asarray(kept), np.ones((SIZE, SIZE), bool))
        heads = lists.steps.shape[1]
        mask = np.broadcast_to(mask, (1, heads, *mask.shape[2:]))
        blocks = mask.reshape(1, heads, BLOCKS, SIZE, KEY_BLOCKS, SIZE)
        some, whole = blocks.any((3, 5)), blocks.all((3, 5))
        for h in range(heads):
            visited = np.zeros((BLOCKS, KEY_BLOCKS), bool)
            for i in range(BLOCKS):
                steps = np.asarray(lists.steps)[0, h, i, : int(lists.count[0, h, i])]
                assert (np.diff(steps // 2) > 0).all()
                visited[i, steps // 2] = True
                for step in steps:
                    found += [1, step % 2 == 0, 0]
                    assert step % 2 == 1 or whole[0, h, i, step // 2]
            assert not (some[0, h] & ~visited).any()
            found += [0, 0, (~visited).sum()]
            turned = np.zeros_like(visited)
            for j in range(KEY_BLOCKS):
                steps = np.asarray(lists.key_steps)[0, h, j, : int(lists.key_count[0, h, j])]
                turned[steps // 2, j] = True
            np.testing.assert_array_equal(turned, visited)
            counts = np.asarray(lists.count)[0, h][np.asarray(lists.order)[0, h]]
            assert (np.diff(counts) <= 0).all()
    assert (found > 5).all()  # visited, free and skipped blocks were all there
