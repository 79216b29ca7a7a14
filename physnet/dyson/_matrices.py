"""The two matrices of a Dyson equation, checked and of one dtype."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from physnet import _checks


def computing_dtype(*arrays: Array) -> np.dtype:
    """dtype to compute in: the highest that came, float32 at least."""
    return np.result_type(np.float32, *(array.dtype for array in arrays))


def pair(free: Any, self_energy: Any) -> tuple[Array, Array]:
    """G0 and Sigma (*batch, n, n), or an error that names the one at fault."""
    free, self_energy = (_square(*x) for x in (("free", free), ("self_energy", self_energy)))
    if free.shape[-1] != self_energy.shape[-1]:
        raise ValueError(
            "free and self_energy must have the same number of sites, "
            f"got shapes {free.shape} and {self_energy.shape}"
        )
    batch = _checks.broadcast(free=free.shape[:-2], self_energy=self_energy.shape[:-2])
    dtype = computing_dtype(free, self_energy)
    shape = (*batch, *free.shape[-2:])
    free, self_energy = (jnp.broadcast_to(x.astype(dtype), shape) for x in (free, self_energy))
    return free, self_energy


def _square(name: str, value: Any) -> Array:
    matrix = _checks.inexact(name, value)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2] or not matrix.shape[-1]:
        raise ValueError(
            f"{name} must be square, (..., n, n) with n >= 1, got shape {matrix.shape}"
        )
    return matrix


def product(left: Array, right: Array) -> Array:
    """Matrix product without reduced precision on any device."""
    return jnp.matmul(left, right, precision="highest")
