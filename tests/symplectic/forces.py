"""Forces and states that the tests share."""

import jax
import jax.numpy as jnp
import numpy as np


def mlp(params, q, u):
    """No gradient of a potential; sees its input."""
    x = jnp.tanh(q.astype(params["in"].dtype) @ params["in"]) @ params["out"]
    x = x.astype(q.dtype) - q
    return x if u is None else x + u


def gradient(params, q, u):
    def potential(q):
        x = jnp.tanh(q.astype(params["in"].dtype) @ params["in"]) @ params["out"]
        return jnp.sum(q**2) / 2 - jnp.sum(jnp.logaddexp(x, -x).astype(q.dtype))

    return -jax.grad(potential)(q)


def attention(params, q, u):
    x = q.astype(params["in"].dtype)
    query, key, value = (x @ params[name] for name in ("in", "key", "out"))
    scores = jnp.where(jnp.tri(len(q), dtype=bool), (query @ key.T).astype(jnp.float32), -jnp.inf)
    return jnp.tanh(jax.nn.softmax(scores).astype(x.dtype) @ value).astype(q.dtype) - q


FORCES = {"mlp": mlp, "gradient": gradient, "attention": attention}


def problem(dtype=np.float32, params_dtype=None, rows=3, size=4):
    """Parameters and a state (rows, size)."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), dtype)

    params = {name: normal(size, size) * np.asarray(0.7, dtype) for name in ("in", "key", "out")}
    params = jax.tree.map(lambda x: x.astype(params_dtype or dtype), params)
    return params, (normal(rows, size), normal(rows, size))


def differ(a, b):
    """How many elements of two trees differ."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(int(np.sum(np.asarray(x) != np.asarray(y))) for x, y in pairs)
