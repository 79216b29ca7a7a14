"""Hyperbolic geometry in float64 NumPy, by the definitions; c is a number or (..., 1)."""

import functools

import jax
import jax.numpy as jnp
import numpy as np


def dot(x, y):
    return np.sum(x * y, -1, keepdims=True)


def norm(x):
    return np.sqrt(dot(x, x))


def add(x, y, c):
    xy, xx, yy = c * dot(x, y), c * dot(x, x), c * dot(y, y)
    return ((1 + 2 * xy + yy) * x + (1 - xx) * y) / (1 + 2 * xy + xx * yy)


def factor(x, c):
    return 2 / (1 - c * dot(x, x))


def distance(x, y, c):
    s = np.sqrt(c)
    return (2 / s * np.arctanh(s * norm(add(-x, y, c))))[..., 0]


def exp0(v, c):
    s = np.sqrt(c) * norm(v)
    return np.tanh(s) * v / s


def expmap(x, v, c):
    return add(x, exp0(factor(x, c) * v / 2, c), c)


def logmap(x, y, c):
    m = add(-x, y, c)
    s = np.sqrt(c) * norm(m)
    return 2 / factor(x, c) * np.arctanh(s) * m / s


def transport(x, y, v, c):
    turned = add(-add(y, -x, c), add(y, add(-x, v, c), c), c)  # gyr[y, -x] v
    return factor(x, c) / factor(y, c) * turned


def polar_distance(v, w, c):
    """Right to 1e-14 for coordinates that float32 can hold: their products are exact."""
    v, w = np.asarray(v, np.float64), np.asarray(w, np.float64)
    i, j = np.triu_indices(v.shape[-1], 1)
    wedge = norm(v[..., i] * w[..., j] - v[..., j] * w[..., i])
    s, a, b = np.sqrt(c), norm(v), norm(w)
    sine, cosine = wedge / (a * b), dot(v, w) / (a * b)
    half = np.where(cosine > 0, sine**2 / (2 * (1 + cosine)), (1 - cosine) / 2)
    difference = dot(v + w, v - w) / (a + b)
    square = np.sinh(s * difference) ** 2 + np.sinh(2 * s * a) * np.sinh(2 * s * b) * half
    return (2 / s * np.arcsinh(np.sqrt(square)))[..., 0]


def directions(r, shape):
    u = r.normal(size=shape)
    return u / norm(u)


def cases(seed=0, *, n=1200, d=3, reach=0.95, count=2, vary=True):
    """Curvatures (n,) and `count` batches (n, d) of points of the ball."""
    r = np.random.default_rng(seed)
    c = np.exp(r.uniform(-2, 2, n)) if vary else np.ones(n)
    scale = 1 / np.sqrt(c)[:, None]
    return c, *(
        directions(r, (n, d)) * r.uniform(0.01, reach, (n, 1)) * scale for _ in range(count)
    )


@functools.cache
def jitted(function):
    return jax.jit(function)


def call(function, *points, **options):
    """Compiled, on JAX's arrays, whatever comes."""
    options = {name: jnp.asarray(value) for name, value in options.items()}
    return jitted(function)(*map(jnp.asarray, points), **options)
