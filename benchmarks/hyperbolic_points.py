"""Points of hyperbolic space for the benchmarks of routing."""

import numpy as np


def moved(base, step):
    """|step| along `step` from the point of tangent `base`, in float64."""
    q, r = 2 * np.linalg.norm(base, axis=-1), np.linalg.norm(step, axis=-1)
    u, w = step / r[..., None], 2 * base / q[..., None]
    along = np.sinh(r) * np.sum(u * w, -1)
    across = np.sinh(r)[..., None] * u - along[..., None] * w
    x = (np.cosh(q) * along + np.sinh(q) * np.cosh(r))[..., None] * w + across
    size = np.linalg.norm(x, axis=-1, keepdims=True)
    return x / size * np.arcsinh(size) / 2
