"""The bulk integral of a vertex itself, over the half plane."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammaln
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet.holography._witten import as_deltas

_ALONG, _UP = 88, 320  # nodes between two points, and in log z


def contact(
    points: Float[Array, "*b p"], *, deltas: ArrayLike | Sequence[ArrayLike]
) -> Float[Array, "*b"]:
    r"""Boundary points on a line joined at one bulk vertex, by quadrature over the bulk.

        integral z^{-2} dz dx  prod_i K_{Delta_i}(z, x - x_i),    any number p >= 3 of points

    Along the boundary each interval between neighbouring points, and the two beyond the last, has
    double exponential nodes, so that no corner at a point costs accuracy; upwards log z has evenly
    spaced ones over all scales from the nearest point to the farthest. For points whose distances
    are within a factor of 1000 right to 1e-10 in float64 and 5e-5 in float32 (within 1e7, to 1e-5
    and 1e-4), unless a delta is closer to the sum of the others than 0.1, in float32 0.2.

    Args:
        points: x_i (..., p), distinct, in any order; NaN where two meet.
        deltas: Scaling dimensions (p,), each above 1/2 and below the sum of the others.

    Returns:
        (...), in the dtype of the points (float32 at least). NaN for traced deltas for which the
        integral diverges.

    Raises:
        ValueError: Fewer than three points, or known deltas for which the integral diverges.
        TypeError: points are not real floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> points = jnp.array([0.0, 1.0, 2.0, 4.0, 7.0])
        >>> value = contact(points, deltas=(1.0,) * 5)
        >>> moved = contact(3 * points, deltas=(1.0,) * 5)         # scales as x^{-sum Delta}
        >>> print(f"{3**5 * moved / value:.4f}")
        1.0000
    """
    points = _checks.real("points", points)
    if points.ndim < 1 or points.shape[-1] < 3:
        raise ValueError(f"points must have shape (..., p >= 3), got {points.shape}")
    if jnp.finfo(points.dtype).bits < 32:
        points = points.astype(jnp.float32)
    deltas = as_deltas(deltas, 1, points.shape[-1], points.dtype)
    value = _integral
    for _ in range(points.ndim - 1):
        value = jax.vmap(value, (0, None))
    return value(points, deltas)


@jax.jit
def _integral(points: Array, deltas: Array) -> Array:
    order = jnp.argsort(points)
    points, deltas = points[order], deltas[order]
    # In units of their extent, in which no integrand overflows: it scales as x^{-sum Delta}.
    unit = lax.stop_gradient(points[-1] - points[0])
    points = points / unit
    total = jnp.sum(deltas)
    spare = lax.stop_gradient(total - 2 * jnp.max(deltas))  # the power of r at the sharpest point
    distance, measure = _nodes(points, spare)  # (p + 1, along, p), (p + 1, along)
    cut = 18.0 if points.dtype == jnp.float32 else 36.0
    fixed = lax.stop_gradient(jnp.log(distance))
    weight = lax.stop_gradient(total)
    low = jnp.min(fixed, -1) - cut / (weight - 1)
    high = jnp.max(fixed, -1) + cut / (weight + 1)
    share = jnp.linspace(0.0, 1.0, _UP, dtype=points.dtype)
    u = low[..., None] + (high - low)[..., None] * share[None, None]
    step = (high - low) / (_UP - 1)
    # log of prod_i (z / (z^2 + r_i^2))^{Delta_i} / z, z = e^u
    exponent = (total - 1) * u
    for i in range(points.shape[0]):
        exponent -= deltas[i] * jnp.logaddexp(2 * u, 2 * jnp.log(distance[..., i])[..., None])
    columns = jnp.sum(jnp.exp(exponent + jnp.log(measure * step)[..., None]), -1)
    constant = jnp.sum(gammaln(deltas) - gammaln(deltas - 0.5) - jnp.log(jnp.pi) / 2)
    return jnp.sum(columns) * jnp.exp(constant - total * jnp.log(unit))


def _nodes(points: Array, spare: Array) -> tuple[Array, Array]:
    """Distances from the nodes of all intervals to all points, with no cancellation; weights dx."""
    dtype, count = points.dtype, points.shape[0]
    least, cut, most = (3.3, 18.0, 80.0) if dtype == jnp.float32 else (3.9, 38.0, 600.0)
    reach = jnp.maximum(jnp.arcsinh(jnp.minimum(cut / spare, most) / jnp.pi), least)
    tau = reach * jnp.linspace(-1.0, 1.0, _ALONG, dtype=dtype)
    push = jnp.pi * jnp.sinh(tau)
    speed = jnp.pi * jnp.cosh(tau) * (2 * reach / (_ALONG - 1))
    share, rest = jax.nn.sigmoid(push), jax.nn.sigmoid(-push)
    whole = points[-1] - points[0]
    beyond = whole * jnp.exp(push)
    distances, measures = [], []
    for interval in range(count + 1):
        if interval in (0, count):
            end = points[0] if interval == 0 else points[-1]
            distances.append(jnp.abs(points - end)[None] + beyond[:, None])
            measures.append(beyond * speed)
            continue
        left, right = points[interval - 1], points[interval]
        length = right - left
        before = (left - points[:interval])[None] + (length * share)[:, None]
        after = (points[interval:] - right)[None] + (length * rest)[:, None]
        distances.append(jnp.concatenate([before, after], -1))
        measures.append(length * share * rest * speed)
    return jnp.stack(distances), jnp.stack(measures)
