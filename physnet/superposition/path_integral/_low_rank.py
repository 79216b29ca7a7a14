"""A diagonal and a few directions: C^(1/2) = diag(d) (1 + Q diag(s - 1) Q^T), in O(D r)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from physnet.superposition.path_integral import _rates, _trees
from physnet.superposition.path_integral._config import Config

_WIDEST = 1e12  # of a standard deviation, and its inverse


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
    """Deviations d (D,), orthonormal Q (D, r), deviations s (r,) along them, and the path (D,)."""

    deviation: Any
    directions: Any
    stretch: Any
    path: Any


def init(config: Config, params: Any) -> LowRank:
    dimension, dtype = _trees.size(params), _trees.dtype(params)
    rank = min(config.directions, dimension - 1)
    return LowRank(
        deviation=jnp.ones(dimension, dtype),
        directions=jnp.eye(dimension, rank, dtype=dtype),
        stretch=jnp.ones(rank, dtype),
        path=jnp.zeros(dimension, dtype),
    )


def _dot(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)


def _stretched(shape: LowRank, vector: Array) -> Array:
    along = _dot(shape.directions.T, vector)
    return vector + _dot(shape.directions, (shape.stretch - 1) * along)


def scale(shape: LowRank, noise: Any) -> Any:
    flat, back = _trees.flat(noise, shape.deviation.dtype)
    moved = back(shape.deviation * _stretched(shape, flat))
    return jax.tree.map(lambda x, z: x.astype(z.dtype), moved, noise)


def second(shape: LowRank) -> Callable[[Any], Any]:
    """Squares of the stretched noise y, entry by entry, and products of y along Q."""

    def of_noise(noise):
        flat, _ = _trees.flat(noise, shape.deviation.dtype)
        along = shape.stretch * _dot(shape.directions.T, flat)
        return _stretched(shape, flat) ** 2, along[:, None] * along[None, :]

    return of_noise


def update(shape: LowRank, seen: _rates.Seen) -> LowRank:
    """The best Q, s of rank r for 1 + Q (s^2 - 1) Q^T + c1 (u u^T - ...) + cmu (...), u = A p.

    Written in the basis of Q and the part of u outside of it, the new covariance is a matrix of
    r + 1 rows; its r eigenvalues farthest from 1, by their logarithms, stay. d follows squares.
    """
    dtype = shape.deviation.dtype
    rank = shape.stretch.size
    cumulation, one, many = _rates.covariance_rates(seen.mass, seen.dimension)
    many = many / 2.0  # for these few numbers the path tells more
    # A diagonal learns D numbers, each direction as many, a full matrix D^2 / 2.
    faster = (seen.dimension + 2.0) / 3.0
    lone, few = (jnp.minimum(x * faster, 0.4).astype(dtype) for x in (one, many))
    faster = max(1.0, faster / (1.0 + rank / 2.0))
    one, many = (jnp.minimum(x * faster, 0.4).astype(dtype) for x in (one, many))
    gain = _rates.gain(cumulation, seen)
    mean, _ = _trees.flat(seen.mean, dtype)
    path = (1 - cumulation).astype(dtype) * shape.path + gain.astype(dtype) * mean
    step = _stretched(shape, path)
    squares, products = jax.tree.map(lambda x: x.astype(dtype), seen.second)

    inside = _dot(shape.directions.T, step)
    outside = step - _dot(shape.directions, inside)
    outside = outside - _dot(shape.directions, _dot(shape.directions.T, outside))
    length = jnp.sqrt(jnp.sum(outside**2))
    basis = jnp.append(
        shape.directions, (outside / jnp.maximum(length, jnp.finfo(dtype).tiny))[:, None], axis=1
    )
    row = jnp.append(inside, length)
    old = jnp.append(shape.stretch**2, jnp.ones(1, dtype))
    grown = jnp.diag(old) + one * (row[:, None] * row[None, :] - jnp.diag(old))
    grown = grown.at[:rank, :rank].add(many * products)
    # Outside of the basis C becomes 1 - c1: the unit of all that is kept.
    values, vectors = jnp.linalg.eigh(grown / (1 - one))
    values = jnp.clip(values, 1e-8, 1e16)
    _, kept = lax.top_k(jnp.abs(jnp.log(values)), rank)
    directions = _dot(basis, vectors[:, kept])
    gram = _dot(directions.T, directions)
    directions = _dot(directions, 1.5 * jnp.eye(rank, dtype=dtype) - 0.5 * gram)

    variance = 1 + _dot(shape.directions**2, shape.stretch**2 - 1)
    exponent = (lone * (step**2 - variance) + few * squares) / variance / 2
    deviation = jnp.clip(shape.deviation * jnp.exp(jnp.clip(exponent, -1, 1)), 1 / _WIDEST, _WIDEST)
    new = LowRank(deviation, directions, jnp.sqrt(values[kept]), path)
    finite = jnp.all(jnp.isfinite(directions)) & jnp.all(jnp.isfinite(values))
    return jax.tree.map(lambda x, y: jnp.where(finite, x, y), new, shape)
