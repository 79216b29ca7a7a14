"""How fast path, step size and covariance follow what steps see."""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float


class Seen(NamedTuple):
    """What one step has seen, of weights w_k = P_k - 1/K and noise z_k.

    Attributes:
        mean: sum_k w_k z_k, a tree.
        second: the weighted second moment that the covariance asked for.
        mass: mu, such that mean has entries of variance 1 / mu for losses unrelated to the noise.
        steady: False while the step size still grows much: the path of the covariance then waits.
        dimension: D.
    """

    mean: Any
    second: Any
    mass: Array
    steady: Array
    dimension: int


def selection_mass(probability: Float[Array, " k"], *, antithetic: bool) -> Float[Array, ""]:
    """mu = 1 / Var of an entry of sum_k P_k z_k, were the losses unrelated to the noise.

    The particles' mean is W: W moves by sum_k (P_k - 1/K) z_k, whose entries then have the
    variance sum_k (P_k - 1/K)^2. Of a pair (z, -z) only the difference of both weights counts:
    sum over pairs of (P+ - P-)^2. Both hold for any weights, known only after the losses.

    Args:
        probability: P_k, of sum 1.
        antithetic: whether particles 2i and 2i + 1 are a pair.

    Returns:
        mu, at most 1e6 K: where all weights are alike nothing moves.
    """
    if antithetic:
        spread = probability[::2] - probability[1::2]
    else:
        spread = probability - 1.0 / probability.size
    return 1.0 / jnp.maximum(jnp.sum(spread**2), 1e-6 / probability.size)


def path_rates(mass: Array, dimension: int) -> tuple[Array, Array]:
    """Cumulation c of the path of the step size, and its damping d."""
    cumulation = (mass + 2.0) / (dimension + mass + 5.0)
    excess = jnp.sqrt(jnp.maximum(mass - 1.0, 0.0) / (dimension + 1.0)) - 1.0
    return cumulation, 1.0 + cumulation + 2.0 * jnp.maximum(0.0, excess)


def covariance_rates(mass: Array, dimension: int) -> tuple[Array, Array, Array]:
    """Cumulation of the covariance's path, rate of its square, rate of the second moment.

    As of CMA-ES, but that the second moment counts twice: weights P_k - 1/K, which also push away
    from bad particles, are about half as large for their variance.
    """
    share = mass / dimension
    cumulation = (4.0 + share) / (dimension + 4.0 + 2.0 * share)
    one = 2.0 / ((dimension + 1.3) ** 2 + mass)
    many = 4.0 * jnp.maximum(mass - 2.0 + 1.0 / mass, 0.0) / ((dimension + 2.0) ** 2 + mass)
    return cumulation, one, jnp.minimum(many, 0.5)


def gain(cumulation: Array, seen: Seen) -> Array:
    """What a step's mean enters the covariance's path with: entries of variance 1 stay so."""
    return jnp.where(seen.steady, jnp.sqrt(cumulation * (2.0 - cumulation) * seen.mass), 0.0)
