"""k-means against Lloyd's algorithm with Frechet means, and all ways to part a few points."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hierarchies import distances, grow, tangents

from physnet import hyperbolic
from physnet.hyperbolic import _kmeans

kmeans = jax.jit(hyperbolic.kmeans, static_argnums=1, static_argnames=("coordinates", "steps"))


def frechet(v, steps=20):
    """The point with the least sum of squared distances to tangents (m, d), on the hyperboloid."""
    r = 2 * np.linalg.norm(v, axis=1, keepdims=True)
    x = np.hstack([np.cosh(r), np.sinh(r) * v / np.maximum(r / 2, 1e-300)])
    metric = np.r_[-1.0, np.ones(v.shape[1])]
    mean = x.sum(0) / np.sqrt(-np.sum(metric * x.sum(0) ** 2))
    for _ in range(steps):
        cosh = np.maximum(-(x * metric) @ mean, 1.0)
        a = np.arccosh(cosh)
        scale = np.where(a > 1e-6, a / np.sinh(np.maximum(a, 1e-6)), 1.0)
        towards = scale[:, None] * (x - cosh[:, None] * mean)  # log_mean(x)
        # The Hessian's eigenvalues are between 1 and a coth a.
        step = towards.mean(0) / np.mean(np.maximum(a / np.tanh(np.maximum(a, 1e-6)), 1.0))
        size = np.sqrt(max(np.sum(metric * step**2), 0.0))
        mean = np.cosh(size) * mean + np.sinh(size) * step / max(size, 1e-300)
        mean[0] = np.sqrt(1 + np.sum(mean[1:] ** 2))
    return tangents(mean[None])[0]


def objective(v, centres):
    return np.sum(distances(v, centres).min(axis=1) ** 2)


def lloyd(v, centres, steps):
    for _ in range(steps):
        label = distances(v, centres).argmin(axis=1)
        assert len(set(label)) == len(centres)
        centres = np.stack([frechet(v[label == j]) for j in range(len(centres))])
    return objective(v, centres)


def found(v, k, seed, steps=20):
    clusters = kmeans(
        jnp.asarray(v, jnp.float32), k, key=jax.random.key(seed), coordinates="tangent", steps=steps
    )
    return clusters, objective(v, np.asarray(clusters.centroids, np.float64))


@pytest.mark.parametrize("step", [0.5, 2.0])
def test_as_good_as_frechet_means_from_the_same_start(step):
    """Gyromidpoints are not Frechet means: they may lead to other clusters, hardly worse."""
    v = tangents(grow(150, 3, branching=3, step=step, seed=0)[1:])
    start, _ = found(v, 5, 2, steps=0)
    ours, value = found(v, 5, 2)
    np.testing.assert_allclose(
        ours.distance, distances(v, np.asarray(ours.centroids, np.float64)).min(1), rtol=1e-4
    )
    expected = lloyd(v, np.asarray(start.centroids, np.float64), 20)
    assert value < 1.05 * expected


def test_near_the_best_of_all_partitions():
    """8 points in two parts: a few starts come as near as midpoints can to the best of 127."""
    v = tangents(grow(9, 2, branching=3, step=1.5, seed=3)[1:])
    best = np.inf
    for side in itertools.product([False, True], repeat=len(v) - 1):
        part = np.array([False, *side])
        if part.any():
            centres = np.stack([frechet(v[part]), frechet(v[~part])])
            best = min(best, objective(v, centres))
    ours = min(found(v, 2, seed)[1] for seed in range(8))
    assert best * (1 - 1e-6) <= ours < 1.05 * best


def test_an_empty_cluster_takes_the_farthest_point(monkeypatch):
    """Both centroids begin on the same point, so that the second is empty."""
    monkeypatch.setattr(_kmeans, "_spread", lambda points, k, key: jnp.zeros(k, jnp.int32))
    key = jax.random.key(0)
    v = np.array([[0.1, 0], [0.0, 0.1], [0.1, 0.1], [2.0, 0], [2.1, 0]], np.float32)
    again = jax.jit(lambda v: hyperbolic.kmeans(v, 2, key=key, coordinates="tangent", steps=4))
    clusters = again(jnp.asarray(v))
    np.testing.assert_array_equal(clusters.labels, [0, 0, 0, 1, 1])
    expected = np.stack([frechet(v[:3].astype(float)), frechet(v[3:].astype(float))])
    np.testing.assert_allclose(clusters.centroids, expected, atol=2e-3)
