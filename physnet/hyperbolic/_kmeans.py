"""Clusters of points in hyperbolic space."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int, Key

from physnet import _checks, _varying
from physnet.hyperbolic import _arguments, poincare, polar
from physnet.hyperbolic._means import midpoints

_ENTRIES = 2**22  # of differences that are in memory at once


class Clusters(NamedTuple):
    """What `kmeans` finds."""

    centroids: Float[Array, "k d"]  # in the coordinates of the points
    labels: Int[Array, " n"]  # the nearest centroid of each point
    distance: Float[Array, " n"]  # to it


def kmeans(
    points: Float[Array, "n d"],
    k: int,
    *,
    key: Key[Array, ""],
    curvature: ArrayLike = 1.0,
    coordinates: Literal["ball", "tangent"] = "ball",
    steps: int = 20,
) -> Clusters:
    r"""Lloyd's algorithm with geodesic distances and gyromidpoints.

    The first centroids are points drawn with probabilities proportional to the squared distance to
    those drawn before. A centroid without points moves to one of the points that are farthest from
    their own. All is done in tangent coordinates, which stay exact where ball points no longer
    tell how far out they are.

    Args:
        points: (n, d), finite.
        k: number of clusters, 1 <= k <= n; static.
        key: of the first draws.
        curvature: c > 0, a number; the sectional curvature is -c.
        coordinates: of points and centroids: points of the ball, or tangents v at the origin whose
            points are exp_0(v).
        steps: of Lloyd's algorithm; static.

    Returns:
        Centroids (k, d), labels (n,) int32 and distances (n,), in the dtype of the points; float16
        and bfloat16 are computed in float32.

    Raises:
        ValueError: shapes, k, steps or coordinates out of range, a curvature that is not one
            positive number.
        TypeError: points that are not real and floating, k or steps that are no integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet import hyperbolic
        >>> near = 0.01 * jax.random.normal(jax.random.key(0), (2, 50, 2))
        >>> points = (near + jnp.array([[[0.9, 0.0]], [[-0.9, 0.0]]])).reshape(100, 2)
        >>> kmeans = jax.jit(hyperbolic.kmeans, static_argnums=1)
        >>> found = kmeans(points, 2, key=jax.random.key(1))
        >>> [int(x) for x in jnp.sort(jnp.bincount(found.labels, length=2))]
        [50, 50]
        >>> [f"{abs(x):.2f}" for x in found.centroids[:, 0]]
        ['0.90', '0.90']

    References:
        Arthur and Vassilvitskii 2007, k-means++; Ungar 2008, the gyromidpoint.
    """
    points = _checks.real("points", points)
    if points.ndim != 2 or 0 in points.shape:
        raise ValueError(f"points must have the shape (n, d), not empty, got {points.shape}")
    if not 1 <= (k := _checks.positive_int("k", k, minimum=0)) <= len(points):
        raise ValueError(f"k must be between 1 and the number of points {len(points)}, got {k}")
    steps = _checks.positive_int("steps", steps, minimum=0)
    key = _checks.key("key", key)
    _checks.one_of("coordinates", coordinates, ("ball", "tangent"))
    in_ball = coordinates == "ball"
    dtype, wide = _arguments.dtypes(points)
    c = _checks.one_positive("curvature", curvature, wide)
    tangents = points.astype(wide)
    if in_ball:
        tangents = poincare.logmap0(tangents, curvature=c)
    root = jnp.sqrt(c)
    scaled = root * lax.stop_gradient(tangents)

    def step(_, centroids):
        label, distance = nearest(scaled, centroids)
        found, size = midpoints(scaled, label, k)
        _, far = lax.top_k(distance, k)
        spare = jnp.cumsum(size == 0) - 1
        return jnp.where((size == 0)[:, None], scaled[far[spare]], found)

    centroids = lax.fori_loop(0, steps, step, scaled[_spread(scaled, k, key)])
    label, distance = nearest(scaled, centroids)
    centroids = centroids / root
    if in_ball:
        centroids = poincare.expmap0(centroids, curvature=c)
        centroids = poincare.project(centroids.astype(dtype), curvature=c)
    return Clusters(centroids.astype(dtype), label, (distance / root).astype(dtype))


def nearest(points: Array, centroids: Array) -> tuple[Array, Array]:
    """Label and distance (n,) of the nearest centroid; tangents, curvature -1."""

    def of_one(point):
        distance = polar.distance(point, centroids)
        label = jnp.argmin(distance).astype(jnp.int32)
        return label, distance[label]

    return lax.map(of_one, points, batch_size=max(1, _ENTRIES // centroids.size))


def _spread(points: Array, k: int, key: Array) -> Array:
    """Indices (k,) of points far from one another."""
    first, rest = jax.random.split(key)

    def draw(i, carry):
        chosen, least = carry
        last = polar.distance(points[chosen[i - 1]], points)
        least = jnp.minimum(least, last * last)
        # Where all points coincide with chosen ones, any will do.
        weight = jnp.where(jnp.any(least > 0), least, 1.0)
        index = jax.random.categorical(jax.random.fold_in(rest, i), jnp.log(weight))
        return chosen.at[i].set(index.astype(jnp.int32)), least

    chosen = jnp.zeros((k,), jnp.int32)
    chosen = chosen.at[0].set(jax.random.randint(first, (), 0, len(points), jnp.int32))
    far = jnp.full((len(points),), jnp.inf, points.dtype)
    return lax.fori_loop(1, k, draw, _varying.alike((chosen, far), points))[0]
