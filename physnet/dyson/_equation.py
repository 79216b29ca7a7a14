"""The Dyson equation, solved directly."""

from typing import Literal

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Inexact

from physnet import _checks
from physnet.dyson._matrices import pair, product


def solve(
    free: Inexact[Array, "*#b n n"],
    self_energy: Inexact[Array, "*#c n n"],
    *,
    triangular: Literal["upper", "lower"] | None = None,
) -> Inexact[Array, "*d n n"]:
    r"""The full propagator of the Dyson equation, G = G0 + G0 Sigma G.

        G = (1 - G0 Sigma)^{-1} G0 = (G0^{-1} - Sigma)^{-1}

    by an LU factorisation, O(n^3); G0 need not be invertible. Derivatives of all orders, forward
    and reverse: dG = G dSigma G + (1 + G Sigma) dG0 (1 + Sigma G).

    Over the depth of a network errors travel from later layers to earlier ones, G(l, k) = 0 for
    k < l, and no layer scatters into itself: G0 Sigma is strictly upper triangular. Said so, the
    equation is solved by substitution and always has a solution.

    Args:
        free: G0 (..., n, n), real or complex.
        self_energy: Sigma (..., n, n), likewise; the batch axes broadcast.
        triangular: The triangle that holds all of G0 Sigma, whose diagonal is zero. Nothing else of
            the product is read. None for any product.

    Returns:
        G (..., n, n), of the higher precision of both, float32 at least. Where 1 - G0 Sigma is
        singular (a bound state) entries are NaN or infinite, or as large as rounding makes them.

    Raises:
        ValueError: A matrix is not square, the shapes do not fit, or triangular is another word.
        TypeError: A matrix is not of floating dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> rho = jnp.diag(jnp.array([0.5, 0.5]), k=1)  # one layer back: half the error
        >>> print(solve(jnp.eye(3), rho, triangular="upper"))
        [[1.   0.5  0.25]
         [0.   1.   0.5 ]
         [0.   0.   1.  ]]

    References:
        Economou, Green's Functions in Quantum Physics, 3rd ed. (Springer, 2006), chapter 4.
    """
    _checks.one_of("triangular", triangular, ("upper", "lower", None))
    free, self_energy = pair(free, self_energy)
    scattering = product(free, self_energy)
    if triangular is not None:
        return lax.linalg.triangular_solve(
            -scattering, free, left_side=True, lower=triangular == "lower", unit_diagonal=True
        )
    identity = jnp.eye(free.shape[-1], dtype=free.dtype)
    return jnp.linalg.solve(jnp.broadcast_to(identity, free.shape) - scattering, free)
