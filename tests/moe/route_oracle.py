"""Distances and choices in float64, and points moved by exact steps."""

import numpy as np


def distances(tokens, centroids, c=1.0):
    """Of all pairs, in float64, by the polar form."""
    v, w = (np.asarray(x, np.float64) for x in (tokens, centroids))
    a, b = (np.linalg.norm(x, axis=-1) for x in (v, w))
    u, t = v / np.where(a > 0, a, 1)[:, None], w / np.where(b > 0, b, 1)[:, None]
    r, q = 2 * np.sqrt(c) * a, 2 * np.sqrt(c) * b
    chord = np.stack([np.sum(np.square(x - t), -1) for x in u])
    square = np.sinh((r[:, None] - q) / 2) ** 2 + np.outer(np.sinh(r), np.sinh(q)) * chord / 4
    return 2 / np.sqrt(c) * np.arcsinh(np.sqrt(square))


def regret(expert, tokens, centroids, c=1.0):
    """How much farther each chosen expert is than the one of its rank, and the true distances."""
    true = distances(tokens, centroids, c)
    chosen = np.take_along_axis(true, np.asarray(expert), 1)
    return chosen - np.sort(true, 1)[:, : chosen.shape[1]], chosen


def moved(base, step):
    """From the point of tangent `base`, |step| along the direction `step`; all in float64."""
    q, r = 2 * np.linalg.norm(base, axis=-1), np.linalg.norm(step, axis=-1)
    u, w = step / r[..., None], 2 * base / q[..., None]
    along = np.sinh(r) * np.sum(u * w, -1)
    across = np.sinh(r)[..., None] * u - along[..., None] * w
    x = (np.cosh(q) * along + np.sinh(q) * np.cosh(r))[..., None] * w + across
    size = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / size * np.arcsinh(size) / 2
