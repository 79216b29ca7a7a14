"""Arguments that the models share: coordinates of one dimension and one dtype, and a curvature."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from physnet import _checks


def prepare(curvature: Any, **points: Any) -> tuple[list[jax.Array], jax.Array, jnp.dtype]:
    """Coordinates and curvature ready to broadcast, and the dtype that the caller returns.

    The arrays get the dtype of the computation, float32 at least, and one rank; nothing is
    broadcast yet, so that norms of (n, 1, d) and (1, m, d) cost n + m, not n m. The curvature gets
    a last axis of length 1.
    """
    arrays = {name: coordinates(name, value) for name, value in points.items()}
    sizes = {name: array.shape[-1] for name, array in arrays.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{name} {size}" for name, size in sizes.items())
        raise ValueError(f"the last axes must have one length, got {listed}")
    given, wide = dtypes(*arrays.values())
    c = as_curvature(curvature, wide)
    shapes = {name: array.shape[:-1] for name, array in arrays.items()}
    rank = len(_checks.broadcast(**shapes, curvature=c.shape))
    ready = [_rank(array.astype(wide), rank + 1) for array in arrays.values()]
    return ready, _rank(c, rank)[..., None], given


def prepare_mean(
    curvature: Any, points: Any, weights: Any
) -> tuple[jax.Array, jax.Array, jax.Array, jnp.dtype]:
    """Points (..., n, d), weights (..., n, 1) and curvature (..., 1, 1) ready to broadcast."""
    points = coordinates("points", points)
    if points.ndim < 2 or points.shape[-2] == 0:
        raise ValueError(f"points must have shape (..., n, d) with n > 0, got {points.shape}")
    given, wide = dtypes(points)
    weights = jnp.ones(points.shape[-2:-1], wide) if weights is None else weights
    weights = _checks.at_least_1d("weights", _checks.real("weights", weights))
    if weights.shape[-1] != points.shape[-2]:
        raise ValueError(
            f"weights must have one entry a point, {points.shape[-2]}, got shape {weights.shape}"
        )
    c = as_curvature(curvature, wide)
    shapes = {"points": points.shape[:-2], "weights": weights.shape[:-1], "curvature": c.shape}
    rank = len(_checks.broadcast(**shapes))
    return (
        _rank(points.astype(wide), rank + 2),
        _rank(weights.astype(wide), rank + 1)[..., None],
        _rank(c, rank)[..., None, None],
        given,
    )


def coordinates(name: str, value: Any) -> jax.Array:
    """`value` as a real floating array with at least one coordinate, or an error that names it."""
    array = _checks.at_least_1d(name, _checks.real(name, value))
    if array.shape[-1] == 0:
        raise ValueError(f"{name} must have at least one coordinate, got shape {array.shape}")
    return array


def dtypes(*arrays: jax.Array) -> tuple[jnp.dtype, jnp.dtype]:
    """The dtype of results (the widest) and that of the computation (float32 at least)."""
    kinds = {array.dtype for array in arrays}
    size = max(kind.itemsize for kind in kinds)
    widest = [kind for kind in kinds if kind.itemsize == size]
    single = jnp.dtype("float32")
    given = widest[0] if len(widest) == 1 else single  # bfloat16 beside float16
    return given, given if given.itemsize > 4 else single


def as_curvature(curvature: Any, dtype: jnp.dtype) -> jax.Array:
    """The curvature in the dtype of the computation; an error where it is known not to be > 0."""
    array = curvature if isinstance(curvature, jax.Array) else np.asarray(curvature)
    if not (jnp.issubdtype(array.dtype, jnp.floating) or jnp.issubdtype(array.dtype, jnp.integer)):
        raise TypeError(f"curvature must be real, got dtype {array.dtype}")
    known = _checks.concrete(array)
    if known is not None and not np.all((known > 0) & (known < np.inf)):
        raise ValueError(f"curvature must be positive and finite, got {curvature!r}")
    return jnp.asarray(array).astype(dtype)


def _rank(array: jax.Array, rank: int) -> jax.Array:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)
