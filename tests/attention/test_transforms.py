"""Attention over blocks under JAX's transformations."""

import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import attention, scattering

TIME, SIZE = 40, 16


def inputs(*lead, seed=0):
    r = np.random.default_rng(seed)
    tensors = [jnp.asarray(r.normal(size=(*lead, TIME, 2, 8)), jnp.float32) for _ in range(3)]
    return (*tensors, jnp.asarray(r.uniform(size=(*lead, TIME)), jnp.float32))


def attend(query, key, value, score, threshold=0.3, window=0):
    """A single example, blocks of 16."""
    edges = scattering.default_edges(threshold, length=TIME, block_size=SIZE)
    plan = scattering.schedule(score, threshold, edges=edges, block_size=SIZE)
    return attention.scattering_attention(
        query, key, value, score, threshold=threshold, local_window=window, schedule=plan
    )


def loss(query, key, value, score, threshold=0.3):
    return jnp.sum(jnp.sin(attend(query, key, value, score, threshold)))


GRADIENT = jax.grad(loss, argnums=(0, 1, 2))


def close(got, want):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_nested_vmap_of_grad_and_grad_of_vmap(blocks):
    batch = inputs(2, 3)
    thresholds = jnp.array([0.2, 0.6], jnp.float32)
    one = jax.jit(GRADIENT)
    want = [[one(*(a[i, j] for a in batch), thresholds[i]) for j in range(3)] for i in range(2)]
    want = jax.tree.map(
        lambda *rows: jnp.stack(rows),
        *[jax.tree.map(lambda *cells: jnp.stack(cells), *row) for row in want],
    )

    def nested(function):
        return jax.vmap(jax.vmap(function, (0, 0, 0, 0, None)), (0, 0, 0, 0, 0))

    close(jax.jit(nested(GRADIENT))(*batch, thresholds), want)

    def total(query, key, value):
        return jnp.sum(nested(loss)(query, key, value, batch[3], thresholds))

    close(jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*batch[:3]), want)


def test_vmap_over_queries_alone(blocks):
    query, key, value, score = inputs()
    queries = jnp.stack([query, 2 * query])
    got = jax.jit(jax.vmap(attend, (0, None, None, None)))(queries, key, value, score)
    close(got, jnp.stack([jax.jit(attend)(q, key, value, score) for q in queries]))


def test_vmap_does_not_run_in_lockstep(blocks):
    """The loops run over all examples' blocks in turn and carry those of one."""
    batch = inputs(4)
    text = jax.jit(jax.vmap(attend)).lower(*batch).as_text()
    whole = f"tensor<4x{TIME}x2x8xf32>"
    loops = [line for line in text.splitlines() if "stablehlo.while" in line]
    assert loops
    assert not any(whole in line or "tensor<4x2x1x16x8xf32>" in line for line in loops)


def test_scan_and_checkpoint(blocks):
    query, key, value, score = inputs()

    def layers(query, steps):
        def layer(x, _):
            return x + jax.checkpoint(attend)(x, key, value, score), None

        return jnp.sum(jax.lax.scan(layer, query, None, length=steps)[0] ** 2)

    def unrolled(query):
        for _ in range(2):
            query = query + attend(query, key, value, score)
        return jnp.sum(query**2)

    got = jax.jit(jax.grad(lambda q: layers(q, 2)))(query)
    close(got, jax.jit(jax.grad(unrolled))(query))


def test_forward_mode_and_second_order_raise(blocks):
    query, *rest = inputs()
    tangent = jax.jit(lambda q: jax.jvp(lambda q: loss(q, *rest), (q,), (q,)))
    with pytest.raises(TypeError, match="forward-mode"):
        tangent.lower(query)
    with pytest.raises(NotImplementedError, match="first-order reverse-mode"):
        jax.eval_shape(jax.grad(lambda q: jnp.sum(GRADIENT(q, *rest)[0] ** 2)), query)


def test_short_sequences_have_all_derivatives():
    query, key, value, score = (jnp.asarray(a, jnp.float64) for a in inputs())

    def f(query):
        output, lse = attention.scattering_attention(
            query, key, value, score, threshold=0.3, return_lse=True
        )
        return jnp.sum(output**2) + jnp.sum(jnp.where(lse > -jnp.inf, lse, 0))

    direction = jnp.cos(jnp.arange(query.size, dtype=query.dtype)).reshape(query.shape)

    def slope(x):
        return jnp.vdot(jax.grad(f)(x), direction)

    got = jnp.vdot(jax.jit(jax.grad(slope))(query), direction)
    step = 1e-4
    along = jax.jit(lambda t: slope(query + t * direction))
    want = (along(step) - along(-step)) / (2 * step)
    np.testing.assert_allclose(got, want, rtol=1e-6)


def test_score_and_threshold_have_no_gradient(blocks):
    query, key, value, score = inputs()
    gradients = jax.jit(jax.grad(loss, argnums=(3, 4)))(query, key, value, score, 0.3)
    assert not any(np.asarray(g).any() for g in gradients)


SHARDED = """
    import jax, jax.numpy as jnp, numpy as np
    from jax.sharding import AxisType, PartitionSpec as P
    from physnet import attention
    from physnet.attention import _over_blocks
    r = np.random.default_rng(0)
    tensors = [jnp.asarray(r.normal(size=(2, 40, n, 8)), jnp.float32) for n in (4, 2, 2)]
    score = jnp.asarray(r.uniform(size=(2, 40)), jnp.float32)
    mesh = jax.make_mesh((2, 2), ("data", "model"), axis_types=(AxisType.Auto,) * 2)

    def attend(query, key, value, score):
        return attention.scattering_attention(
            query, key, value, score, threshold=0.3, local_window=3
        )

    heads = P("data", None, "model")
    sharded = jax.shard_map(
        attend, mesh=mesh, in_specs=(heads, heads, heads, P("data")), out_specs=heads
    )

    # Keys sharded over the sequence: partial results merge by their log-sum-exps.
    def partial(query, key, value, score, key_score):
        start = 20 * jax.lax.axis_index("model")
        output, lse = attention.scattering_attention(
            query, key, value, score, threshold=0.3, key_score=key_score, local_window=3,
            query_position=jnp.arange(40), key_position=start + jnp.arange(20), return_lse=True,
        )
        top = jax.lax.pmax(jax.lax.stop_gradient(lse), "model")
        weight = jnp.exp(lse - top)
        total = jax.lax.psum(weight, "model")
        return jax.lax.psum(weight[..., None] * output, "model") / total[..., None]

    rows = P("data")
    keys = P("data", "model")
    split = jax.shard_map(
        partial, mesh=mesh, in_specs=(rows, keys, keys, rows, keys), out_specs=rows
    )

    def results(function, *more):
        def loss(*tensors):
            output = function(*tensors, score, *more)
            return jnp.sum(jnp.sin(output)), output
        (_, output), gradients = jax.jit(
            jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True)
        )(*tensors)
        return (output, *gradients)

    want = results(attend)  # all pairs at once
    _over_blocks.DENSE_PAIRS = 0
    for got in (results(sharded), results(split, score)):
        for a, b in zip(got, want, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    print("equal on", len(jax.devices()), "devices")
"""


@pytest.mark.slow
def test_shard_map_over_batch_heads_and_keys(on_devices):
    assert on_devices(textwrap.dedent(SHARDED), 4) == "equal on 4 devices"
