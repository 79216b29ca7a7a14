"""A full covariance, by a factor of it: C = M M^T."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from physnet.superposition.path_integral import _rates, _trees
from physnet.superposition.path_integral._config import Config

LARGEST = 2048  # D^2 numbers are kept, D^3 operations are made a step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Full:
    """M (D, D), and the discounted sum of steps (D,) in the frame of the noise."""

    matrix: Any
    path: Any


def init(config: Config, params: Any) -> Full:
    dimension, dtype = _trees.size(params), _trees.dtype(params)
    if dimension > LARGEST:
        raise ValueError(
            f"covariance 'full' serves at most {LARGEST} parameters, got {dimension}; "
            "'low_rank' and 'diagonal' serve more"
        )
    return Full(jnp.eye(dimension, dtype=dtype), jnp.zeros(dimension, dtype))


def scale(shape: Full, noise: Any) -> Any:
    flat, back = _trees.flat(noise, shape.matrix.dtype)
    moved = back(jnp.matmul(shape.matrix, flat, precision=lax.Precision.HIGHEST))
    return jax.tree.map(lambda x, z: x.astype(z.dtype), moved, noise)


def second(shape: Full) -> str:
    return "full"


def update(shape: Full, seen: _rates.Seen) -> Full:
    """M <- M (1 + G / 2), G = c1 (p p^T - 1) + cmu sum_k w_k z_k z_k^T.

    To first order that is C <- M (1 + G) M^T. G is held below 1, so that M keeps its rank and C
    stays positive definite.
    """
    cumulation, one, many = _rates.covariance_rates(seen.mass, seen.dimension)
    dtype = shape.matrix.dtype
    gain = _rates.gain(cumulation, seen)
    mean, _ = _trees.flat(seen.mean, dtype)
    path = (1 - cumulation).astype(dtype) * shape.path + gain.astype(dtype) * mean
    eye = jnp.eye(len(path), dtype=dtype)
    growth = one.astype(dtype) * (path[:, None] * path[None, :] - eye)
    growth = growth + many.astype(dtype) * seen.second.astype(dtype)
    growth = growth / jnp.maximum(1, jnp.linalg.norm(growth))
    matrix = jnp.matmul(shape.matrix, eye + growth / 2, precision=lax.Precision.HIGHEST)
    return Full(jnp.where(jnp.all(jnp.isfinite(matrix)), matrix, shape.matrix), path)
