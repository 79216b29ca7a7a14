"""What can be said of the GPU kernels without a GPU, and what only there."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import _dispatch, attention
from physnet.attention import _arguments
from physnet_kernels.scattering_attention import mosaic_gpu
from physnet_kernels.scattering_attention._types import NO_TOKEN

BLOCK = 128


def operands(head_dim, heads=4, key_heads=2, own=False, scored=True, blocks=(3, 2)):
    """Shapes of what a kernel takes."""
    p, q = blocks
    many = heads if own else 1

    def ints(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    def floats(*shape):
        return jax.ShapeDtypeStruct(shape, jnp.float32)

    lists = mosaic_gpu.Lists(
        *(ints(2, many, p, q), ints(2, many, p), ints(2, many, p)),
        *(ints(2, many, q, p), ints(2, many, q), ints(2, many, q)),
    )
    scores = (floats(2, many, p * BLOCK), floats(2, many, q * BLOCK), floats(2, many))
    labels = mosaic_gpu.Labels(
        *(ints(2, p * BLOCK), ints(2, q * BLOCK), ints(2, p * BLOCK), ints(2, q * BLOCK)),
        *(scores if scored else (None, None, None)),
    )
    marks = mosaic_gpu.Marks(
        jax.ShapeDtypeStruct((2, heads, p * BLOCK), jnp.bool_),
        jax.ShapeDtypeStruct((2, key_heads, q), jnp.bool_),
    )
    tensors = [
        jax.ShapeDtypeStruct((2, n * BLOCK, h, head_dim), jnp.bfloat16)
        for n, h in ((p, heads), (q, key_heads), (q, key_heads))
    ]
    rows = floats(2, heads, p * BLOCK)
    return tensors, rows, marks, lists, labels


@pytest.mark.parametrize(("head_dim", "band"), [(64, "far"), (128, "all"), (256, "near")])
def test_mosaic_kernels_lower_for_cuda_without_a_gpu(head_dim, band):
    tensors, rows, marks, lists, labels = operands(
        head_dim, own=band == "far", scored=band != "near"
    )
    rule = mosaic_gpu.Rule(band, 16, band != "near", 0.1)
    forward = jax.jit(functools.partial(mosaic_gpu.forward, rule=rule))
    backward = jax.jit(functools.partial(mosaic_gpu.backward, rule=rule))
    for function, arrays in (
        (forward, (*tensors, lists, labels)),
        (backward, (*tensors, tensors[0], rows, rows, marks, lists, labels)),
    ):
        text = function.trace(*arrays).lower(lowering_platforms=("cuda",)).as_text()
        assert "mosaic_gpu" in text


@pytest.mark.parametrize(
    ("options", "flags", "kernels"),
    [  # two for a forward pass, one or two for its backward pass
        ({}, "", 3),
        ({}, "--xla_gpu_deterministic_ops=true", 4),
        ({"local_window": 20}, "--xla_gpu_deterministic_ops=false", 6),
        ({"threshold": None}, "", 3),
    ],
)
def test_attention_lowers_to_the_kernels_without_a_gpu(monkeypatch, options, flags, kernels):
    monkeypatch.setattr(_dispatch, "_capability", lambda facts: (9, 0))
    monkeypatch.setenv("XLA_FLAGS", flags)

    def total(*arrays):
        settings = {"threshold": 0.3} | options
        output = attention.scattering_attention(*arrays, implementation="mosaic_gpu", **settings)
        return jnp.sum(output.astype(jnp.float32))

    gradient = jax.vmap(jax.grad(total, argnums=(0, 1, 2)), in_axes=(0, None, None, 0))
    query, key, value, score = inputs(300)
    traced = jax.jit(gradient).trace(query[None], key, value, score[None])
    lowered = traced.lower(lowering_platforms=("cuda",))
    assert lowered.as_text().count("custom_call @mosaic_gpu") == kernels


def test_the_kernels_mark_empty_slots_as_attention_does():
    assert NO_TOKEN == _arguments.NO_TOKEN
    tensors, _, marks, lists, labels = operands(64)
    out = jax.eval_shape(
        functools.partial(mosaic_gpu.forward, rule=mosaic_gpu.Rule("all", 0, True, 1.0)),
        *tensors,
        lists,
        labels,
    )
    assert [x.shape for x in out[:2]] == [tensors[0].shape, (2, 4, 3 * BLOCK)]
    assert jax.tree.map(lambda x: (x.shape, x.dtype), out[2]) == jax.tree.map(
        lambda x: (x.shape, x.dtype), marks
    )


def inputs(time, heads=4, key_heads=2, head_dim=64, batch=2, dtype=jnp.bfloat16):
    r = np.random.default_rng(5)
    query, key, value = (
        jnp.asarray(r.normal(size=(batch, time, n, head_dim)), dtype)
        for n in (heads, key_heads, key_heads)
    )
    return query, key, value, jnp.asarray(r.uniform(size=(batch, time)), jnp.float32)


def call(kernel, *arrays):
    return kernel(
        attention.scattering_attention, *arrays, threshold=0.3, local_window=20, return_lse=True
    )


def loss(kernel, *arrays):
    output, lse = call(kernel, *arrays)
    return jnp.sum(output.astype(jnp.float32) ** 2) + jnp.sum(jnp.where(lse > -jnp.inf, lse, 0))


def close(got, want, tolerance=2e-2):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = (np.asarray(x.astype(jnp.float32)) for x in (a, b))
        finite = np.isfinite(b)
        np.testing.assert_array_equal(a[~finite], b[~finite])
        assert np.isfinite(a[finite]).all()
        assert np.abs(a[finite] - b[finite]).max() <= tolerance * np.abs(b[finite]).max()


def test_vmap_makes_rows_of_the_batch_not_a_loop(kernel):
    x, y = inputs(300), inputs(300, batch=2)
    stacked = jax.tree.map(lambda a, b: jnp.stack([a, b * 0.5]), x, y)
    gradient = jax.grad(functools.partial(loss, kernel), argnums=(0, 1, 2))
    both = jax.jit(jax.vmap(gradient))
    got = both(*stacked)
    for i in range(2):
        close([a[i] for a in got], jax.jit(gradient)(*(a[i] for a in stacked)), 5e-3)
    text = both.lower(*stacked).compile().as_text()
    assert text.count("while(") == jax.jit(gradient).lower(*x).compile().as_text().count("while(")
    nested = jax.jit(jax.vmap(jax.vmap(lambda *a: call(kernel, *a))))
    split = [a[:, :, None] for a in stacked]
    close(nested(*split)[0][:, :, 0], jax.vmap(lambda *a: call(kernel, *a))(*stacked)[0], 1e-6)


def sharded(kernel, over="batch"):
    """Outputs and gradients with batch and heads over the axes of a mesh, and without.

    Two devices share the axis `over` where there are two.
    """
    devices = np.array(jax.devices()[:2]).reshape((-1, 1) if over == "batch" else (1, -1))
    mesh = jax.sharding.Mesh(devices, ("batch", "heads"))
    spec = jax.sharding.PartitionSpec("batch", None, "heads")
    scores = jax.sharding.PartitionSpec("batch")
    gradient = jax.grad(functools.partial(loss, kernel), argnums=(0, 1, 2))

    def run(*arrays):
        return (call(kernel, *arrays)[0], *gradient(*arrays))

    specs = (spec, spec, spec, scores)
    return jax.jit(jax.shard_map(run, mesh=mesh, in_specs=specs, out_specs=spec)), jax.jit(run)


@pytest.mark.parametrize("over", ["batch", "heads"])
def test_shard_map_over_batch_and_heads(kernel, over):
    over_mesh, plain = sharded(kernel, over)
    x = inputs(300)
    close(over_mesh(*x), plain(*x), 5e-3)  # sums in another order: the last bit of bfloat16


def test_shard_map_lowers_to_the_kernels_without_a_gpu(monkeypatch):
    monkeypatch.setattr(_dispatch, "_capability", lambda facts: (9, 0))

    def kernel(function, *arrays, **options):
        return function(*arrays, implementation="mosaic_gpu", **options)

    traced = sharded(kernel)[0].trace(*inputs(300))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    assert text.count("custom_call @mosaic_gpu") >= 6


@pytest.mark.parametrize("shape", ["(P, Q)", "(B, P, Q)", "(B, N, P, Q)"])
def test_block_masks(kernel, shape):
    query, key, value, _ = inputs(4 * 256, heads=4, key_heads=2)
    r = np.random.default_rng(2)
    lead = {"(P, Q)": (), "(B, P, Q)": (2,), "(B, N, P, Q)": (2, 4)}[shape]
    blocks = jnp.asarray(r.uniform(size=(*lead, 4, 4)) < 0.5)

    def run(implement, *arrays):
        output, lse = implement(attention.block_sparse_attention, *arrays, blocks, return_lse=True)
        some = jnp.sum(jnp.where(lse > -jnp.inf, lse, 0))
        return jnp.sum(output.astype(jnp.float32) ** 2) + some, (output, lse)

    def reference(function, *args, **options):
        return function(*args, implementation="xla", **options)

    both = (
        jax.jit(jax.value_and_grad(functools.partial(run, each), argnums=(0, 1, 2), has_aux=True))
        for each in (kernel, reference)
    )
    got, want = (function(query, key, value) for function in both)
    close(got, want)


@pytest.mark.parametrize("scale", [-0.3, 0.0])
def test_scales_that_are_not_positive(kernel, scale):
    arrays = inputs(300)

    def gradient(implement):
        def scaled(function, *arrays, **options):
            return implement(function, *arrays, scale=scale, **options)

        return jax.jit(jax.grad(functools.partial(loss, scaled), argnums=(0, 1, 2)))(*arrays)

    def reference(function, *arrays, **options):
        return function(*arrays, implementation="xla", **options)

    close(gradient(kernel), gradient(reference))


@pytest.mark.gpu
def test_gradients_are_the_same_every_time_where_xla_is_told_to_be_deterministic(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_gpu_deterministic_ops=true")
    arrays = inputs(1500, heads=4, key_heads=2)

    def gradient(*arrays):
        def total(*arrays):
            return loss(lambda f, *a, **o: f(*a, implementation="mosaic_gpu", **o), *arrays)

        return jax.grad(total, argnums=(0, 1, 2))(*arrays)

    function = jax.jit(gradient)
    first = function(*arrays)
    for _ in range(3):
        jax.tree.map(np.testing.assert_array_equal, function(*arrays), first)
    monkeypatch.setenv("XLA_FLAGS", "")
    close(jax.jit(lambda *a: gradient(*a))(*arrays), first)


def test_many_tiles(kernel):
    """More tiles than the device has processors, against all pairs at once in float32."""
    query, key, value, score = inputs(2048, heads=16, key_heads=4)
    weights = jnp.cos(jnp.arange(64.0, dtype=jnp.float32))

    def run(implementation, *arrays):
        def loss(*arrays):
            output = attention.scattering_attention(
                *arrays, score, threshold=0.5, implementation=implementation
            )
            return jnp.sum(output.astype(jnp.float32) * weights.reshape(1, 1, 1, -1))

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*arrays)

    want = run("xla", *(a.astype(jnp.float32) for a in (query, key, value)))
    close(run(kernel.name, query, key, value), want)


@pytest.mark.parametrize("head_dim", [64, 128, 256])
def test_what_is_not_finite_stays_where_it_is_seen_among_many_tiles(kernel, head_dim):
    query, key, value, score = inputs(1100, heads=8, key_heads=2, batch=3, head_dim=head_dim)
    query = query.at[0, 17, 1, 3].set(jnp.inf)
    key = key.at[1, 300, 0, 5].set(-jnp.inf).at[1, 1099, 1, 0].set(jnp.nan)
    value = value.at[2, 700, 1, 0].set(jnp.nan).at[2, 900, 0, head_dim - 1].set(jnp.inf)

    def run(implement, *arrays):
        output, lse = call(implement, *arrays, score)
        total = jnp.where(jnp.isfinite(output), output, 0).astype(jnp.float32) ** 2
        return jnp.sum(total), (output, lse)

    def reference(function, *arrays, **options):
        return function(*arrays, implementation="xla", **options)

    def with_gradients(implement):
        run_it = functools.partial(run, implement)
        return jax.jit(jax.value_and_grad(run_it, argnums=(0, 1, 2), has_aux=True))

    (_, outputs), gradients = with_gradients(kernel)(query, key, value)
    (_, wanted), expected = with_gradients(reference)(query, key, value)
    close(outputs, wanted)
    assert 0 < np.isnan(np.asarray(outputs[1])).mean() < 0.5
    close(gradients, expected)
    assert np.isnan(np.asarray(gradients[0])).any()
    assert all(np.isfinite(np.asarray(d.astype(jnp.float32))).all() for d in gradients[1:])


def test_a_bad_key_far_behind_the_last_query(kernel):
    query = inputs(150, heads=2)[0]
    _, key, value, _ = inputs(1100, heads=2)
    key = key.at[0, 1000, 1, 3].set(jnp.nan)

    def run(query, key, value):
        output = kernel(
            attention.scattering_attention,
            *(query, key, value, None),
            threshold=None,
            is_causal=False,
        )
        return jnp.sum(jnp.where(jnp.isnan(output), 0, output).astype(jnp.float32)), output

    gradients, output = jax.jit(jax.grad(run, argnums=(0, 1, 2), has_aux=True))(query, key, value)
    spoilt = np.zeros(output.shape, bool)
    spoilt[0, :, 1] = True
    np.testing.assert_array_equal(np.isnan(np.asarray(output)), spoilt)
    np.testing.assert_array_equal(np.isnan(np.asarray(gradients[0])), spoilt)
    assert all(np.isfinite(np.asarray(d.astype(jnp.float32))).all() for d in gradients[1:])
