"""Witten diagrams with one bulk vertex: three points in closed form, four by a smooth integral."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import gammaln
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks

_NODES = 320


def three_point(
    points: Float[Array, "*b 3"] | Float[Array, "*b 3 dim"],
    *,
    deltas: ArrayLike | Sequence[ArrayLike],
    dim: int = 1,
) -> Float[Array, "*b"]:
    r"""Three boundary points joined at one bulk vertex, in closed form.

        integral sqrt(g) dz d^dx  prod_i K_{Delta_i}(z, x - x_i)
            = a / (x12^{D1+D2-D3} x23^{D2+D3-D1} x13^{D1+D3-D2})

        a = G((D1+D2-D3)/2) G((D2+D3-D1)/2) G((D1+D3-D2)/2) G((D1+D2+D3-d)/2)
            / (2 pi^d G(D1-d/2) G(D2-d/2) G(D3-d/2)),    G the Gamma function

    Args:
        points: x_i, (..., 3); for dim > 1 (..., 3, dim). Distinct: where two meet it is infinite.
        deltas: Scaling dimensions (3,), each above d/2 and below the sum of the others.
        dim: Dimension d of the boundary. Static.

    Returns:
        (...), in the dtype of the points (float32 at least). NaN for traced deltas for which the
        integral diverges.

    Raises:
        ValueError: Shapes, or known deltas for which the integral diverges.
        TypeError: points are not real floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> points = jnp.array([0.0, 1.0, 3.0])
        >>> print(f"{three_point(points, deltas=(1.0, 1.5, 2.0)):.5f}")
        0.01276
        >>> from physnet.holography import contact
        >>> print(f"{contact(points, deltas=(1.0, 1.5, 2.0)):.5f}")    # the integral itself
        0.01276

    References:
        Freedman, Mathur, Matusis and Rastelli 1999, Correlation functions in the CFT/AdS
        correspondence.
    """
    points, deltas, dim = _arguments(points, deltas, dim, 3)
    log12, log13, log23 = (_log_distance(points, i, j) for i, j in ((0, 1), (0, 2), (1, 2)))
    one, two, three = deltas
    pairs = ((one + two - three, log12), (one + three - two, log13), (two + three - one, log23))
    found = gammaln((one + two + three - dim) / 2) - math.log(2) - dim * math.log(math.pi)
    found = found - jnp.sum(gammaln(deltas - dim / 2))
    return jnp.exp(sum((gammaln(power / 2) - power * log for power, log in pairs), found))


def four_point(
    points: Float[Array, "*b 4"] | Float[Array, "*b 4 dim"],
    *,
    deltas: ArrayLike | Sequence[ArrayLike],
    dim: int = 1,
) -> Float[Array, "*b"]:
    r"""Four boundary points joined at one bulk vertex: a D-function, times the constants of K.

        integral sqrt(g) dz d^dx  prod_i K_{Delta_i}(z, x - x_i)

    The bulk integral is done: with Schwinger parameters t_i it leaves that of prod t_i^{Delta_i -
    1} exp(-sum_{i<j} t_i t_j x_ij^2), of which two dimensions remain, smooth in log t: the
    trapezoidal rule converges geometrically, to 1e-10 in float64, also for points of distances from
    1 to 1e7 and for a delta up to 0.05 below the sum of the others. A set of four
    points takes 10^5 nodes, and their memory.

    Args:
        points: x_i, (..., 4); for dim > 1 (..., 4, dim). Distinct: NaN where two meet.
        deltas: Scaling dimensions (4,), each above d/2 and below the sum of the others.
        dim: Dimension d of the boundary. Static.

    Returns:
        (...), as `three_point`.

    Raises:
        ValueError, TypeError: As `three_point`.

    Example:
        >>> import jax.numpy as jnp
        >>> points = jnp.array([0.0, 1.0, 3.0, 4.0])
        >>> print(f"{four_point(points, deltas=(1.0,) * 4):.6f}")
        0.000703

    References:
        D'Hoker, Freedman, Mathur, Matusis and Rastelli 1999, Graviton exchange and complete
        four-point functions; Dolan and Osborn 2001.
    """
    points, deltas, dim = _arguments(points, deltas, dim, 4)
    order = jnp.argsort(deltas)  # the largest last: its slow fall is along an axis
    points, deltas = points[..., order, :], deltas[order]
    return _four_point(points, deltas, dim)


@functools.partial(jax.jit, static_argnums=2)
def _four_point(points: Array, deltas: Array, dim: int) -> Array:
    log = {(i, j): 2 * _log_distance(points, i, j) for i in range(4) for j in range(i + 1, 4)}
    one, two, three, four = deltas
    power = (one + two + three - four) / 2
    # t = lambda (1, a, b, .), a = e^u x14^2 / x24^2, b = e^v x14^2 / x34^2: what is left of
    # the exponents are e^u, e^v and e^{u+v} with these logarithms of their factors.
    unit_u, unit_v = log[0, 3] - log[1, 3], log[0, 3] - log[2, 3]
    first, second = unit_u + log[0, 1], unit_v + log[0, 2]
    third = unit_u + unit_v + log[1, 2]
    corner = [lax.stop_gradient(second - third), lax.stop_gradient(first - third)]
    # The integrand falls exponentially away from the segment from (0, 0) to the corner, and doubly
    # so along s, u = middle + a sinh s: slow falls cost few nodes.
    total = jnp.sum(deltas)
    slowest = lax.stop_gradient(jnp.minimum(jnp.min(deltas), jnp.min(total / 2 - deltas)))
    reach = (18.0 if points.dtype == jnp.float32 else 38.0) / slowest
    grid = jnp.linspace(-1.0, 1.0, _NODES, dtype=points.dtype)
    places, steps = [], []
    for c in corner:
        half = jnp.abs(c[..., None]) / 2
        wide = jnp.maximum(half, 1)
        end = jnp.arcsinh((half + reach) / wide)
        s = end * _row(grid, c)
        places.append(c[..., None] / 2 + wide * jnp.sinh(s))
        steps.append(wide * jnp.cosh(s) * end * (2 / (_NODES - 1)))
    u, v = places[0][..., :, None], places[1][..., None, :]
    zero = jnp.zeros_like(u)
    wide = lambda a: a[..., None, None]  # noqa: E731
    inner = jnp.logaddexp(jnp.logaddexp(zero, u), v)
    outer = jnp.logaddexp(jnp.logaddexp(wide(first) + u, wide(second) + v), wide(third) + u + v)
    integrand = jnp.exp(two * u + three * v - four * inner - power * outer)
    found = jnp.sum(jnp.sum(integrand * steps[1][..., None, :], -1) * steps[0], -1)
    constant = gammaln((total - dim) / 2) - jnp.sum(gammaln(deltas - dim / 2))
    constant = constant + gammaln(power) + gammaln(four)
    scale = two * unit_u + three * unit_v - four * log[0, 3]
    return found * jnp.exp(constant + scale) / (2 * math.pi ** (3 * dim / 2))


def _arguments(points: Any, deltas: Any, dim: int, count: int) -> tuple[Array, Array, int]:
    """points (..., count, dim) and deltas (count,), of one dtype; and dim."""
    dim = _checks.positive_int("dim", dim)
    points = _checks.real("points", points)
    tail = (count,) if dim == 1 else (count, dim)
    if jnp.finfo(points.dtype).bits < 32:
        points = points.astype(jnp.float32)
    if points.shape[max(points.ndim - len(tail), 0) :] != tail:
        wanted = ", ".join(map(str, tail))
        raise ValueError(f"points must have shape (..., {wanted}), got {points.shape}")
    found = as_deltas(deltas, dim, count, points.dtype)
    return points[..., None] if dim == 1 else points, found, dim


def as_deltas(deltas: Any, dim: int, count: int, dtype: Any) -> Array:
    """Scaling dimensions for which the bulk integral exists, as an array (count,)."""
    if isinstance(deltas, list | tuple):
        deltas = [_checks.array("deltas", delta, dtype) for delta in deltas]
        if any(delta.ndim for delta in deltas):
            raise ValueError(f"deltas must be {count} numbers, got {[d.shape for d in deltas]}")
    deltas = _checks.array("deltas", deltas, dtype)
    if deltas.shape != (count,):
        raise ValueError(f"deltas must have shape ({count},), got {deltas.shape}")
    fits = (deltas > dim / 2) & (2 * deltas < jnp.sum(deltas))
    known = _checks.concrete(fits)
    if known is not None and not np.all(known):
        raise ValueError(
            f"deltas must each be > dim / 2 = {dim / 2} and below the sum of the others, "
            f"got {deltas.tolist()}"
        )
    return jnp.where(jnp.all(fits), deltas, jnp.nan)


def _log_distance(points: Array, i: int, j: int) -> Array:
    gap = points[..., i, :] - points[..., j, :]
    # In units of the largest component, whose square neither overflows nor vanishes.
    unit = lax.stop_gradient(jnp.max(jnp.abs(gap), -1))
    unit = jnp.where(unit == 0, 1, unit)
    return jnp.log(unit) + jnp.log(jnp.sum((gap / unit[..., None]) ** 2, -1)) / 2


def _row(vector: Array, like: Array) -> Array:
    return vector.reshape((1,) * like.ndim + vector.shape)
