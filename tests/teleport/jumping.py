"""Stacks to teleport over, and the sums of the docstring written out, O(L^2), layer by layer."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LAYERS, BATCH, WIDTH, RANK = 5, 3, 4, 2
RNG = np.random.default_rng(0)


class Case(NamedTuple):
    """A propagator as a user gives it, and G (L+1, L+1) between all nodes."""

    given: object
    matrix: np.ndarray


def product(rho):
    g = np.zeros((len(rho) + 1, len(rho) + 1))
    for l in range(len(rho) + 1):
        for k in range(l + 1, len(rho) + 1):
            g[l, k] = np.prod(rho[l:k])
    return g


def bordered(g):
    """G between outputs, with an input that has no part."""
    return np.pad(g, ((1, 0), (1, 0)))


def propagators(layers=LAYERS):
    rng = np.random.default_rng(1)
    rho = rng.normal(size=layers)
    u, v = rng.normal(size=(2, layers, RANK))
    u1, v1 = rng.normal(size=(2, layers + 1, RANK))
    d, d1 = rng.normal(size=(layers, layers)), rng.normal(size=(layers + 1, layers + 1))
    return {
        "rho": Case(jax.device_put(rho), product(rho)),
        "pair": Case(jax.device_put((u, v)), bordered(u @ v.T)),
        "pair with input": Case(jax.device_put((u1, v1)), u1 @ v1.T),
        "matrix": Case(jax.device_put(d), bordered(d)),
        "matrix with input": Case(jax.device_put(d1), d1),
    }


PROPAGATORS = propagators()


def layer(params, h):
    """A tree in, the same tree out; its parts mix."""
    x = jnp.tanh(h["x"] @ params["w"] + params["b"][None, :] * h["y"][:, None])
    return {"x": x, "y": 0.5 * h["y"] + jnp.sum(x * h["x"], -1)}


PARAMS = {
    "w": jax.device_put(RNG.normal(size=(LAYERS, WIDTH, WIDTH)) / 2),
    "b": jax.device_put(RNG.normal(size=(LAYERS, WIDTH))),
}
H = jax.device_put({"x": RNG.normal(size=(BATCH, WIDTH)), "y": RNG.normal(size=BATCH)})
STRENGTH = jax.device_put(RNG.uniform(0.1, 0.5, size=LAYERS))


def readout(h):
    return jnp.sum(jnp.sin(h["x"])) + jnp.sum(h["y"] ** 2)


def own(params, l):
    return jax.tree.map(lambda p: p[l], params)


def add(*trees):
    return jax.tree.map(lambda *x: sum(x), *trees)


def scaled(factor, tree):
    return jax.tree.map(lambda x: float(factor) * x, tree)


def ghost_path(params, h, matrix, strength, layer=layer):
    """h_0 .. h_L of the ghost, its sums written out; strength = 0 is the plain path."""
    path = [h]
    for k in range(1, len(strength) + 1):
        jumps = [scaled(strength[l] * matrix[l, k], path[l]) for l in range(k)]
        path.append(add(layer(own(params, k - 1), path[-1]), *jumps))
    return path


def brute(params, path, matrix, strength, *, mode, layer=layer, readout=readout):
    """Cotangents (params, h) by the docstring's formula along `path`."""
    last = len(strength)
    pulls = [jax.vjp(layer, own(params, l), path[l])[1] for l in range(last)]
    chain = {last: jax.grad(readout)(path[-1])}
    total = dict(chain)
    for l in range(last - 1, -1, -1):
        chain[l] = pulls[l](chain[l + 1])[1]
        if mode == "chain":
            base, summed = chain[l], chain
        else:
            base, summed = pulls[l](total[l + 1])[1], total
        jumps = [scaled(strength[l] * matrix[l, k], summed[k]) for k in range(l + 1, last + 1)]
        total[l] = add(base, *jumps)
    grads = [pulls[l](total[l + 1])[0] for l in range(last)]
    return jax.tree.map(lambda *x: jnp.stack(x), *grads), total[0]


def close(found, expected, rtol=1e-12):
    """Equal to rtol of the largest entry of each leaf."""
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=rtol * max(float(np.abs(b).max()), 1e-300))
