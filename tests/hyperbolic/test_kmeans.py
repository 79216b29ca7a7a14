"""Hyperbolic k-means and its midpoints."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hierarchies import distances, grow, moved, tangents

from physnet import hyperbolic
from physnet.hyperbolic._means import midpoints

KEY = jax.random.key(0)
clusters = jax.jit(hyperbolic.kmeans, static_argnums=1, static_argnames="coordinates")


def kmeans(points, k, *, coordinates, curvature=1.0):
    """The curvature is an argument: one program for all."""
    return clusters(points, k, key=KEY, coordinates=coordinates, curvature=curvature)


def groups(radius, *, each=30, dim=3, noise=0.2):
    """Tangents of well separated groups at a radius, and which group each point is in."""
    r = np.random.default_rng(0)
    direction = np.eye(dim)[[0, 1, 2, 0]] * np.array([[1], [1], [1], [-1]])
    centre = moved(np.repeat(np.eye(1, dim + 1), 4, axis=0), radius * direction)
    x = np.repeat(centre, each, axis=0)
    return tangents(moved(x, noise * r.normal(size=(4 * each, dim)))), np.repeat(range(4), each)


@pytest.mark.parametrize(
    ("coordinates", "radius"),  # float32 ball points cannot tell how far out they are at 16
    [("ball", 1.5), ("ball", 6.0), ("tangent", 1.5), ("tangent", 6.0), ("tangent", 16.0)],
)
def test_finds_groups(coordinates, radius):
    points, group = groups(radius)
    given = np.tanh(np.linalg.norm(points, axis=1, keepdims=True))
    given = given * points / np.linalg.norm(points, axis=1, keepdims=True)
    given = jnp.asarray(given if coordinates == "ball" else points, jnp.float32)
    found = kmeans(given, 4, coordinates=coordinates)
    assert len(set(zip(group.tolist(), found.labels.tolist(), strict=True))) == 4
    assert np.all(np.bincount(found.labels) == 30)
    assert np.max(found.distance) < 1.5


def test_curvature_scales_lengths():
    points, _ = groups(3.0)
    one = kmeans(jnp.asarray(points, jnp.float32), 4, coordinates="tangent")
    other = kmeans(jnp.asarray(points / 2, jnp.float32), 4, coordinates="tangent", curvature=4.0)
    np.testing.assert_array_equal(one.labels, other.labels)
    np.testing.assert_allclose(one.centroids, 2 * other.centroids, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(one.distance, 2 * other.distance, rtol=1e-4, atol=1e-5)


def test_empty_clusters_move_to_far_points():
    points = jnp.concatenate([jnp.zeros((20, 2)), jnp.eye(2), -jnp.eye(2)])
    found = kmeans(points, 5, coordinates="tangent")
    assert np.all(np.bincount(found.labels, minlength=5) > 0)
    np.testing.assert_allclose(found.distance, 0, atol=1e-6)


def test_as_many_clusters_as_points_and_one():
    points = jax.random.normal(KEY, (9, 2))
    np.testing.assert_allclose(kmeans(points, 9, coordinates="tangent").distance, 0, atol=1e-3)
    assert not kmeans(points, 1, coordinates="tangent").labels.any()


@pytest.mark.parametrize("step", [0.01, 1.0, 4.0])
def test_midpoints_are_sums_on_the_hyperboloid(step):
    x = grow(40, 3, branching=3, step=step, seed=0)
    group = np.arange(40) % 4
    found, size = jax.jit(midpoints, static_argnums=2)(
        jnp.asarray(tangents(x), jnp.float32), jnp.asarray(group), 5
    )
    total = np.stack([x[group == g].sum(axis=0) for g in range(4)])
    length = np.linalg.norm(total[:, 1:], axis=1, keepdims=True)
    radius = np.arctanh(length / total[:, :1])
    expected = total[:, 1:] / length * radius / 2
    away = np.diagonal(distances(np.asarray(found[:4], np.float64), expected))
    np.testing.assert_allclose(away, 0, atol=2e-5 * (1 + radius.max()))
    np.testing.assert_array_equal(size, [10, 10, 10, 10, 0])
    np.testing.assert_array_equal(found[4], 0)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"points": jnp.zeros(3)}, "points must have the shape"),
        ({"coordinates": "polar"}, "coordinates must be"),
        ({"k": 0}, "k must be between 1 and"),
        ({"k": 11}, "k must be between 1 and"),
        ({"steps": -1}, "steps must be >= 0"),
        ({"curvature": -1.0, "coordinates": "tangent"}, "curvature must be positive"),
        ({"curvature": jnp.ones(2), "coordinates": "tangent"}, "curvature must be one number"),
    ],
)
def test_errors(change, words, bare_errors):
    arguments = {"points": jnp.zeros((10, 2)), "k": 2, "key": KEY} | change
    with pytest.raises(ValueError, match=words):
        hyperbolic.kmeans(arguments.pop("points"), arguments.pop("k"), **arguments)


def test_types(bare_errors):
    with pytest.raises(TypeError, match="points must be a real"):
        hyperbolic.kmeans(jnp.zeros((10, 2), int), 2, key=KEY)
    with pytest.raises(TypeError, match="k must be a static"):
        hyperbolic.kmeans(jnp.zeros((10, 2)), 2.0, key=KEY)
    points, _ = groups(1.5)
    half = jnp.asarray(points, jnp.bfloat16)
    found = kmeans(half, 4, coordinates="tangent")
    single = kmeans(half.astype(jnp.float32), 4, coordinates="tangent")
    assert found.centroids.dtype == found.distance.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.labels, single.labels)
    np.testing.assert_array_equal(found.distance, single.distance.astype(jnp.bfloat16))
