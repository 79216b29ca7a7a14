"""The tree of centroids finds what a comparison with all of them finds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hierarchies import distances, grow, moved, tangents

from physnet.hyperbolic import polar, tree

KEY = jax.random.key(0)


built = jax.jit(lambda centroids, c: tree.build(centroids, key=KEY, curvature=c))
search = jax.jit(tree.search, static_argnames=("top_k", "limit", "rows"))


def build(centroids, curvature=1.0):
    return built(centroids, curvature)  # an argument: one program for all curvatures


def hierarchy(count, dim, *, tokens, step=2.5, noise=0.3, dtype=np.float32):
    """Centroids that form a tree and tokens near some of them: tangents, rounded to a dtype."""
    x = grow(count, dim, branching=8, step=step, seed=dim)
    r = np.random.default_rng(1)
    apart = noise * r.normal(size=(tokens, dim)) / np.sqrt(dim)
    points = moved(x[r.integers(0, count, tokens)], apart)
    return tuple(tangents(a).astype(dtype).astype(np.float64) for a in (x, points))


def check(centroids, points, found, curvature=1.0, tolerance=1e-3):
    """Indices are distinct, and no other centroid is nearer by more than the tolerance."""
    root = np.sqrt(curvature)
    away = distances(root * points, root * centroids) / root
    k = found.index.shape[1]
    least = np.sort(np.partition(away, k - 1, axis=1)[:, :k], axis=1)
    got = np.take_along_axis(away, np.asarray(found.index), axis=1)
    assert np.max(got - least) <= tolerance
    np.testing.assert_allclose(found.distance, got, atol=tolerance)
    assert all(len(set(row)) == k for row in np.asarray(found.index))


@pytest.mark.slow
@pytest.mark.parametrize("dim", [4, 16])
def test_few_distances_on_a_hierarchy(dim):
    centroids, points = hierarchy(16384, dim, tokens=256)
    # In a subspace of 16 dimensions, where distances are the same: one program for both.
    left, right = as_float32(*(np.pad(x, ((0, 0), (0, 16 - dim))) for x in (centroids, points)))
    found = search(build(left), right)
    check(centroids, points, found)
    assert np.mean(found.evaluations) <= 60


def as_float32(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


@pytest.mark.slow
def test_what_is_not_certified_is_compared_with_all():
    r = np.random.default_rng(0)
    centroids, points = r.normal(size=(300, 3)), r.normal(size=(50, 3))
    left, right = as_float32(centroids, points)
    check(centroids, points, search(build(left), right, top_k=3, rows=16))
    opened = search(build(left), right, limit=2)  # a leaf takes three
    check(centroids, points, opened)
    assert not np.any(opened.certified)
    assert np.all(opened.evaluations >= 300)


def test_the_nearest_few():
    centroids, points = hierarchy(300, 3, tokens=50)
    left, right = as_float32(centroids, points)
    found = search(build(left, curvature=0.4), right, top_k=3, rows=16)
    check(centroids, points, found, curvature=0.4)


@pytest.mark.parametrize(("count", "top_k"), [(1, 1), (9, 9)])
def test_few_centroids(count, top_k):
    r = np.random.default_rng(count)
    centroids, points = r.normal(size=(count, 2)), r.normal(size=(5, 2))
    left, right = as_float32(centroids, points)
    check(centroids, points, search(build(left), right, top_k=top_k), tolerance=1e-5)


def test_centroids_that_coincide_and_a_token_on_one():
    centroids = jnp.concatenate([jnp.zeros((50, 3)), jnp.ones((250, 3))])
    points = jnp.repeat(jnp.asarray([[0.0, 0, 0], [1.0, 1, 1]]), 25, axis=0)
    found = search(build(centroids), points)
    np.testing.assert_array_equal(found.index[:, 0] >= 50, np.arange(50) >= 25)
    np.testing.assert_allclose(found.distance, 0, atol=1e-6)


def test_far_out_and_in_float64():
    centroids, points = hierarchy(300, 3, tokens=50, step=5.0, dtype=np.float64)
    found = search(build(jnp.asarray(centroids)), jnp.asarray(points))
    check(centroids, points, found, tolerance=1e-9)


@pytest.mark.parametrize("radius", [200.0, 2e4])
def test_where_exponentials_overflow(radius):
    r = np.random.default_rng(0)
    centroids, points = as_float32(
        radius * r.normal(size=(300, 3)), radius * r.normal(size=(50, 3))
    )
    found = search(build(centroids), points, top_k=3, rows=16)
    away = jax.jit(polar.distance)(points[:, None], centroids[None])
    least = jnp.sort(away, axis=1)[:, :3]
    got = jnp.take_along_axis(away, found.index, axis=1)
    np.testing.assert_allclose(got, least, rtol=1e-6)
    np.testing.assert_allclose(found.distance, least, rtol=1e-6)


def test_half_precision_is_searched_in_float32():
    r = np.random.default_rng(0)
    centroids = jnp.asarray(r.normal(size=(300, 3)), jnp.bfloat16)
    points = jnp.asarray(r.normal(size=(50, 3)), jnp.bfloat16)
    found = search(build(centroids), points, top_k=3, rows=16)
    assert found.distance.dtype == jnp.float32
    check(np.asarray(centroids, np.float64), np.asarray(points, np.float64), found, tolerance=1e-5)


@pytest.mark.slow
def test_under_vmap():
    r = np.random.default_rng(0)
    centroids, points = as_float32(r.normal(size=(2, 9, 2)), r.normal(size=(2, 5, 2)))
    both = jax.jit(jax.vmap(lambda c, x: search(build(c), x, top_k=9)))(centroids, points)
    for i in range(2):
        alone = search(build(centroids[i]), points[i], top_k=9)
        np.testing.assert_array_equal(both.index[i], alone.index)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (lambda t: tree.build(jnp.zeros((3,)), key=KEY), "centroids must have the shape"),
        (lambda t: tree.build(jnp.zeros((0, 3)), key=KEY), "not empty"),
        (lambda t: tree.search(t, jnp.zeros((4, 2))), "points must have the shape"),
        (lambda t: tree.search(t, jnp.zeros((4, 3)), top_k=301), "top_k must be between 1 and"),
        (lambda t: tree.search(t, jnp.zeros((4, 3)), limit=0), "limit must be"),
        (lambda t: tree.search(t, jnp.zeros((4, 3)), rows=0), "rows must be"),
        (lambda t: tree.build(jnp.ones((4, 3)), key=KEY, curvature=-1.0), "curvature must be"),
        (lambda t: tree.build(jnp.ones((4, 3)), key=KEY, curvature=jnp.ones(3)), "one number"),
    ],
)
def test_errors(arguments, words, bare_errors):
    with pytest.raises(ValueError, match=words):
        arguments(build(jnp.ones((300, 3))))
