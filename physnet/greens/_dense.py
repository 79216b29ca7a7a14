"""The resolvent of a dense matrix."""

import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Inexact

from physnet import _checks
from physnet.greens._chain import real_dtype


def resolvent(matrix: Inexact[Array, "*#b n n"], energy: ArrayLike) -> Complex[Array, "*d n n"]:
    r"""The dense resolvent (z I - W)^{-1} of a square matrix, O(n^3).

    W need not be Hermitian: z may be any number off its spectrum, real ones included.

    Args:
        matrix: W (..., n, n), real or complex.
        energy: z (...), a number or an array of batch shape, cast to the matrix's
            precision.

    Returns:
        (..., n, n), complex. Infinite or NaN where z is an eigenvalue.

    Raises:
        ValueError: The matrix is not square, or the shapes do not broadcast.
        TypeError: The matrix is not of floating dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> g = resolvent(jnp.array([[0.0, 1.0], [1.0, 0.0]]), 1 + 1j)
        >>> print(f"{g[0, 0]:.2f} {g[0, 1]:.2f}")
        0.20-0.60j -0.20-0.40j
    """
    matrix = _checks.inexact("matrix", matrix)
    if matrix.ndim < 2 or matrix.shape[-1] != matrix.shape[-2]:
        raise ValueError(f"matrix must be square, (..., n, n), got shape {matrix.shape}")
    n = matrix.shape[-1]
    dtype = real_dtype(matrix)
    z = _checks.array("energy", energy).astype(np.result_type(dtype, np.complex64))
    batch = _checks.broadcast(matrix=matrix.shape[:-2], energy=z.shape)
    matrix = jnp.broadcast_to(matrix.astype(z.dtype), (*batch, n, n))
    identity = jnp.eye(n, dtype=z.dtype).reshape((1,) * len(batch) + (n, n))
    z = jnp.broadcast_to(z, batch)[..., None, None]
    return jnp.linalg.inv(z * identity - matrix)
