"""What every implementation of scattering attention must do, against NumPy in float64."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import attention, scattering

NO_TOKEN = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Case:
    """A call: shapes and what decides the pairs."""

    heads: int = 4
    key_heads: int = 2
    time: int = 75
    keys: int | None = None
    own_scores: bool = False  # of each query head
    own_key_scores: bool = False
    threshold: float | tuple[float, ...] | None = 0.3
    local_window: int = 0
    is_causal: bool = True
    segments: bool = False
    shuffled: bool = False
    scores: str = "uniform"
    scale: float | None = None
    block_size: int | None = 16  # of a schedule that is given
    head_dim: int = 8


CASES = {
    "plain": Case(block_size=None),
    "all": Case(
        own_scores=True, local_window=3, scale=0.7, is_causal=False, segments=True, shuffled=True
    ),
    "ties": Case(scores="ties", threshold=0.25, key_heads=4),
    "thresholds": Case(threshold=(0.05, 0.3, 0.9, 2.0), key_heads=1, local_window=1),
    "bad scores": Case(scores="bad", threshold=0.0, own_scores=True, key_heads=4),
    "dense": Case(threshold=None, segments=True, shuffled=True),
    "decode": Case(time=3, keys=75, local_window=4, own_key_scores=True, own_scores=True),
    "one": Case(time=1, heads=2, is_causal=False, threshold=0.0, block_size=None),
    "shard": Case(time=40, keys=75, local_window=20, segments=True, threshold=0.5),
}
# Sizes at which a kernel takes several blocks and several of its tiles, the last of them in part.
LARGE = {
    "64": Case(head_dim=64, time=700, heads=8, block_size=128),
    "128": Case(head_dim=128, time=515, local_window=150, segments=True, shuffled=True),
    "128, own": Case(head_dim=128, time=640, own_scores=True, heads=4, key_heads=1, threshold=0.5),
    "96": Case(head_dim=96, time=700, is_causal=False, threshold=0.6, block_size=32),
    "256": Case(head_dim=256, time=390, local_window=5, own_scores=True, segments=True),
    "256, dense": Case(head_dim=256, time=300, threshold=None),
    "cross": Case(head_dim=128, time=140, keys=700, local_window=300, threshold=0.7),
    "none": Case(head_dim=64, time=300, threshold=2.0),
}


def inputs(case: Case, dtype, seed=0):
    r = np.random.default_rng(seed)
    span = case.keys or case.time
    shape = {"q": (2, case.time, case.heads), "k": (2, span, case.key_heads)}
    shape = {name: (*lead, case.head_dim) for name, lead in shape.items()}
    tensors = [jnp.asarray(r.normal(size=shape[n]), dtype) for n in "qkk"]
    score_type = np.float64 if dtype == "float64" else np.float32

    def score(length, own):
        s = r.uniform(size=(2, length, case.heads) if own else (2, length))
        if case.scores == "ties":
            s = r.choice([0.25, 0.5, 1.0], size=s.shape)
        if case.scores == "bad":
            s = np.where(s < 0.2, np.nan, np.where(s < 0.5, -s, s))
        return s.astype(score_type)

    options = {"threshold": case.threshold, "local_window": case.local_window}
    options |= {"is_causal": case.is_causal, "scale": case.scale}
    if isinstance(case.threshold, tuple):
        options["threshold"] = np.asarray(case.threshold, score_type)
    queries, keys = score(case.time, case.own_scores), None
    place = key_place = np.broadcast_to(np.arange(case.time), (2, case.time))
    if case.keys:
        keys = score(span, case.own_key_scores)
        options["key_score"] = jnp.asarray(keys)
        end = 4 * span // 3
        place = np.stack([r.choice(end, case.time, False) for _ in range(2)])
        key_place = np.stack([r.permutation(end)[:span] for _ in range(2)])
        key_place[0, :3] = NO_TOKEN
    elif case.shuffled:
        place = key_place = np.stack([r.permutation(2 * case.time)[: case.time] for _ in range(2)])
    if case.keys or case.shuffled:
        options |= {
            "query_position": jnp.asarray(place, jnp.int32),
            "key_position": jnp.asarray(key_place, jnp.int32),
        }
    segment = key_segment = None
    if case.segments:
        segment = r.integers(-1, 2, size=(2, case.time))
        key_segment = r.integers(-1, 2, size=(2, span)) if case.keys else segment
        both = (jnp.asarray(segment, jnp.int32), jnp.asarray(key_segment, jnp.int32))
        options["segment_ids"] = both if case.keys else both[0]
    return tensors, queries, keys, options, (place, key_place, segment, key_segment)


def pair_mask(gate, case, queries, keys, labels):
    place, key_place, segment, key_segment = labels
    keys = queries if keys is None else keys
    mask = np.zeros((2, case.heads, place.shape[1], key_place.shape[1]), bool)
    for b in range(2):
        distance = place[b][:, None].astype(np.int64) - key_place[b][None, :]
        for n in range(case.heads):
            if case.threshold is None:
                mask[b, n] = True
            else:
                s, t = (a[b, :, n] if a.ndim == 3 else a[b] for a in (queries, keys))
                tau = case.threshold
                tau = tau[n] if isinstance(tau, tuple) else tau
                mask[b, n] = gate(s, t, tau) | (np.abs(distance) < case.local_window)
            if case.is_causal:
                mask[b, n] &= distance >= 0
            if segment is not None:
                mask[b, n] &= segment[b][:, None] == key_segment[b][None, :]
            mask[b, n] &= key_place[b][None, :] != NO_TOKEN
    return mask


def cotangents(query, seed=9):
    r = np.random.default_rng(seed)
    return r.normal(size=query.shape), r.normal(size=query.shape[:3])


def with_gradients(implementation, score, options, weights, plan=None):
    """query, key, value -> results and gradients of sum(w o) + sum(u lse) over rows with pairs."""
    d_output, d_lse = (jnp.asarray(w) for w in weights)

    def loss(query, key, value):
        made = {} if plan is None else {"schedule": plan()}
        output, lse = implementation(
            attention.scattering_attention,
            query,
            key,
            value,
            score,
            return_lse=True,
            **options,
            **made,
        )
        some = jnp.where(lse > -jnp.inf, lse, 0)
        total = jnp.sum(output * d_output.astype(output.dtype)).astype(lse.dtype)
        return total + jnp.sum(some * d_lse.astype(lse.dtype)), (output, lse)

    def run(*tensors):
        gradient = jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
        (_, results), gradients = gradient(*tensors)
        return (*results, *gradients)

    return jax.jit(run)


def schedule_of(case, queries, keys, options):
    """A schedule for the key heads: of the group's largest score, as `schedule` is told to."""
    size = case.block_size
    places = {n: options[n] for n in ("query_position", "key_position") if n in options}

    def one_a_row(score):
        clean = np.where(score > 0, score, 0).astype(score.dtype)
        return jnp.asarray(clean.max(-1) if clean.ndim == 3 else clean)

    tau = float(np.min(case.threshold))
    return scattering.schedule(
        one_a_row(queries),
        tau,
        key_score=None if keys is None else one_a_row(keys),
        edges=scattering.default_edges(tau, length=case.time, block_size=size),
        block_size=size,
        is_causal=case.is_causal,
        **places,
    )


@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_match_the_reference(implementation, contract, name):
    check(implementation, contract, CASES[name], implementation.dtypes[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["all", "thresholds"])  # where it differs in more than rounding
def test_float64_matches_the_reference(xla, contract, name):
    check(xla, contract, CASES[name], "float64")


@pytest.mark.parametrize("name", LARGE)
def test_kernels_match_the_reference_at_their_own_sizes(kernel, contract, name):
    poison()
    check(kernel, contract, LARGE[name], kernel.dtypes[0])


def poison():
    """Fill the memory that results will get with NaN: what a kernel does not write shows."""
    jax.block_until_ready([jnp.full(2**k, jnp.nan, jnp.float32) for k in range(8, 24)])


def check(implementation, contract, case, dtype):
    """Outputs, log-sum-exps and all gradients against NumPy in float64."""
    gate, reference = contract
    if implementation.name != "xla" and case.block_size:
        case = dataclasses.replace(case, block_size=128)  # what kernels serve
    tensors, queries, keys, options, labels = inputs(case, dtype)
    mask = pair_mask(gate, case, queries, keys, labels)
    weights = cotangents(tensors[0])
    scale = case.scale if case.scale is not None else case.head_dim**-0.5
    want = reference(*tensors, mask, scale, *weights)
    plan = None
    if case.block_size and case.threshold is not None and implementation.in_blocks:
        plan = functools.partial(schedule_of, case, queries, keys, dict(options))
    got = with_gradients(implementation, jnp.asarray(queries), options, weights, plan)(*tensors)

    tolerance = 1e-12 if dtype == "float64" else implementation.tolerance
    empty = ~mask.any(-1)  # (B, N, T)
    accumulator = dtype if dtype in ("float32", "float64") else "float32"
    for part, array, exact in zip(("o", "lse", "dq", "dk", "dv"), got, want, strict=True):
        assert array.dtype == (accumulator if part == "lse" else dtype), part
        finite = np.isfinite(exact)
        np.testing.assert_array_equal(np.isfinite(array), finite, err_msg=part)
        error = np.abs(np.asarray(array, np.float64)[finite] - exact[finite]).max(initial=0)
        allowed = tolerance * max(1, np.abs(exact[finite]).max(initial=0))
        if part == "lse":  # float32 from exact products, whatever the dtype
            allowed = min(allowed, 5e-5)
        assert error <= allowed, part
    output, lse, d_query = got[0], got[1], got[2]
    none = np.moveaxis(empty, 1, 2)
    assert not np.asarray(output)[none].any()
    assert not np.asarray(d_query)[none].any()
    assert (np.asarray(lse)[none] == -np.inf).all()
    if case in [CASES[name] for name in ("plain", "ties", "bad scores")]:
        assert 0 < none.sum() < none.size  # both kinds of rows are there


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_accumulate_in_float32(implementation, contract, dtype):
    gate, reference = contract
    case = Case(time=300, threshold=0.05, block_size=None)
    tensors, queries, keys, options, labels = inputs(case, dtype)
    exact = [np.asarray(t.astype(jnp.float32)) for t in tensors]
    weights = cotangents(tensors[0])
    mask = pair_mask(gate, case, queries, keys, labels)
    want = reference(*exact, mask, 8**-0.5, *weights)
    got = with_gradients(implementation, jnp.asarray(queries), options, weights)(*tensors)
    assert got[1].dtype == jnp.float32
    some = np.isfinite(want[1])
    np.testing.assert_allclose(np.asarray(got[1])[some], want[1][some], atol=2e-5)
    epsilon = float(jnp.finfo(dtype).eps)
    for array, exact_array in zip((got[0], *got[2:]), (want[0], *want[2:]), strict=True):
        assert array.dtype == dtype
        error = np.abs(np.asarray(array.astype(jnp.float32)) - exact_array).max()
        assert error <= 3 * epsilon * np.abs(exact_array).max()


def test_result_does_not_depend_on_the_order_in_memory(implementation):
    case = Case(time=300, local_window=7, own_scores=True, block_size=None)
    tensors, score, _, options, _ = inputs(case, implementation.dtypes[0])
    r = np.random.default_rng(1)
    order, key_order = r.permutation(300), r.permutation(300)

    @jax.jit
    def run(tensors, queries, keys, place, key_place):
        return implementation(
            attention.scattering_attention,
            *tensors,
            queries,
            key_score=keys,
            query_position=place,
            key_position=key_place,
            **options,
        )

    want = run(tensors, score, score, np.arange(300), np.arange(300))
    moved = [t[:, o] for t, o in zip(tensors, (order, key_order, key_order), strict=True)]
    got = run(moved, score[:, order], score[:, key_order], order, key_order)
    np.testing.assert_allclose(
        got.astype(jnp.float32), want[:, order].astype(jnp.float32), atol=implementation.tolerance
    )


def test_nan_tokens_touch_only_the_rows_that_see_them(implementation):
    """Padding that holds NaN, in a segment of its own, spoils neither results nor gradients."""
    case = Case(time=300, threshold=0.2, local_window=2, block_size=None)
    tensors, score, _, options, _ = inputs(case, implementation.dtypes[0])
    real = np.arange(300) % 7 != 3
    options["segment_ids"] = jnp.asarray(np.where(real, 0, 1), jnp.int32)
    d_output, d_lse = cotangents(tensors[0])
    weights = np.where(real[:, None, None], d_output, 0), np.where(real[:, None], d_lse, 0)
    run = with_gradients(implementation, jnp.asarray(score), options, weights)
    spoilt = [jnp.where(jnp.asarray(real)[None, :, None, None], t, jnp.nan) for t in tensors]
    got = run(*spoilt)
    for clean, array in zip(run(*tensors), got, strict=True):
        np.testing.assert_array_equal(np.asarray(clean)[:, real], np.asarray(array)[:, real])
    assert np.isnan(np.asarray(got[0])[:, ~real]).all()  # and trouble shows where it belongs


def test_gradients_of_rows_that_are_nan_stay_where_they_are(implementation):
    """A finite query sees a NaN key: nothing of it reaches keys that it does not see."""
    case = Case(time=300, threshold=0.2, local_window=2, block_size=None)
    tensors, score, _, options, _ = inputs(case, implementation.dtypes[0])
    segment = np.arange(300) % 3
    options["segment_ids"] = jnp.asarray(segment, jnp.int32)

    @jax.jit
    def run(*tensors):
        def loss(*tensors):
            output = implementation(
                attention.scattering_attention, *tensors, jnp.asarray(score), **options
            )
            return jnp.sum(output**2)

        return jax.grad(loss, argnums=(0, 1, 2))(*tensors)

    query, key, value = tensors
    clean, spoilt = run(query, key, value), run(query, key.at[:, 100].set(jnp.nan), value)
    far = segment != segment[100]
    for want, got in zip(clean, spoilt, strict=True):
        np.testing.assert_array_equal(np.asarray(want)[:, far], np.asarray(got)[:, far])
    sees = np.isnan(np.asarray(spoilt[0])).any((0, 2, 3))
    assert sees.any()
    assert not sees[:100].any()
    assert not sees[far].any()


def test_a_place_without_a_token_gives_zero_and_asks_nothing(implementation):
    case = Case(time=300, threshold=None, block_size=None)
    tensors, _, _, options, _ = inputs(case, implementation.dtypes[0])
    place = jnp.where(jnp.arange(300) < 290, jnp.arange(300), NO_TOKEN).astype(jnp.int32)
    options |= {"query_position": place, "key_position": place}
    run = with_gradients(implementation, None, options, cotangents(tensors[0]))
    for garbage in (None, np.nan, np.inf):  # one program for all
        held = tensors if garbage is None else [x.at[:, 290:].set(garbage) for x in tensors]
        output, lse, d_query, d_key, d_value = run(*held)
        for part in (output, d_query, d_key, d_value):
            assert not np.asarray(part)[:, 290:].any(), garbage
            assert np.asarray(part)[:, :290].any(), garbage
        assert (np.asarray(lse)[:, 290:] == -np.inf).all(), garbage


def test_a_window_without_an_end_is_no_window(implementation):
    case = Case(heads=1, key_heads=1, time=200, threshold=2.0, block_size=None)  # a closed gate
    tensors, score, _, options, _ = inputs(case, implementation.dtypes[0])

    def run(**change):
        settings = options | change
        return jax.jit(
            lambda *arrays: implementation(
                attention.scattering_attention, *arrays, jnp.asarray(score), **settings
            ).astype(jnp.float32)
        )(*tensors)

    got, want = run(local_window=2**40), run(threshold=None)
    np.testing.assert_allclose(got, want, atol=4 * implementation.tolerance)


def test_a_seen_nan_shows(implementation):
    x = jnp.ones((1, 300, 1, 8), implementation.dtypes[0])
    score = jnp.ones((1, 300), jnp.float32)

    @jax.jit
    def run(x, value):
        return implementation(attention.scattering_attention, x, x, value, score, threshold=0.5)

    output = run(x, x.at[0, 100].set(jnp.nan))
    shows = np.isnan(np.asarray(output)).any((0, 2, 3))
    np.testing.assert_array_equal(shows, np.arange(300) >= 100)


def test_without_batch_axis(implementation):
    case = Case(time=70, own_scores=True, local_window=2, block_size=None)
    tensors, score, _, options, _ = inputs(case, implementation.dtypes[0])
    options["return_lse"] = True

    @jax.jit
    def run(tensors, score):
        return implementation(attention.scattering_attention, *tensors, score, **options)

    whole = run(tensors, jnp.asarray(score))
    alone = run([t[1] for t in tensors], jnp.asarray(score[1]))
    for a, b in zip(whole, alone, strict=True):
        assert b.shape == a.shape[1:]
        np.testing.assert_allclose(a[1].astype(jnp.float32), b.astype(jnp.float32), atol=1e-6)
