"""vmap, grad, dtypes, order in time; bad input."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.holography import memory

CONFIG = memory.Config(
    window=4, block=2, sinks=2, landmarks=3, per_level=2, levels=3, merge="kernel"
)
T, D = 40, 4


append, extend, attend = (jax.jit(f) for f in (memory.append, memory.extend, memory.attend))
slots = jax.jit(memory.slots)


def tokens(seed=0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    arrays = (*rng.normal(size=(3, T, D)), rng.uniform(0.05, 1, size=T))
    return tuple(x.astype(dtype) for x in arrays)


def with_(x, *places):
    """A copy of x, and in it x[i] = value for each (i, value)."""
    x = x.copy()
    for index, value in places:
        x[index] = value
    return x


def rotate(key, position):
    angle = position[:, None] * jnp.asarray([1.0, 0.1], position.dtype)[None]
    a, b = jnp.split(key, 2, -1)
    cos, sin = jnp.cos(angle).astype(key.dtype), jnp.sin(angle).astype(key.dtype)
    return jnp.concatenate([a * cos - b * sin, a * sin + b * cos], -1)


whole = functools.partial(memory.attention, config=CONFIG, rotate=rotate, threshold=0.3)
run = jax.jit(functools.partial(whole, tokens_at_once=8))


def stream(query, key, value, score):
    def step(held, token):
        held = memory.append(held, *token[1:], threshold=0.3)
        return held, memory.attend(token[0], held, rotate=rotate)

    start = memory.init(None, D, config=CONFIG, dtype=key.dtype)
    return jax.lax.scan(step, start, (query, key, value, score))[1]


def loss(attend, *arrays):
    return jnp.sum(jnp.sin(attend(*arrays)) * jnp.arange(1.0, 1 + D, dtype=arrays[0].dtype)[None])


def test_gradients_are_those_of_the_streaming_form():
    """In float64, so that only mathematics is compared; and against differences for the score."""
    arrays = tokens(dtype=jnp.float64)
    grad = [jax.jit(jax.grad(functools.partial(loss, f), (0, 1, 2, 3))) for f in (run, stream)]
    found, wanted = (f(*arrays) for f in grad)
    for a, b in zip(found, wanted, strict=True):
        assert np.abs(a).max() > 0.1
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-10)
    direction = np.random.default_rng(1).normal(size=T)
    value = jax.jit(functools.partial(loss, run))
    step = [float(value(*arrays[:3], arrays[3] + h * direction)) / 2e-6 for h in (1e-6, -1e-6)]
    np.testing.assert_allclose(step[0] - step[1], np.asarray(found[3]) @ direction, rtol=1e-5)


def test_nested_vmap_and_the_size_of_groups():
    arrays = [tokens(seed) for seed in range(4)]
    many = [np.stack(x).reshape(2, 2, *x[0].shape) for x in zip(*arrays, strict=True)]
    for form in (whole, stream):
        y = np.asarray(jax.jit(jax.vmap(jax.vmap(form)))(*many))
        for n, single in enumerate(arrays):
            np.testing.assert_allclose(y[n // 2, n % 2], run(*single), atol=2e-6)


def test_gradients_of_a_batch_in_float32_are_those_of_float64():
    """A batch is compiled otherwise: what the backward pass computes again has other last bits."""
    plain = dataclasses.replace(CONFIG, merge="mean")
    rng = np.random.default_rng(0)
    arrays = rng.normal(size=(3, 3, 32, 8))

    def loss(query, key, value):
        y = jax.vmap(functools.partial(memory.attention, config=plain))(query, key, value)
        return jnp.sum(jnp.sin(y))

    grad = jax.jit(jax.grad(loss, (0, 1, 2)))
    found, wanted = grad(*arrays.astype(np.float32)), grad(*arrays)
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_no_row_depends_on_a_later_token():
    query, key, value, score = tokens()
    y = np.asarray(run(query, key, value, score))
    changed = with_(key, (23, 9.0)), with_(value, (23, 9.0)), with_(score, (23, 0.9))
    later = np.asarray(run(query, *changed))
    np.testing.assert_array_equal(later[:23], y[:23])
    assert (np.abs(later[23:] - y[23:]).max(1) > 0).all()


def test_what_is_not_finite_shows_from_then_on():
    query, key, value, score = tokens()
    y = np.asarray(run(query, key, value, score))
    for broken in (
        (query, with_(key, ((9, 1), np.nan)), value, score),
        (query, key, with_(value, ((9, 1), np.nan)), score),
    ):
        found = np.asarray(run(*broken))
        np.testing.assert_array_equal(found[:9], y[:9])
        assert np.isnan(found[9:]).any(1).all()


def test_scores_without_a_meaning_count_as_nothing():
    query, key, value, score = tokens()
    zero = run(query, key, value, with_(score, (5, 0.0), (9, 0.0)))
    bad = run(query, key, value, with_(score, (5, np.nan), (9, -3.0)))
    np.testing.assert_array_equal(bad, zero)
    nan, silent = np.nan, with_(score, (5, 0.0))
    given = query, with_(key, (5, nan)), with_(value, (5, nan)), silent
    np.testing.assert_array_equal(run(*given), run(query, key, value, silent))
    streamed = jax.jit(stream)(*given)
    np.testing.assert_allclose(streamed, run(*given), atol=2e-6)
    nothing = run(query, key, value, np.zeros_like(score))
    np.testing.assert_array_equal(nothing, np.zeros_like(nothing))
    heavy = np.asarray(run(query, key, value, with_(score, (7, np.inf))))
    assert np.isfinite(heavy).all()
    np.testing.assert_allclose(heavy[7], value[7], rtol=1e-5)


def test_gradients_are_finite_where_masses_are_none():
    query, key, value, score = tokens()
    slope = jax.jit(jax.grad(functools.partial(loss, run), (0, 1, 2, 3)))
    some = slice(2, 30)
    for masses in (with_(score, (some, 0.0)), with_(score, (some, np.nan)), np.zeros_like(score)):
        found = jax.tree.map(np.asarray, slope(query, key, value, masses))
        assert all(np.isfinite(x).all() for x in found)
        assert all(not np.any(x[2:30]) for x in found[1:])


def test_a_higher_threshold_forgets_nothing():
    config = memory.Config(window=0, block=2, sinks=0, landmarks=5, per_level=2, levels=2)
    _, key, value, score = tokens()
    held = extend(memory.init(None, D, config=config), key, value, score)
    held = extend(held, key, value, score, threshold=2.0)
    found = jax.tree.map(np.asarray, slots(held))
    np.testing.assert_allclose(np.sum(found.mass), 2 * np.sum(score), rtol=1e-5)
    landmarks = found.level == -2  # they were admitted when they came
    np.testing.assert_array_equal(found.mass[landmarks], np.sort(score[:-2])[::-1][:5])


def test_loops_in_python_compile_once():
    config = memory.Config(window=2, block=2, sinks=1, landmarks=1, per_level=2, levels=2)
    held, (query, key, value, score) = memory.init(None, D, config=config), jax.device_put(tokens())
    compiled = []
    steps = (
        lambda n: memory.append(held, key[n], value[n], score[n], threshold=0.1 * n),
        lambda n: memory.extend(held, key + n, value, score, threshold=0.1 * n),
        lambda n: memory.decode(query, held, key + n, value, score, rotate=rotate)[1],
        lambda n: memory.attention(query, key + n, value, score, config=config, rotate=rotate),
    )

    def listen(name, *_, **__):
        if "backend_compile" in name:
            compiled.append(name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        for step in steps:
            step(1), step(2)
            before = len(compiled)
            step(3)
            assert before > 0
            assert len(compiled) == before
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize("bits", [None, 4])
def test_a_memory_is_kept_as_arrays(bits, tmp_path):
    """Its leaves are all that a checkpoint needs."""
    config = memory.Config(window=2, block=2, sinks=1, landmarks=2, levels=2, bits=bits)
    _, key, value, score = tokens()
    held = extend(memory.init(None, D, config=config), key, value, score)
    leaves = [np.asarray(x) for x in jax.tree.leaves(held)]
    np.savez(tmp_path / "kept.npz", *(x.view(np.uint8) if x.ndim else x for x in leaves))
    kept = np.load(tmp_path / "kept.npz").values()
    back = [x.view(y.dtype) for x, y in zip(kept, leaves, strict=True)]
    again = jax.tree.unflatten(
        jax.tree.structure(memory.init(None, D, config=config)), list(map(jax.device_put, back))
    )
    for x, y in zip(
        jax.tree.leaves(extend(again, key, value)),
        jax.tree.leaves(extend(held, key, value)),
        strict=True,
    ):
        np.testing.assert_array_equal(x, y)


def test_an_empty_memory_gives_nothing():
    held = memory.init(None, D, value_dim=3, config=CONFIG)
    np.testing.assert_array_equal(attend(np.ones(D, np.float32), held), np.zeros(3))
    assert attend(np.ones((5, D), np.float32), held).shape == (5, 3)
    none = np.zeros((0, D), np.float32)
    assert int(extend(held, none, none[:, :3]).count) == 0


def test_a_short_sequence_is_plain_attention_with_masses():
    query, key, value, score = (x[:6] for x in tokens())
    y = jax.jit(functools.partial(memory.attention, config=CONFIG, scale=0.7))(
        query, key, value, score
    )
    logits = (
        0.7 * np.asarray(query, float) @ np.asarray(key, float).T
        + np.log(np.asarray(score, float))[None]
    )
    weight = np.tril(np.exp(logits))
    exact = weight @ np.asarray(value, float) / weight.sum(1, keepdims=True)
    np.testing.assert_allclose(y, exact, rtol=2e-5)


def test_bfloat16_stays_near_and_keeps_its_dtype():
    arrays = tokens()
    half = [x.astype(jnp.bfloat16) for x in arrays[:3]]
    y = jax.jit(whole)(*half, arrays[3])
    assert y.dtype == jnp.bfloat16
    exact = run(*arrays)
    assert np.linalg.norm(np.asarray(y, np.float32) - exact) / np.linalg.norm(exact) < 0.03
    held = memory.init(None, D, config=CONFIG, dtype=jnp.bfloat16)
    held = append(held, half[1][0], half[2][0], arrays[3][0])
    assert held.near.key.dtype == jnp.bfloat16
    assert held.near.mass.dtype == jnp.float32


def test_bad_arguments_are_named(bare_errors):
    held = memory.init(None, D, config=CONFIG)
    x = jnp.ones((3, D), jnp.float32)
    for call, error, why in (
        (lambda: memory.append(held, x[0, :2], x[0]), ValueError, r"key must have .*\(4,\)"),
        (lambda: memory.append(held, x[0], x), ValueError, "value must have the shape"),
        (lambda: memory.append(held, jnp.arange(4), x[0]), TypeError, "key must be a real"),
        (lambda: memory.extend(held, x, x[:2]), ValueError, r"values .*\(3, 4\).*\(2, 4\)"),
        (lambda: memory.extend(held, x, x, x[0]), ValueError, r"scores .*\(3,\).*\(4,\)"),
        (lambda: memory.attend(x[0, :3], held), ValueError, r"query must .*\(n, 4\), got \(3,\)"),
        (lambda: memory.decode(x[:2], held, x, x), ValueError, "query must have the shape"),
        (lambda: memory.attention(x, x[:2], x, config=CONFIG), ValueError, "query, key and value"),
        (lambda: memory.attention(x, x, x[:2], config=CONFIG), ValueError, "value must have"),
        (
            lambda: memory.attention(x, x, x, x[0], config=CONFIG),
            ValueError,
            r"score must have the shape \(3,\), got \(4,\)",
        ),
        (lambda: memory.append(held, x[0], x[0], threshold=x[0]), ValueError, "threshold must be"),
        (lambda: memory.Config(window=10, block=4), ValueError, "multiple of block=4, got 10"),
        (lambda: memory.Config(per_level=1), ValueError, "per_level must be >= 2"),
        (lambda: memory.Config(bits=3), ValueError, "bits must be one of"),
        (lambda: memory.Config(levels=25), ValueError, "levels must be at most 24"),
        (lambda: memory.init(None, 4), ValueError, "budget_bytes must be given"),
        (lambda: memory.init(10, 4, config=CONFIG), ValueError, "budget_bytes must be at least"),
        (lambda: memory.configure(10**4, 4, window_share=2.0), ValueError, "window_share"),
    ):
        with pytest.raises(error, match=why):
            call()


def test_memories_in_a_batch():
    keys = np.stack([tokens(seed)[1] for seed in range(3)])
    held = jax.jit(jax.vmap(lambda _: memory.init(None, D, config=CONFIG)))(np.arange(3))
    held = jax.jit(jax.vmap(memory.extend))(held, keys, keys)
    y = np.asarray(jax.jit(jax.vmap(memory.attend))(keys[:, 0], held))
    for n in range(3):
        one = extend(memory.init(None, D, config=CONFIG), keys[n], keys[n])
        np.testing.assert_allclose(y[n], attend(keys[n, 0], one), atol=1e-6)


@pytest.mark.slow
def test_slots_are_worth_what_their_bias_says():
    arrays = tokens()
    bias = np.array([-2.0, 0.5, -1.0], np.float32)

    def stream(query, key, value, score, bias):
        def step(held, token):
            held = memory.append(held, *token[1:], threshold=0.3)
            return held, memory.attend(token[0], held, rotate=rotate, slot_bias=bias)

        start = memory.init(None, D, config=CONFIG)
        return jax.lax.scan(step, start, (query, key, value, score))[1]

    def pieces(query, key, value, score, bias):
        start = memory.init(None, D, config=CONFIG)
        return memory.decode(
            query, start, key, value, score, threshold=0.3, rotate=rotate, slot_bias=bias
        )[0]

    own = jax.jit(lambda *a: whole(*a[:4], slot_bias=a[4], tokens_at_once=8))
    y = np.asarray(own(*arrays, bias))
    assert np.abs(y - run(*arrays)).max() > 0.05
    for other in (stream, pieces):
        np.testing.assert_allclose(jax.jit(other)(*arrays, bias), y, atol=2e-6)
    np.testing.assert_array_equal(own(*arrays, np.zeros(3, np.float32)), run(*arrays))
    slope = jax.jit(jax.grad(lambda b: jnp.sum(jnp.sin(own(*arrays, b)))))(bias)
    wanted = jax.jit(jax.jacfwd(lambda b: jnp.sum(jnp.sin(stream(*arrays, b)))))(bias)
    np.testing.assert_allclose(slope, wanted, rtol=1e-4, atol=1e-5)
    none = dataclasses.replace(CONFIG, levels=0)
    alone = jax.jit(functools.partial(whole, config=none))(*arrays)
    np.testing.assert_allclose(own(*arrays, np.full(3, -np.inf, np.float32)), alone, atol=2e-6)


def test_a_bias_of_another_number_of_levels_is_refused(bare_errors):
    query, key, value, score = jax.device_put(tokens())
    held = memory.init(None, D, config=CONFIG)
    bias = jnp.zeros(2, jnp.float32)
    with pytest.raises(ValueError, match=r"slot_bias must be a number or .*\(3,\).*got \(2,\)"):
        memory.attend(query, held, slot_bias=bias)
    with pytest.raises(ValueError, match="slot_bias"):
        memory.attention(query, key, value, score, config=CONFIG, slot_bias=bias)
    with pytest.raises(ValueError, match="slot_bias"):
        memory.decode(query, held, key, value, score, slot_bias=bias)
