"""Values without derivatives, which have a loop of their own, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import moe


def linear(tokens, expert, gate, params):
    routing = moe.Routing(expert, gate, None, None, None)
    return moe.apply(tokens, routing, lambda p, x: x @ p, params)


applied = jax.jit(linear)


def inputs(expert, experts=9, seed=0):
    rng = np.random.default_rng(seed)
    n, k = expert.shape
    tokens, gate, params = (
        rng.normal(size=s).astype(np.float32) for s in ((n, 4), (n, k), (experts, 4, 3))
    )
    return tokens, expert.astype(np.int32), gate, params


def one_by_one(tokens, expert, gate, params):
    y = np.zeros((len(tokens), params.shape[2]))
    for i, j in np.ndindex(expert.shape):
        if 0 <= expert[i, j] < len(params):
            y[i] += gate[i, j] * (tokens[i].astype(float) @ params[expert[i, j]])
    return y


LOADS = {
    "even": np.arange(120).reshape(60, 2) % 9,
    "all to the first": np.zeros((60, 2)),
    "all to the last": np.full((60, 2), 8),
    "one left over": np.concatenate([np.full((59, 2), 4), [[5, 3]]]),
    "some to none": np.arange(120).reshape(60, 2) % 13 - 2,
    "all to none": np.full((60, 2), -1),
}


@pytest.mark.parametrize("loads", LOADS.values(), ids=LOADS)
def test_equal_to_a_loop_over_tokens(loads):
    arrays = inputs(loads)
    np.testing.assert_allclose(applied(*arrays), one_by_one(*arrays), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("axes", [(0, None, 0, None), (None, 0, None, 0)])
def test_a_batch_is_more_tokens_and_more_experts(axes):
    sets = [inputs(LOADS[name], seed=i) for i, name in enumerate(("one left over", "some to none"))]
    moves = [[s[i] for s in sets] if axis == 0 else [sets[0][i]] * 2 for i, axis in enumerate(axes)]
    arrays = [np.stack(m) if axis == 0 else m[0] for m, axis in zip(moves, axes, strict=True)]
    y = jax.jit(jax.vmap(linear, axes))(*arrays)
    for i in range(2):
        np.testing.assert_allclose(y[i], one_by_one(*[m[i] for m in moves]), rtol=1e-6, atol=1e-6)


def test_experts_that_close_over_a_batch_of_integers():
    tokens, expert, gate, params = inputs(LOADS["even"])
    arrays = [jnp.asarray(x) for x in (tokens, expert, gate, params)]

    def scaled(power):
        routing = moe.Routing(*arrays[1:3], None, None, None)
        square = lambda p, x: jnp.where(power > 1, x * x, x) @ p  # noqa: E731
        return moe.apply(arrays[0], routing, square, arrays[3])

    y = jax.jit(jax.vmap(scaled))(jnp.array([1, 2], jnp.int32))
    for power in (1, 2):
        expected = one_by_one(tokens**power, expert, gate, params)
        np.testing.assert_allclose(y[power - 1], expected, rtol=2e-6, atol=2e-6)


def test_memory_is_that_of_rows_in_and_out():
    """Not of parameters, nor of a number for each token and expert, which are 2 MiB."""
    shapes = [(2048, 32), (2048, 1), (2048, 1), (256, 32, 64)]
    dtypes = [jnp.float32, jnp.int32, jnp.float32, jnp.float32]
    arrays = [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, dtypes, strict=True)]
    compiled = applied.lower(*arrays).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 2**20
