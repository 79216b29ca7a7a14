"""The benchmark of caches: tasks can be solved, peers are what they say, the script runs."""

import functools
import json

import jax
import jax.numpy as jnp
import kv_memory
import numpy as np
import pytest
from kv import (
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
from kv.model import rotate

T, D = 64, 16


@pytest.fixture(autouse=True)
def ranks():
    with jax.numpy_rank_promotion("allow"):
        yield


@pytest.fixture
def head():
    rng = np.random.default_rng(0)
    q, k, v = rng.normal(size=(3, T, D)).astype(np.float32)
    score = 1 / (1 + np.exp(-rng.normal(size=T)))
    return tuple(map(jax.device_put, (q, k, v, score.astype(np.float32))))


def reference(q, k, v, seen):
    """Softmax attention row by row in float64 over the tokens that `seen(t)` lists."""
    q, k, v = (np.asarray(x, np.float64) for x in (rotated(q), rotated(k), v))
    out = []
    for t in range(len(q)):
        tokens = sorted(seen(t))
        weight = np.exp(q[t] @ k[tokens].T / D**0.5)
        out.append(weight @ v[tokens] / weight.sum())
    return np.stack(out)


turned = jax.jit(rotate)


def rotated(x):
    return np.asarray(turned(x, np.arange(len(x), dtype=x.dtype)))


def test_each_question_has_its_answer_in_the_prompt():
    task = tasks.Task(context=128, pairs=12, span=12)
    sequences = jax.jit(tasks.sequences, static_argnums=(0, 2))
    tokens, wanted = map(np.asarray, sequences(task, jax.random.key(0), 4))
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
    whole = jax.jit(dense.full)(None, *head)
    np.testing.assert_allclose(whole, reference(q, k, v, lambda t: range(t + 1)), atol=1e-5)
    out, loss = jax.jit(dense.taught)(None, *head)
    np.testing.assert_allclose(out, whole, atol=1e-6)
    assert loss > 0
    seen = lambda t: {j for j in range(t + 1) if j < 4 or t - j < 12}  # noqa: E731
    near = jax.jit(eviction.window(16))(None, *head)
    np.testing.assert_allclose(near, reference(q, k, v, seen), atol=1e-5)


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
    kept = jax.jit(eviction.h2o_mask, static_argnames="tokens")
    mask = np.asarray(kept(np.float32(scores), tokens=tokens))
    np.testing.assert_array_equal(mask, expected)
    assert mask.sum(1).max() <= tokens


def test_snapkv_keeps_what_the_last_queries_vote_for():
    kept = jax.jit(eviction.snapkv_mask, static_argnames=("tokens", "shown"))
    scores, told = np.zeros((2, T * 2, T * 2), np.float32)
    scores[96 - 32 : 96, 10] = 20.0
    mask = np.asarray(kept(scores, tokens=32 + 7))
    assert mask[96].sum() == 7 + 32  # the vote is pooled over seven tokens
    assert set(np.flatnonzero(mask[100])) == {*range(7, 14), *range(69, 101)}
    np.testing.assert_array_equal(mask[:96], np.tril(np.ones((128, 128), bool))[:96])
    told[96:, 40] = 20.0
    assert np.asarray(kept(told, tokens=39, shown=True))[127, 40]
    assert not np.asarray(kept(told, tokens=39))[127, 40]


def test_quantised_cache(head):
    q, k, v, s = head
    x = np.asarray(k)
    for bits in (2, 4):
        error = np.abs(
            np.asarray(jax.jit(quantised.quantise, static_argnums=(1, 2))(k, bits, 0)) - x
        )
        step = (x.max(0) - x.min(0)) / (2**bits - 1)
        assert (error <= 0.52 * step + 0.03).all()
        assert error.mean() > 0.1 * step.mean()
    near = jax.jit(quantised.quantised(12))(None, *head)
    np.testing.assert_allclose(near, jax.jit(dense.full)(None, *head), atol=0.03)
    seen = lambda t: {j for j in range(t + 1) if j < 4 or t // 32 == j // 32}  # noqa: E731
    own = jax.jit(quantised.quantised(2, 0))(None, *head)
    np.testing.assert_allclose(own, reference(q, k, v, seen), atol=1e-5)
    # 32 tokens of keys and values in 2 bits, their scales and zeros; a group and 4 sinks exact.
    one = 32 * 2 * D * 2 / 8 + 4 * D + 4 * 32
    assert quantised.quantised_bytes(1, 2, D) == one + 36 * 4 * D
    loss = lambda k: jnp.sum(quantised.quantised(2)(None, q, k, v, s) ** 2)  # noqa: E731
    slope = jax.jit(jax.grad(loss))(k)
    assert np.abs(np.asarray(slope)[:32]).min() >= 0
    assert np.abs(np.asarray(slope)[:16]).max() > 0


def test_low_rank_is_exact_at_full_rank(head):
    _, k, v, _ = head
    whole = jax.jit(dense.full)(None, *head)
    np.testing.assert_allclose(jax.jit(lowrank.svd(D))(None, *head), whole, atol=0.05)
    basis = np.linalg.svd(np.asarray(k[:48], np.float64))[2][:3].T
    own = np.asarray(jax.jit(lowrank.leading, static_argnums=1)(k[:48], 3), np.float64)
    np.testing.assert_allclose(own @ own.T, basis @ basis.T, atol=1e-4)
    start = jax.jit(lowrank.latent_start, static_argnums=2)(k, v, D)
    np.testing.assert_allclose(jax.jit(lowrank.latent)(start, *head), whole, atol=0.05)


def test_levels_are_a_binary_counter_of_means():
    length, per_level, near = 512, 2, 32
    q, k, v = np.random.default_rng(2).normal(size=(3, length, D)).astype(np.float32)
    own = levels.levels_start(length, D)
    out = np.asarray(jax.jit(levels.levels(per_level, near))(own, q, k, v, None))
    turned_k, turned_q = rotated(k), rotated(q)
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
        keys, values, weight = [turned_k[recent]], [v[recent]], []
        for slot in slots:
            tokens = np.concatenate([np.arange(c * block, (c + 1) * block) for c in slot])
            keys.append(np.asarray(turned(k[tokens].mean(0), np.float32(tokens.mean())))[None])
            values.append(v[tokens].mean(0)[None])
            weight.append(np.log(len(tokens)))
        logits = turned_q[t] @ np.concatenate(keys).T / D**0.5
        logits[len(recent) :] += weight
        share = np.exp(logits - logits.max())
        expected = share @ np.concatenate(values) / share.sum()
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
    x = np.random.default_rng(3).normal(size=(20, 5)).astype(np.float32)
    packets = jax.jit(losses.packets, static_argnums=0)

    def of(way, share):
        maps = np.asarray(losses.operators(way, 20, share))
        return maps, maps[0] @ np.asarray(packets(way, x, np.int32(0)))

    for way in losses.WAYS:
        np.testing.assert_allclose(of(way, 0.0)[1], x, atol=2e-3)
    assert (np.abs(of("unprotected", 0.25)[1]).max(1) == 0).sum() == 5
    twice = [o.any(1).sum() for o in of("replicated", 0.25)[0]]
    assert 15 < np.mean(twice) < 20  # both copies of some are among the 10 of 40 that are lost
    maps, coded = of("coded", 0.25)
    np.testing.assert_allclose(coded, x, atol=2e-3)
    assert maps.shape == (losses.PATTERNS, 20, 40)


@pytest.mark.slow
@pytest.mark.parametrize(("bits", "biased"), [(None, True), (4, False)])
def test_parallel_form_is_the_memory(bits, biased):
    """What is trained with equals what is measured: numbers and gradients."""
    from physnet.holography import memory

    config = memory.Config(8, 8, 2, 12, 2, 5, bits, recency=None if bits else 40.0)
    alone = memory.Config(8, 8, 2, 12, 2, 0, bits)
    rng = np.random.default_rng(4)
    q, k, v = rng.normal(size=(3, 2 * T, D)).astype(np.float32)
    s = np.float32(1 / (1 + np.exp(-3 * rng.normal(size=2 * T))))
    own = np.linspace(-0.1, 0.1, 5, dtype=np.float32)  # of five levels
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
    k, v = (np.asarray(x).astype(jnp.bfloat16).astype(np.float32) for x in (k, v))
    damaged = jax.jit(functools.partial(losses.damaged, config, "coded"))
    entries = damaged(maps, np.int32(0), (k[:48], v[:48], s[:48]))
    tail = jax.jit(losses.attend_tail, static_argnames="first")
    own = np.asarray(tail(entries, *(np.asarray(x)[48:] for x in (q, k, v, s)), first=48))
    np.testing.assert_allclose(own[0], np.asarray(whole)[48], atol=0.05)


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
def test_script(tmp_path, run_main):
    output, picture = tmp_path / "r.json", tmp_path / "p.png"
    options = ["--preset", "smoke", "--seeds", "2", "--text", kv_memory.__file__]
    options += ["--output", output, "--compilers", "1"]

    def run(*more):
        run_main(kv_memory, *options, *more, pools=[kv_memory])
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
