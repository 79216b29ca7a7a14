"""A variance for every parameter: C diagonal."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from physnet.superposition.path_integral import _rates, _trees
from physnet.superposition.path_integral._config import Config

_WIDEST = 1e12  # of one entry's standard deviation, and its inverse


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Diagonal:
    """Standard deviations in units of sigma, and the discounted sum of steps, both like z."""

    deviation: Any
    path: Any


def init(config: Config, params: Any) -> Diagonal:
    zeros = _trees.wide(params)
    return Diagonal(jax.tree.map(jnp.ones_like, zeros), zeros)


def scale(shape: Diagonal, noise: Any) -> Any:
    return jax.tree.map(lambda d, z: d * z.astype(d.dtype), shape.deviation, noise)


def second(shape: Diagonal) -> str:
    return "diagonal"


def update(shape: Diagonal, seen: _rates.Seen) -> Diagonal:
    """d <- d exp((c1 (p^2 - 1) + cmu sum_k w_k z_k^2) / 2): positive whatever the weights."""
    cumulation, one, many = _rates.covariance_rates(seen.mass, seen.dimension)
    faster = (seen.dimension + 2.0) / 3.0  # D numbers to learn, not D^2 / 2
    one, many = jnp.minimum(one * faster, 0.5), jnp.minimum(many * faster, 0.5)
    gain = _rates.gain(cumulation, seen)
    path = _trees.combine(1.0 - cumulation, shape.path, gain, seen.mean)

    def grown(d, p, s):
        one_, many_ = one.astype(d.dtype), many.astype(d.dtype)
        exponent = jnp.clip((one_ * (p * p - 1) + many_ * s.astype(d.dtype)) / 2, -1, 1)
        return jnp.clip(d * jnp.exp(exponent), 1 / _WIDEST, _WIDEST)

    return Diagonal(jax.tree.map(grown, shape.deviation, path, seen.second), path)
