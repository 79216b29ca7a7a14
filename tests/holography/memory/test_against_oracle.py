"""Streaming and training forms against a memory written as lists of tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from memory_oracle import Oracle

from physnet.holography import memory

D, E, T = 4, 2, 75
CONFIGS = {
    "all parts": memory.Config(
        window=8, block=4, sinks=3, landmarks=5, per_level=3, levels=3, merge="kernel"
    ),
    "last level full": memory.Config(
        window=0, block=3, sinks=0, landmarks=0, per_level=2, levels=2
    ),
    "no levels": memory.Config(window=4, block=4, sinks=9, landmarks=6, levels=0),
    "newer ones first": memory.Config(
        window=4, block=4, sinks=1, landmarks=6, per_level=2, levels=3, recency=15.0
    ),
}
cases = pytest.mark.parametrize("name", CONFIGS)


def tokens(seed=0, time=T):
    rng = np.random.default_rng(seed)
    score = np.where(rng.uniform(size=time) < 0.1, 0, rng.uniform(size=time))
    score[time // 2 :] = np.round(score[time // 2 :], 1)  # ties
    arrays = rng.normal(size=(time, D)), rng.normal(size=(time, D)), rng.normal(size=(time, E))
    return tuple(jnp.asarray(x, jnp.float32) for x in (*arrays, score))


def stream(config, query, key, value, score, threshold):
    def step(held, token):
        held = memory.append(held, *token[1:], threshold=threshold)
        return held, memory.attend(token[0], held)

    start = memory.init(None, D, value_dim=E, config=config)
    return jax.lax.scan(step, start, (query, key, value, score))


def in_pieces(config, query, key, value, score, threshold):
    held, found = memory.init(None, D, value_dim=E, config=config), []
    for piece in (slice(0, 2), slice(2, T)):
        y, held = memory.decode(
            query[piece], held, key[piece], value[piece], score[piece], threshold=threshold
        )
        found.append(y)
    return jnp.concatenate(found), held


run = jax.jit(stream, static_argnums=0)
decode = jax.jit(in_pieces, static_argnums=0)


@cases
def test_streaming_and_training_form(name, optimized):
    config, threshold = CONFIGS[name], 0.25
    query, key, value, score = tokens()
    oracle, wanted = Oracle(config, threshold), []
    for q, k, v, s in zip(*(np.asarray(x, float) for x in (query, key, value, score)), strict=True):
        oracle.append(k, v, s)
        found = oracle.attend(q, D**-0.5)
        wanted.append(np.zeros(E) if found is None else found)
    held, streamed = run(config, query, key, value, score, threshold)
    np.testing.assert_allclose(streamed, wanted, atol=3e-6)
    whole = jax.jit(
        lambda *x: memory.attention(*x, config=config, threshold=threshold, tokens_at_once=16)
    )(query, key, value, score)
    assert whole.dtype == streamed.dtype == jnp.float32
    np.testing.assert_allclose(whole, wanted, atol=3e-6)

    decoded, after = decode(config, query, key, value, score, threshold)
    np.testing.assert_allclose(decoded, wanted, atol=3e-6)
    for a, b in zip(jax.tree.leaves(after), jax.tree.leaves(held), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)

    found = memory.slots(held)
    there = np.flatnonzero(found.mass > 0)
    entries = oracle.entries()
    order = np.argsort([x.position for x in entries], kind="stable")
    mine = there[np.argsort(np.asarray(found.position)[there], kind="stable")]
    assert len(mine) == len(entries)
    for field in ("key", "value", "mass", "position"):
        exact = np.array([getattr(entries[i], field) for i in order])
        np.testing.assert_allclose(np.asarray(getattr(found, field))[mine], exact, atol=2e-5)


def test_extend_is_append_however_it_is_cut():
    config = CONFIGS["all parts"]
    _, key, value, score = tokens(1)
    one, _ = run(config, key, key, value, score, 0.25)
    cut = memory.init(None, D, value_dim=E, config=config)
    for piece in (slice(0, 1), slice(1, T)):
        cut = memory.extend(cut, key[piece], value[piece], score[piece], threshold=0.25)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(cut), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)
