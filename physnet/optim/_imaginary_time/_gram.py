"""Solves with a positive semidefinite matrix: damped by Cholesky, or on its larger eigenvalues."""

from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jax.scipy import linalg
from jaxtyping import Array, Bool, Float


class Spectrum(NamedTuple):
    """Eigenvalues, eigenvectors, and which of them are kept."""

    values: Float[Array, " m"]
    vectors: Float[Array, "m m"]
    kept: Bool[Array, " m"]


def product(left: Float[Array, "..."], right: Float[Array, "..."]) -> Float[Array, "..."]:
    """A matrix or vector product in full precision: accelerators would round the factors."""
    return jnp.matmul(left, right, precision=lax.Precision.HIGHEST)


def spectrum(gram: Float[Array, "m m"], rtol: Float[Array, ""]) -> Spectrum:
    """The eigenvalues above `rtol` times the largest."""
    values, vectors = jnp.linalg.eigh(gram)
    return Spectrum(values, vectors, (values > rtol * values[-1]) & (values > 0))


def divide(
    found: Spectrum, vector: Float[Array, " m"], divisor: Float[Array, " m"]
) -> Float[Array, " m"]:
    """vector over `divisor` in the kept eigenvectors, 0 in the others."""
    inside = jnp.where(found.kept, divisor, 1)
    part = jnp.where(found.kept, product(found.vectors.T, vector) / inside, 0)
    return product(found.vectors, part)


def damped(
    gram: Float[Array, "m m"], damping: Float[Array, ""], vector: Float[Array, " m"]
) -> Float[Array, " m"]:
    """(gram + damping)^-1 vector by Cholesky; NaN where rounding leaves it not positive."""
    shifted = gram + damping * jnp.eye(len(gram), dtype=gram.dtype)
    return linalg.cho_solve((linalg.cholesky(shifted, lower=True), True), vector)
