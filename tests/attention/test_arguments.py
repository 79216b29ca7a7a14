"""Errors of scattering attention, work that is not done, and memory."""

import time as clock

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import attention, scattering
from physnet.attention import _loops


def arrays(time=8, heads=4, key_heads=2, batch=2):
    query = jnp.ones((batch, time, heads, 8), jnp.float32)
    key = jnp.ones((batch, time, key_heads, 8), jnp.float32)
    return query, key, key, jnp.ones((batch, time), jnp.float32)


def call(query, key, value, score, threshold=0.1, **options):
    return attention.scattering_attention(query, key, value, score, threshold=threshold, **options)


def ones(shape, dtype):
    return jax.device_put(np.ones(shape, dtype))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"threshold": -0.1}, ValueError, "threshold must be >= 0"),
        ({"threshold": float("nan")}, ValueError, "threshold must be >= 0"),
        ({"threshold": np.ones(3, np.float32)}, ValueError, r"one entry a head \(4,\)"),
        ({"score": None}, ValueError, "score must be given"),
        ({"score": ones((2, 7), jnp.float32)}, ValueError, r"score must have shape \(2, 8\)"),
        ({"score": ones((2, 8), jnp.int32)}, TypeError, "score must be a real floating"),
        ({"key_score": ones((2, 9), jnp.float32)}, ValueError, "key_score must have shape"),
        ({"query": ones((2, 8, 3, 8), jnp.float32)}, ValueError, "multiple of key's 2 heads"),
        ({"query": ones((2, 8, 4, 8), jnp.bfloat16)}, TypeError, "key must be bfloat16"),
        ({"query": ones((8, 4, 8), jnp.float32)}, ValueError, "key must have shape"),
        ({"value": ones((2, 8, 2, 4), jnp.float32)}, ValueError, "value must have the shape"),
        ({"key": ones((2, 9, 2, 8), jnp.float32), "value": ones((2, 9, 2, 8), jnp.float32)},
         ValueError, "key_score must be given"),
        ({"query_position": ones((2, 8), jnp.float32)}, TypeError, "must be integers"),
        ({"segment_ids": ones((3, 8), jnp.int32)}, ValueError, "segment_ids must have shape"),
        ({"local_window": -1}, ValueError, "local_window must be >= 0"),
        ({"scale": float("inf")}, ValueError, "scale must be a finite"),
        ({"implementation": "cudnn"}, NotImplementedError, "'xla'"),
    ],
)  # fmt: skip
def test_errors_name_the_argument(bare_errors, change, error, message):
    names = ("query", "key", "value", "score")
    given = dict(zip(names, arrays(), strict=True)) | change
    positional = [given.pop(name) for name in names]
    with pytest.raises(error, match=message):
        call(*positional, **given)


def test_schedule_must_fit(bare_errors):
    query, key, value, score = arrays()
    plan = scattering.schedule(score[:, :7], 0.1, edges=score[0, :1], block_size=16)
    with pytest.raises(ValueError, match="schedule must be of 8 queries"):
        call(query, key, value, score, schedule=plan)
    three = jnp.ones((3, 8), jnp.float32)
    plan = scattering.schedule(three, 0.1, edges=score[0, :1], block_size=16)
    with pytest.raises(ValueError, match=r"schedule must have the batch axes \(2,\)"):
        call(query, key, value, score, schedule=plan)


def test_float32_stays_float32_and_named_implementations_run():
    run = jax.jit(lambda *arrays: call(*arrays, return_lse=True, implementation="xla"))
    output, lse = run(*arrays())
    assert output.dtype == lse.dtype == jnp.float32


def count_visits(monkeypatch, run):
    """Block pairs that the loops visit while `run()` runs."""
    counted = []
    original = _loops._visits

    def counting(*args):
        visits, count = original(*args)
        jax.debug.callback(lambda n: counted.append(int(n)), count)
        return visits, count

    _loops.forward.cache_clear()
    monkeypatch.setattr(_loops, "_visits", counting)
    jax.block_until_ready(run())
    jax.effects_barrier()
    _loops.forward.cache_clear()
    return sum(counted)


def test_closed_heads_and_other_segments_cost_no_block(blocks, monkeypatch):
    r = np.random.default_rng(0)
    tensors = [jnp.asarray(r.normal(size=(1, 64, 4, 8)), jnp.float32) for _ in range(3)]
    score = jnp.asarray(r.uniform(0.5, 1, size=(1, 64, 4)), jnp.float32)
    gate = scattering.head_gate(score * jnp.array([[[1, 0.2, 1, 0.2]]], jnp.float32), 0.4)
    assert gate.tolist() == [[True, False, True, False]]
    score = score * gate[:, None, :].astype(jnp.float32)
    heads = jnp.moveaxis(score, 2, 1)
    edges = jnp.zeros(0, jnp.float32)
    plan = scattering.schedule(heads, 0.1, edges=edges, block_size=16)
    options = {"threshold": 0.1, "schedule": plan}

    def run(**more):
        return jax.jit(lambda *t: attention.scattering_attention(*t, score, **options, **more))(
            *tensors
        )

    assert count_visits(monkeypatch, run) == 2 * (4 * 5 // 2)
    segments = jnp.repeat(jnp.arange(2), 32)
    visits = count_visits(monkeypatch, lambda: run(segment_ids=segments))
    assert visits == 2 * 2 * (2 * 3 // 2)
    assert not np.asarray(run())[:, :, 1::2].any()


def test_virtual_particles_take_the_local_band_alone():
    r = np.random.default_rng(2)
    tensors = [jnp.asarray(r.normal(size=(1, 60, 1, 8)), jnp.float32) for _ in range(3)]
    score = jnp.asarray(r.uniform(size=(1, 60)), jnp.float32)
    virtual = ~scattering.token_gate(score, 0.4)[0]
    run = jax.jit(lambda score: call(*tensors, score, threshold=0.4, local_window=3))
    got, band, virtual = (np.asarray(x) for x in (run(score), run(jnp.zeros_like(score)), virtual))
    assert 5 < virtual.sum() < 55
    np.testing.assert_array_equal(got[:, virtual], band[:, virtual])
    assert (got[:, ~virtual] != band[:, ~virtual]).any()


@pytest.mark.slow
def test_memory_is_linear_in_time():
    def temporary(time):
        shapes = [jax.ShapeDtypeStruct((1, time, 4, 32), jnp.float32)] * 3
        score = jax.ShapeDtypeStruct((1, time), jnp.float32)

        def loss(query, key, value, score):
            return jnp.sum(call(query, key, value, score, 0.3, local_window=32))

        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*shapes, score).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    short, long = temporary(4096), temporary(16384)
    assert long < 4.4 * short
    assert long < 16384 * 4 * 32 * 4 * 24  # a few copies of the inputs; all pairs would be 4.3 GB


@pytest.mark.slow
@pytest.mark.usefixtures("optimized")
def test_skipped_blocks_save_time():
    """The ratio is 0.2 on an idle machine at T = 4096; the benchmark measures it."""
    r = np.random.default_rng(0)
    tensors = [jnp.asarray(r.normal(size=(1, 2048, 8, 64)), jnp.float32) for _ in range(3)]
    score = np.where(np.arange(2048) % 4 == 0, 1.0, 0.1)[None].astype(np.float32)
    edges = jnp.array([0.5], jnp.float32)
    plan = scattering.schedule(jnp.asarray(score), 0.5, edges=edges)
    assert float(plan.kept_fraction[0]) < 0.12

    @jax.jit
    def sparse(*tensors):
        return call(*tensors, jnp.asarray(score), 0.5, schedule=plan)

    @jax.jit
    def dense(*tensors):
        return call(*tensors, None, None)

    best = {}
    for _ in range(6):
        for function in (sparse, dense):
            start = clock.perf_counter()
            jax.block_until_ready(function(*tensors))
            best.setdefault(function, []).append(clock.perf_counter() - start)
    assert min(best[sparse][1:]) < 0.5 * min(best[dense][1:])
