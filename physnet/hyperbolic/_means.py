"""Gyromidpoints of groups of points in tangent coordinates."""

import jax
import jax.numpy as jnp


def midpoints(points: jax.Array, group: jax.Array, groups: int) -> tuple[jax.Array, jax.Array]:
    """The midpoint of each group, and its size.

    Points on the hyperboloid are (cosh r, u sinh r) with r = 2 |v| and u = v / |v|; the midpoint
    has the direction of their sum (t, s). Its radius atanh(|s| / t) comes from t - |s| as a sum
    of positive terms: far out the difference of the two would be lost. Directions are rounded: the
    radius of points near one another is right while it is below 14 in float32, 34 in float64.

    Args:
        points: (n, d), curvature -1.
        group: (n,) which group each one is in.
        groups: how many there are; static.

    Returns:
        (groups, d), the origin where there is none; sizes (groups,) int32.
    """

    def total(x):
        return jax.ops.segment_sum(x, group, groups)

    half = jnp.sqrt(jnp.sum(points * points, axis=-1))
    safe = jnp.where(half > 0, half, 1.0)
    unit = points / safe[:, None]
    r = 2 * half
    top = jax.ops.segment_max(r, group, groups)  # -inf without points
    shift = jnp.where(jnp.isfinite(top), top, 0.0)[group]
    grown, shrunk = jnp.exp(r - shift), jnp.exp(-r - shift)
    sinh, cosh = (grown - shrunk) / 2, (grown + shrunk) / 2
    small = r < 0.5  # there the difference loses digits
    sinh = jnp.where(small, jnp.sinh(jnp.where(small, r, 0.0)) * jnp.exp(-shift), sinh)
    along = total(sinh[:, None] * unit)
    length = jnp.sqrt(jnp.sum(along * along, axis=-1))
    direction = along / jnp.where(length > 0, length, 1.0)[:, None]
    apart = unit - direction[group]
    ahead = shrunk + sinh * jnp.sum(apart * apart, axis=-1) / 2  # cosh r - sinh r cos(angle)
    rest = total(ahead)
    # Where the sum is zero there is no direction, and t - |s| is t.
    rest = jnp.where(length > 0, rest, total(cosh))
    radius = jnp.log1p(2 * length / jnp.where(rest > 0, rest, 1.0)) / 2
    size = total(jnp.ones_like(group, dtype=jnp.int32))
    return direction * (radius / 2)[:, None], size


def nearest_of(distance: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Index and value of the least along the last axis."""
    index = jnp.argmin(distance, axis=-1).astype(jnp.int32)
    return index, jnp.take_along_axis(distance, index[..., None], axis=-1)[..., 0]


def rough(v: jax.Array, w: jax.Array) -> jax.Array:
    """Distances for curvature -1 by the plain formula, enough to choose among centres."""
    a, b = (jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True)) for x in (v, w))
    n, m = (x / jnp.where(size > 0, size, 1.0) for x, size in ((v, a), (w, b)))
    apart = jnp.sum((n - m) ** 2, axis=-1)
    a, b = (jnp.minimum(size[..., 0], 20.0) for size in (a, b))
    return 2 * jnp.arcsinh(
        jnp.sqrt(jnp.sinh(a - b) ** 2 + jnp.sinh(2 * a) * jnp.sinh(2 * b) * apart / 4)
    )
