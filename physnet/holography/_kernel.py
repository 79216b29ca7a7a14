"""Bulk-to-boundary propagator of a scalar field in the Poincare patch of anti-de Sitter space."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import gammaln
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet.holography._bessel import matern


def bulk_to_boundary(
    z: Float[Array, "*#b"],
    x: Float[Array, "*c"],
    *,
    delta: ArrayLike,
    dim: int = 1,
) -> Float[Array, "*e"]:
    r"""Normalised bulk-to-boundary propagator K_Delta of the half space ds^2 = (dz^2 + dx^2) / z^2.

        K = C (z / (z^2 + |x|^2))^Delta,     C = Gamma(Delta) / (pi^{d/2} Gamma(Delta - d/2))

    x is the distance along the boundary. K solves the field equation of mass m^2 = Delta (Delta -
    d), tends to z^{d - Delta} times a delta function as z -> 0, and integrates to z^{d - Delta} at
    any z: z^{Delta - d} K is a probability density of width z. For d = 1, Delta = 1 it is the
    Poisson kernel, a semigroup in z.

    Args:
        z: Depth z > 0 (...), in the units of x.
        x: Displacement (...); for dim > 1 (..., dim), one component along the last axis. Batch axes
            broadcast with those of z.
        delta: Scaling dimension Delta > d/2, a scalar or an array that broadcasts likewise.
        dim: Dimension d of the boundary. Static.

    Returns:
        K (...), in the wider dtype of z and x, float32 at least. A traced z <= 0 or delta <= d/2
        gives NaN.

    Raises:
        ValueError: A known z <= 0 or delta <= d/2; x without its dim components.
        TypeError: z or x is not real floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.linspace(-400.0, 400.0, 8001)
        >>> k = bulk_to_boundary(jnp.array(2.0), x, delta=1.5)
        >>> f"{0.1 * k.sum():.4f} {2.0 ** (1 - 1.5):.4f}"
        '0.7071 0.7071'

    References:
        Witten 1998, Anti de Sitter space and holography.
    """
    dim, delta = dimensions(delta, dim)
    z, x = _checks.real("z", z), _checks.real("x", x)
    _positive("z", z)
    dtype = max(z.dtype, x.dtype, jnp.dtype(jnp.float32), key=lambda kind: jnp.finfo(kind).bits)
    z, x, delta = z.astype(dtype), x.astype(dtype), jnp.asarray(delta, dtype)
    size = jnp.abs(x)
    if dim > 1:
        if x.ndim == 0 or x.shape[-1] != dim:
            raise ValueError(f"x must have shape (..., {dim}) for dim = {dim}, got {x.shape}")
        size = jnp.max(size, -1)
    # In units of the largest length, which no square of a small or large number leaves; below
    # the largest number, so that K is 0 at infinity.
    shape = _checks.broadcast(z=z.shape, x=size.shape, delta=delta.shape)
    z, delta, size = (jnp.broadcast_to(a, shape) for a in (z, delta, size))
    unit = lax.stop_gradient(jnp.minimum(jnp.maximum(z, size), jnp.finfo(dtype).max / 16))
    if dim > 1:
        x = jnp.broadcast_to(x, (*shape, dim))
        square = jnp.sum((x / unit[..., None]) ** 2, -1)
    else:
        square = (jnp.broadcast_to(x, shape) / unit) ** 2
    depth = z / unit
    ratio = jnp.log(depth) - jnp.log(depth**2 + square) - jnp.log(unit)
    return jnp.exp(_log_constant(delta, dim) + delta * ratio)


def bulk_to_boundary_fourier(
    k: Float[Array, "*b"], z: ArrayLike, *, delta: ArrayLike, dim: int = 1
) -> Float[Array, "*e"]:
    r"""Fourier transform over the boundary of K_Delta at depth z: a Matern function of |k| z.

        integral K e^{-ikx} d^dx = z^{d - Delta} 2^{1-nu} / Gamma(nu) (|k| z)^nu K_nu(|k| z)

    with nu = Delta - d/2 and K_nu the modified Bessel function. d = 1, Delta = 1: e^{-|k| z}.

    Args:
        k: Length of the wave vector (...), of any sign.
        z: Depth z > 0, a scalar or an array that broadcasts with k.
        delta: Scaling dimension Delta > d/2, one number. As a Python number with nu = 1/2, 3/2, 5/2
            or 7/2 it takes a closed form, otherwise a quadrature (1e-10 in float64).
        dim: Dimension d of the boundary. Static.

    Returns:
        (...), in the dtype of k (float32 at least). A traced z <= 0 or delta <= d/2 gives NaN.

    Raises:
        ValueError: A known z <= 0 or delta <= d/2, or a delta that is not one number.
        TypeError: k is not real floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{bulk_to_boundary_fourier(jnp.float32(1.5), 2.0, delta=1.0):.5f}")
        0.04979
        >>> print(f"{bulk_to_boundary_fourier(jnp.float32(0.0), 2.0, delta=1.7):.4f} {2**-0.7:.4f}")
        0.6156 0.6156
    """
    dim, delta = dimensions(delta, dim)
    k = _checks.real("k", k)
    _positive("z", z)
    if jnp.finfo(k.dtype).bits < 32:
        k = k.astype(jnp.float32)
    depth = jnp.asarray(z, k.dtype)
    shape = _checks.broadcast(k=k.shape, z=depth.shape)
    k, depth = jnp.broadcast_to(k, shape), jnp.broadcast_to(depth, shape)
    if jnp.ndim(delta):
        raise ValueError(f"delta must be one number, got shape {jnp.shape(delta)}")
    wide = jnp.asarray(delta, k.dtype)
    order: Any = delta - dim / 2 if _static(delta) else wide - dim / 2
    fall = matern(jnp.abs(k) * depth, order)
    if not _static(delta):
        fall = jnp.where(order > 0, fall, jnp.nan)
    return fall * jnp.exp((dim - wide) * jnp.log(depth))


def dimensions(delta: Any, dim: int) -> tuple[int, Any]:
    """The dimension of the boundary, and a delta that is above half of it where it is known."""
    dim = _checks.positive_int("dim", dim)
    known = _checks.known("delta", delta)
    if known is not None and not np.all(known > dim / 2):
        raise ValueError(f"delta must be > dim / 2 = {dim / 2}, got {delta!r}")
    return dim, delta


def _positive(name: str, value: Any) -> None:
    known = _checks.known(name, value)
    if known is not None and not np.all(known > 0):
        raise ValueError(f"{name} must be positive, got {value!r}")


def _static(delta: Any) -> bool:
    return isinstance(delta, float | int)


def _log_constant(delta: Array, dim: int) -> Array:
    """log C; NaN where K is not normalisable."""
    valid = delta > dim / 2
    safe = jnp.where(valid, delta, dim)
    constant = gammaln(safe) - gammaln(safe - dim / 2) - dim / 2 * math.log(math.pi)
    return jnp.where(valid, constant, jnp.nan)
