"""The benchmark of caches: tasks can be solved, peers are what they say, the script runs."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

from kv import (  # noqa: E402
    boundary,
    dense,
    eviction,
    levels,
    losses,
    lowrank,
    methods,
    parallel,
    quantised,
    results,
    tasks,
)
from kv.model import rotate  # noqa: E402

T, D = 64, 16


@pytest.fixture(autouse=True)
def ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def head():
    q, k, v = jax.random.normal(jax.random.key(0), (3, T, D), jnp.float32)
    return q, k, v, jax.nn.sigmoid(jax.random.normal(jax.random.key(1), (T,)))


def reference(q, k, v, seen):
    """Softmax attention row by row in float64 over the tokens that `seen(t)` lists."""
    q, k, v = (np.asarray(x, np.float64) for x in (rotated(q), rotated(k), v))
    out = []
    for t in range(len(q)):
        tokens = sorted(seen(t))
        weight = np.exp(q[t] @ k[tokens].T / D**0.5)
        out.append(weight @ v[tokens] / weight.sum())
    return np.stack(out)


def rotated(x):
    return rotate(x, jnp.arange(len(x), dtype=x.dtype))


def test_each_question_has_its_answer_in_the_prompt():
    task = tasks.Task(context=128, pairs=12, span=12)
    tokens, wanted = map(np.asarray, tasks.sequences(task, jax.random.key(0), 4))
    assert tokens.shape == (16, 128)
    assert tokens.max() < task.vocab_size
    for index, (row, want) in enumerate(zip(tokens, wanted, strict=True)):
        asked = np.flatnonzero(want >= 0)
        assert (asked >= task.prompt).all()
        assert len(asked) == (12, 12, 4, 10)[index // 4]
        for t in asked:
            if index // 4 == 3:
                table = row[: task.prompt].reshape(-1, 3)
                hits = (table[:, :2] == row[t - 1 : t + 1]).all(1)
                assert hits.sum() == 1
                assert table[hits][0, 2] == want[t]
                continue
            found = np.flatnonzero(row[: task.prompt] == row[t])
            assert len(found) == 1  # a key, a mark, a token of the string: once in the prompt
            assert row[found[0] + 1] == want[t]


def test_windows_tile_the_text():
    text = np.arange(300)
    pieces, wanted = tasks.windows(text, 64)
    asked = wanted[wanted >= 0]
    assert (np.diff(asked) == 1).all()
    assert (asked == pieces[wanted >= 0] + 1).all()


def test_full_and_window_are_attention_over_these_tokens(head):
    q, k, v, _ = head
    np.testing.assert_allclose(
        dense.full(None, *head), reference(q, k, v, lambda t: range(t + 1)), atol=1e-5
    )
    out, loss = dense.taught(None, *head)
    np.testing.assert_allclose(out, dense.full(None, *head), atol=1e-6)
    assert loss > 0
    seen = lambda t: {j for j in range(t + 1) if j < 4 or t - j < 12}  # noqa: E731
    np.testing.assert_allclose(
        eviction.window(16)(None, *head), reference(q, k, v, seen), atol=1e-5
    )


def test_h2o_keeps_the_heavy_and_the_recent(head):
    tokens, block = 24, eviction.BLOCK
    recent, heavy = 4, 4
    scores = np.asarray(dense.logits(head[0], head[1]), np.float64)
    alive, mass, expected = [], np.zeros(T), np.zeros((T, T), bool)
    for first in range(0, T, block):
        for t in range(first, first + block):
            seen = [*alive, *range(first, t + 1)]
            expected[t, seen] = True
            weight = np.exp(scores[t, seen] - scores[t, seen].max())
            mass[seen] += weight / weight.sum()
        last = list(range(first + block - recent, first + block))
        others = [j for j in {*alive, *range(first, first + block)} if j not in last]
        alive = sorted([*sorted(others, key=lambda j: -mass[j])[:heavy], *last])
    mask = np.asarray(eviction.h2o_mask(jnp.asarray(scores, jnp.float32), tokens=tokens))
    np.testing.assert_array_equal(mask, expected)
    assert mask.sum(1).max() <= tokens


def test_snapkv_keeps_what_the_last_queries_vote_for():
    scores = jnp.zeros((T * 2, T * 2)).at[96 - 32 : 96, 10].set(20.0)
    mask = np.asarray(eviction.snapkv_mask(scores, tokens=32 + 7))
    assert mask[96].sum() == 7 + 32  # the vote is pooled over seven tokens
    assert set(np.flatnonzero(mask[100])) == {*range(7, 14), *range(69, 101)}
    np.testing.assert_array_equal(mask[:96], np.tril(np.ones((128, 128), bool))[:96])
    told = jnp.zeros((T * 2, T * 2)).at[96:, 40].set(20.0)
    assert np.asarray(eviction.snapkv_mask(told, tokens=39, shown=True))[127, 40]
    assert not np.asarray(eviction.snapkv_mask(told, tokens=39))[127, 40]


def test_quantised_cache(head):
    q, k, v, s = head
    x = np.asarray(k)
    for bits in (2, 4):
        error = np.abs(np.asarray(quantised.quantise(k, bits, 0)) - x)
        step = (x.max(0) - x.min(0)) / (2**bits - 1)
        assert (error <= 0.52 * step + 0.03).all()
        assert error.mean() > 0.1 * step.mean()
    near = quantised.quantised(12)(None, *head)
    np.testing.assert_allclose(near, dense.full(None, *head), atol=0.03)
    seen = lambda t: {j for j in range(t + 1) if j < 4 or t // 32 == j // 32}  # noqa: E731
    own = quantised.quantised(2, 0)(None, *head)
    np.testing.assert_allclose(own, reference(q, k, v, seen), atol=1e-5)
    # 32 tokens of keys and values in 2 bits, their scales and zeros; a group and 4 sinks exact.
    one = 32 * 2 * D * 2 / 8 + 4 * D + 4 * 32
    assert quantised.quantised_bytes(1, 2, D) == one + 36 * 4 * D
    slope = jax.grad(lambda k: jnp.sum(quantised.quantised(2)(None, q, k, v, s) ** 2))(k)
    assert np.abs(np.asarray(slope)[:32]).min() >= 0
    assert np.abs(np.asarray(slope)[:16]).max() > 0


def test_low_rank_is_exact_at_full_rank(head):
    _, k, v, _ = head
    whole = dense.full(None, *head)
    np.testing.assert_allclose(lowrank.svd(D)(None, *head), whole, atol=0.05)
    basis = np.linalg.svd(np.asarray(k[:48], np.float64))[2][:3].T
    own = np.asarray(lowrank.leading(k[:48], 3), np.float64)
    np.testing.assert_allclose(own @ own.T, basis @ basis.T, atol=1e-4)
    start = lowrank.latent_start(k, v, D)
    np.testing.assert_allclose(lowrank.latent(start, *head), whole, atol=0.05)


def test_levels_are_a_binary_counter_of_means():
    length, per_level, near = 512, 2, 32
    q, k, v = jax.random.normal(jax.random.key(2), (3, length, D))
    own = levels.levels_start(length, D)
    out = np.asarray(levels.levels(per_level, near)(own, q, k, v, None))
    block = levels.BLOCK
    counter: list[list[list[int]]] = []  # level -> slots -> blocks, pushed one by one
    most = 0
    for b in range(length // block):
        if b > near // block:
            carry, l = [b - near // block - 1], 0
            while carry:
                if l == len(counter):
                    counter.append([])
                counter[l].append(carry)
                carry = counter[l].pop(0) + counter[l].pop(0) if len(counter[l]) > per_level else []
                l += 1
        slots = [slot for level in counter for slot in level]
        most = max(most, len(slots))
        t = b * block + block // 2
        recent = [j for j in range(t + 1) if b - j // block <= near // block]
        keys, values, weight = [rotated(k)[jnp.array(recent)]], [v[jnp.array(recent)]], []
        for slot in slots:
            tokens = np.concatenate([np.arange(c * block, (c + 1) * block) for c in slot])
            keys.append(rotate(k[tokens].mean(0), jnp.float32(tokens.mean()))[None])
            values.append(v[tokens].mean(0)[None])
            weight.append(np.log(len(tokens)))
        logits = np.asarray(rotated(q)[t] @ jnp.concatenate(keys).T) / D**0.5
        logits[len(recent) :] += weight
        share = np.exp(logits - logits.max())
        expected = share @ np.asarray(jnp.concatenate(values)) / share.sum()
        np.testing.assert_allclose(out[t], expected, atol=0.02)
    assert most <= levels.most_slots(length, per_level)


@pytest.mark.parametrize("kind", ["scored bf16", "scored 4", "scored 2", "means", "scored alone 4"])
def test_boundary_fits_its_bytes(kind):
    from physnet.holography import memory

    for ratio in (8, 32):
        budget = 2048 * 256 // ratio
        method = methods.boundary_of(kind, ratio, budget, 2048, 64)
        assert method.nbytes <= budget
        assert method.nbytes > 0.9 * budget
        held = memory.init(None, 64, config=method.config, dtype=jnp.bfloat16)
        assert held.nbytes == method.nbytes
        assert bool(method.config.landmarks) == (kind != "means")
        assert bool(method.config.levels) == ("alone" not in kind)


def test_sizes_of_peers_fit_their_bytes():
    for ratio in (4, 8, 16, 32):
        budget = 2048 * 256 // ratio
        makers = (methods.window, methods.h2o, methods.snapkv, methods.latent, methods.log_linear)
        for make in makers:
            assert 0.85 * budget < make(ratio, budget, 2048, 64).nbytes <= budget
        if ratio < 32:
            assert 0.7 * budget < methods.svd(ratio, budget, 2048, 64).nbytes <= budget
            for bits in (2, 4):
                nbytes = methods.few_bits(bits, ratio, budget, 2048, 64).nbytes
                assert 0.85 * budget < nbytes <= budget


def test_what_is_lost_and_what_is_not():
    x = jax.random.normal(jax.random.key(3), (20, 5))
    pattern = jnp.int32(0)
    for way in losses.WAYS:
        whole = losses.operators(way, 20, 0.0)[0] @ losses.packets(way, x, pattern)
        np.testing.assert_allclose(whole, x, atol=2e-3)
    kept = losses.operators("unprotected", 20, 0.25)[0] @ x
    assert (np.abs(np.asarray(kept)).max(1) == 0).sum() == 5
    twice = [o.any(1).sum() for o in losses.operators("replicated", 20, 0.25)]
    assert 15 < np.mean(twice) < 20  # both copies of some are among the 10 of 40 that are lost
    coded = losses.operators("coded", 20, 0.25)[0] @ losses.packets("coded", x, pattern)
    np.testing.assert_allclose(coded, x, atol=2e-3)
    assert losses.operators("coded", 20, 0.25).shape == (losses.PATTERNS, 20, 40)


@pytest.mark.parametrize(("bits", "biased"), [(None, True), (4, False)])
def test_parallel_form_is_the_memory(bits, biased):
    """What is trained with equals what is measured: numbers and gradients."""
    from physnet.holography import memory

    config = memory.Config(8, 8, 2, 12, 2, 5, bits, recency=None if bits else 40.0)
    alone = memory.Config(8, 8, 2, 12, 2, 0, bits)
    q, k, v = jax.random.normal(jax.random.key(4), (3, 2 * T, D), jnp.float32)
    s = jax.nn.sigmoid(3 * jax.random.normal(jax.random.key(5), (2 * T,), jnp.float32))
    own = jnp.linspace(-0.1, 0.1, 5, dtype=jnp.float32)  # of five levels
    for sizes, atol in ((config, 0.06 if bits else 2e-5), (alone, 2e-5)):
        given = own[: sizes.levels]

        def both(form, sizes=sizes, given=given):
            def loss(given, *head):
                out = form.boundary(sizes, biased=biased)(given, *head)
                return jnp.sum(jnp.sin(out)), out

            run = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3, 4), has_aux=True))
            return run(given, q, k, v, s)

        (_, one), slope = both(parallel)
        (_, two), other = both(boundary)
        np.testing.assert_allclose(one, two, atol=atol)
        if bits is None:
            for a, b in zip(slope, other, strict=True):
                np.testing.assert_allclose(a, b, atol=1e-4)


def test_entries_handed_over_are_those_of_the_memory(head):
    """Without losses a query right behind the prompt finds what the training form gives it."""
    q, k, v, s = head
    config = boundary.size(4096, D, length=T, bits=None)
    whole = jax.jit(boundary.boundary(config))(None, q, k, v, s)
    maps = losses.operators("coded", losses.entries_of(config), 0.25)[0]
    k, v = (x.astype(jnp.bfloat16).astype(jnp.float32) for x in (k, v))
    damaged = jax.jit(functools.partial(losses.damaged, config, "coded"))
    entries = damaged(maps, jnp.int32(0), (k[:48], v[:48], s[:48]))
    own = losses.attend_tail(entries, *(x[48:] for x in (q, k, v, s)), first=48)
    np.testing.assert_allclose(own[0], whole[48], atol=0.05)


def test_front_and_pairs():
    rows = [
        {"bytes": b, "score": [s, s + 0.02]} for b, s in ((4, 0.5), (1, 0.2), (2, 0.6), (3, 0.55))
    ]
    assert [r["bytes"] for r in results.front(rows, "score")] == [1, 2]
    assert [r["bytes"] for r in results.front(rows, "score", least=True)] == [1]
    mean, error = results.paired(rows[0], rows[1], "score")
    assert abs(mean - 0.3) < 1e-12
    assert error < 1e-12


@pytest.mark.slow
def test_script(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    output, picture = tmp_path / "r.json", tmp_path / "p.png"
    text = BENCHMARKS / "kv_memory.py"
    command = [sys.executable, str(text), "--preset", "smoke", "--seeds", "2", "--text", str(text)]
    command += ["--output", str(output), "--compilers", "1"]

    def run(*more):
        done = subprocess.run(
            [*command, *more],
            env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": ""},
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(output.read_text())["rows"]

    rows = run("--data", "recall", "--only", "bf16")
    assert len({results.identity(row) for row in rows}) == len(rows) == 2 + 15
    assert all(row["bytes"] > 0 for row in rows)
    before = {results.identity(row): row for row in rows}
    rows = run("--data", "text", "--only", "window", "--picture", str(picture))
    assert picture.stat().st_size > 10_000
    assert {row["data"] for row in rows} == {"recall", "text"}
    for row in rows:  # those of the first run were kept as they were
        if row["data"] == "recall":
            assert row == before[results.identity(row)]
        else:
            assert all(0 < bits < 12 for bits in row["bits"])
