"""The orthogonal polar factor of a matrix, by the Newton-Schulz iteration."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from physnet import _checks
from physnet.optim import _leaves

_MOST = 1.5  # of the scale: a singular value 1 falls to .56 and no further, which rounding survives
_NEAR = 0.9  # of |X^T X - 1|: below, the unscaled iteration is at home


def polar_factor(matrix: Float[Array, "*b n m"]) -> Float[Array, "*b n m"]:
    r"""The nearest (semi-)orthogonal matrix, U V^T for the singular values U S V^T.

    The Newton-Schulz iteration X <- X (3 - X^T X)/2 needs matrix products alone. Far away it is
    scaled, X <- a X (3 - a^2 X^T X)/2 with a^2 = 3/(1 + l + l^2) and a <= 1.5, where l bounds the
    singular values from below; it ends when X^T X = 1 to rounding. A matrix within
    |A^T A - 1| < .9 (Frobenius) begins unscaled: 0 to 8 steps. Any other takes 15 to 22 steps in
    float32, up to 48 in float64.

    Args:
        matrix: A (..., n, m), real. For n >= m the columns become orthonormal, else the rows.

    Returns:
        (..., n, m), orthogonal to about 1e-6 in float32 and 1e-14 in float64, up to condition
        numbers 1e5 and 1e13 / sqrt(min(n, m)); its distance from the exact factor is rounding
        times the condition number. Singular values nearer to 0 come out between 0 and 1, exact
        zeros and zero matrices as rounding leaves them, finite; NaN or infinity makes its own
        matrix NaN.
        Narrow dtypes compute in float32. Derivatives of all orders are those of a scaled iteration
        of fixed length (reverse mode keeps its 21 or 47 matrices), for matrices of full rank.

    Raises:
        ValueError: No matrix.
        TypeError: Not of real floating dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> found = polar_factor(jnp.array([[3.0, -4.0], [4.0, 3.0]]))  # 5 times a rotation
        >>> [f"{x:.4f}" for x in found.ravel()]
        ['0.6000', '-0.8000', '0.8000', '0.6000']

    References:
        Bjorck and Bowie, "An iterative algorithm for computing the best estimate of an orthogonal
        matrix", SIAM J. Numer. Anal. 8 (1971), 358.
        Chen and Chow, "A stable scaling of Newton-Schulz for improving the sign function
        computation of a Hermitian matrix", Argonne preprint ANL/MCS-P5059-0114 (2014).
    """
    matrix = _checks.real("matrix", matrix)
    if matrix.ndim < 2:
        raise ValueError(f"matrix must have shape (..., n, m), got {matrix.shape}")
    wide = _leaves.wide(matrix)
    if 0 in matrix.shape:
        return matrix
    tall = matrix.shape[-2] >= matrix.shape[-1]
    stacked = (wide if tall else wide.mT).reshape(-1, *(wide if tall else wide.mT).shape[-2:])
    found = jax.vmap(_factor)(stacked)
    found = found.reshape(*matrix.shape[:-2], *found.shape[-2:])
    return (found if tall else found.mT).astype(matrix.dtype)


@jax.custom_jvp
def _factor(matrix: Array) -> Array:
    """Of (n, m), n >= m: ends at convergence, which reverse mode cannot differentiate."""
    least, steps = _schedule(matrix.dtype.name)
    start = _unit(matrix)
    near = _residual(_gram(matrix)) < _NEAR
    x = jnp.where(near, matrix, start)
    gram = _gram(x)
    m = matrix.shape[1]
    enough = 2 * m * float(jnp.finfo(matrix.dtype).eps)

    def going(carry):
        count, _, gram, _ = carry
        return (count < len(steps) + 8) & (_residual(gram) > enough)

    def step(carry):
        count, x, gram, low = carry
        residual = _residual(gram)
        seen = jnp.sqrt(jnp.maximum(1 - residual, 0.0))
        low = jnp.where(residual < 1, jnp.maximum(low, seen), low)
        scale = jnp.where(residual < _NEAR, 1.0, _scale(low)).astype(x.dtype)
        x = _improved(x, gram, scale)
        low = jnp.minimum(_value(scale * low), _value(scale)).astype(x.dtype)
        return count + 1, x, _gram(x), low

    low = jnp.full_like(gram[0, 0], least)
    return lax.while_loop(going, step, (0, x, gram, low))[1]


@_factor.defjvp
def _factor_derivative(primals, tangents):
    def of(matrix):
        scales = jnp.asarray(_schedule(matrix.dtype.name)[1], matrix.dtype)
        # The factor of A is that of A / c for any c: c needs no derivative.
        start = matrix * lax.stop_gradient(_norm(matrix))
        return lax.scan(lambda x, s: (_improved(x, _gram(x), s), None), start, scales)[0]

    tangent = jax.jvp(of, primals, tangents)[1]
    return _factor(*primals), tangent


@functools.cache
def _schedule(dtype: str) -> tuple[float, list[float]]:
    """The least singular value that is provided for, and the scales that lift it to 1."""
    eps = float(np.finfo(dtype).eps)
    least = low = 4 * eps
    scales = []
    while 1 - low > eps:
        scale = float(min(math.sqrt(3 / (1 + low + low**2)), _MOST))
        scales.append(scale)
        low = min(_value(scale * low), _value(scale))
    return least, scales


def _scale(low: Array) -> Array:
    return jnp.minimum(jnp.sqrt(3 / (1 + low + low * low)), _MOST)


def _value(x):
    """What a step makes of a singular value."""
    return x * (3 - x * x) / 2


def _improved(x: Array, gram: Array, scale: Array) -> Array:
    identity = jnp.eye(gram.shape[0], dtype=gram.dtype)
    inner = 1.5 * scale * identity - 0.5 * scale**3 * gram
    return jnp.matmul(x, inner, precision=lax.Precision.HIGHEST)


def _gram(x: Array) -> Array:
    return jnp.matmul(x.T, x, precision=lax.Precision.HIGHEST)


def _residual(gram: Array) -> Array:
    return jnp.linalg.norm(gram - jnp.eye(gram.shape[0], dtype=gram.dtype))


def _norm(matrix: Array) -> Array:
    """1 / |A|, without overflow; 1 for zeros."""
    # Its derivative cancels, and where a backward pass computes it again it may find no maximum.
    most = lax.stop_gradient(jnp.max(jnp.abs(matrix)))
    most = jnp.where(most == 0, jnp.ones_like(most), most)
    size = jnp.linalg.norm(matrix / most)
    return 1 / (most * jnp.where(size == 0, jnp.ones_like(size), size))


def _unit(matrix: Array) -> Array:
    return matrix * _norm(matrix)
