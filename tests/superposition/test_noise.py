"""Noise of particles: its distribution, its keys, and memory that stays as they grow in number."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet.superposition import path_integral
from physnet.superposition.path_integral import _noise


def zeros(*shape, dtype=jnp.float32):
    return jnp.zeros(shape, dtype)


@pytest.mark.parametrize("rank", [None, 1, 3])
def test_entries_have_mean_zero_variance_one_and_no_correlation(rank):
    like = {"b": zeros(7), "w": zeros(9, 8)}
    count = 4000
    z = jax.jit(jax.vmap(lambda k: _noise.draw(k, like, rank=rank)))(
        jax.random.split(jax.random.key(0), count)
    )
    flat = np.concatenate([np.asarray(z["b"]), np.asarray(z["w"]).reshape(count, -1)], 1)
    np.testing.assert_allclose(flat.mean(0), 0, atol=5 / count**0.5)
    products = flat.T @ flat / count
    # Products of normals have heavier tails: the variance of z^2 is 2 + 6 / r.
    spread = (2 + (0 if rank is None else 6 / rank)) ** 0.5
    np.testing.assert_allclose(products, np.eye(len(products)), atol=5.5 * spread / count**0.5)
    singular = np.linalg.svd(z["w"][:5], compute_uv=False)
    assert (singular > 1e-4 * singular[:, :1]).sum(1).max() == (rank or 8)


def test_factors_where_they_hold_fewer_numbers():
    like = {"thin": zeros(50, 1), "bias": zeros(9), "wide": zeros(9, 8), "stack": zeros(3, 9, 8)}
    z = jax.eval_shape(lambda: _noise.factors(jax.random.key(0), like, rank=2))
    made = {k for k, v in z.items() if isinstance(v, _noise.LowRank)}
    assert made == {"wide", "stack"}
    assert z["stack"].left.shape == (3, 9, 2)
    assert _noise.numbers(like, 2) == 50 + 9 + 4 * 2 * 17
    assert _noise.numbers(like, None) == sum(x.size for x in like.values())


def test_dtypes_follow_the_leaves():
    like = {"low": zeros(5, 5, dtype=jnp.bfloat16), "wide": zeros(5, 5, dtype=jnp.float64)}
    z = jax.eval_shape(lambda: _noise.draw(jax.random.key(0), like, rank=1))
    assert z["low"].dtype == jnp.float32
    assert z["wide"].dtype == jnp.float64


def test_leaves_and_draws_differ_and_keys_repeat():
    like = {"a": zeros(4), "b": zeros(4)}
    one, two = (_noise.draw(jax.random.key(k), like, rank=None) for k in (0, 1))
    again = _noise.draw(jax.random.key(0), like, rank=None)
    jax.tree.map(np.testing.assert_array_equal, one, again)
    values = {float(x) for tree in (one, two) for leaf in tree.values() for x in leaf}
    assert len(values) == 16


@pytest.mark.parametrize("rank", [None, 1])
def test_memory_does_not_grow_with_the_number_of_particles(rank):
    """A whole step of 16 and of 4096 particles, 8 at once."""
    side = 128
    params = {"w": zeros(side, side), "b": zeros(side)}
    kind: Any = {"covariance": "diagonal"} if rank is None else {"rank": rank, "materialise": False}

    def loss(p, x):
        return jnp.sum(jnp.tanh(x @ p["w"] + p["b"]) ** 2)

    def temporaries(particles):
        state = path_integral.init(params, sigma=0.1, particles=particles, chunk=8, **kind)
        run = jax.jit(path_integral.step, static_argnums=2)
        run = run.lower(jax.random.key(0), state, loss, jnp.ones((side,), jnp.float32))
        return run.compile().memory_analysis().temp_size_in_bytes

    few, many = temporaries(16), temporaries(4096)
    # Beyond one chunk: numbers a particle (its loss, its weight, its index), and no noise.
    assert many - few < 64 * 4096
    dense = 8 * 4 * side**2  # one chunk of matrices
    assert few < (8 if rank is None else 0.5) * dense
