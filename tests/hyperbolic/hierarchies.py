"""Points that form hierarchies, in float64 on the hyperboloid, and distances between tangents."""

import numpy as np


def grow(count, dim, *, branching, step, seed):
    """(count, dim + 1): every point has children at the distance `step` in random directions."""
    r = np.random.default_rng(seed)
    x = np.eye(1, dim + 1)
    while len(x) < count:
        direction = r.normal(size=(len(x) * branching, dim))
        direction *= step / np.linalg.norm(direction, axis=1, keepdims=True)
        x = moved(np.repeat(x, branching, axis=0), direction)
    return x[r.permutation(len(x))[:count]]


def moved(x, direction):
    """exp_x of a vector that is carried from the origin to x."""
    v = np.concatenate([np.zeros((len(x), 1)), direction], axis=1)
    origin = np.eye(1, x.shape[1])
    v += (np.sum(x[:, 1:] * direction, axis=1) / (1 + x[:, 0]))[:, None] * (origin + x)
    length = np.linalg.norm(direction, axis=1, keepdims=True)
    return np.cosh(length) * x + np.sinh(length) * v / np.maximum(length, 1e-300)


def tangents(x):
    """v with x = exp_0(v): the origin's distance is 2 |v|."""
    s = np.linalg.norm(x[:, 1:], axis=1, keepdims=True)
    return x[:, 1:] * (np.arcsinh(s) / (2 * np.maximum(s, 1e-300)))


def distances(u, v):
    """Between all of two sets of tangents, (n, m), without cancellation."""
    half, other = (np.linalg.norm(a, axis=1) for a in (u, v))
    u, v = u / half[:, None], v / other[:, None]
    apart = np.stack([np.sum((one - v) ** 2, axis=1) for one in u])  # row by row: it fits a cache
    square = np.sinh(half[:, None] - other[None]) ** 2
    square += np.sinh(2 * half)[:, None] * np.sinh(2 * other) * apart / 4
    return 2 * np.arcsinh(np.sqrt(square))
