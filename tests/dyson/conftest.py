"""Small stacks with dense Jacobians."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest


def dense_layer(params, h):
    """A layer on h of any shape: it mixes all entries, keeps shape and dtype."""
    out = jnp.tanh(jnp.matmul(params["w"], h.ravel()) + params["b"])
    return (h.ravel() * params["skip"] + out).reshape(h.shape)


class Stack(NamedTuple):
    params: dict
    h: jax.Array


def _stack(layers=4, shape=(6,), *, skip=0.0, gain=1.0, dtype=np.float64, seed=0):
    rng, d = np.random.default_rng(seed), int(np.prod(shape))
    params = {
        "w": gain * rng.normal(size=(layers, d, d)) / d**0.5,
        "b": 0.1 * rng.normal(size=(layers, d)),
        "skip": np.full(layers, skip),
    }
    h = jnp.asarray(rng.normal(size=shape), dtype)
    return Stack(jax.tree.map(lambda x: jnp.asarray(x, dtype), params), h)


@jax.jit
def _jacobians(params, h):
    """J_l (L, d, d), one layer after the other."""
    found = []
    for l in range(len(params["w"])):
        own = jax.tree.map(lambda x, l=l: x[l], params)
        found.append(jax.jacfwd(lambda h, own=own: dense_layer(own, h))(h).reshape(h.size, h.size))
        h = dense_layer(own, h)
    return jnp.stack(found)


@pytest.fixture(scope="session")
def layer():
    return dense_layer


@pytest.fixture(scope="session")
def stack():
    """stack(layers, shape, skip=, gain=, dtype=, seed=) -> params, h."""
    return _stack


@pytest.fixture(scope="session")
def jacobians():
    return _jacobians
