"""The Dyson equation by its Born series."""

from typing import NamedTuple, overload

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Inexact, Int

from physnet import _checks
from physnet.dyson._matrices import pair, product


class BornInfo(NamedTuple):
    """How far a Born series went.

    Attributes:
        order: Number of scatterings in the last term that was added.
        residual: |G0 + G0 Sigma G - G| / |G|, Frobenius norms: the first term left out.
        converged: Whether the residual is within the tolerance.
    """

    order: Int[Array, "*b"]
    residual: Float[Array, "*b"]
    converged: Bool[Array, "*b"]


@overload
def born_series(
    free: Inexact[Array, "*#b n n"],
    self_energy: Inexact[Array, "*#c n n"],
    *,
    order: int,
    tolerance: None = None,
) -> Inexact[Array, "*d n n"]: ...


@overload
def born_series(
    free: Inexact[Array, "*#b n n"],
    self_energy: Inexact[Array, "*#c n n"],
    *,
    order: int,
    tolerance: float | Float[Array, ""],
) -> tuple[Inexact[Array, "*d n n"], BornInfo]: ...


def born_series(
    free: Inexact[Array, "*#b n n"],
    self_energy: Inexact[Array, "*#c n n"],
    *,
    order: int,
    tolerance: float | Float[Array, ""] | None = None,
) -> Inexact[Array, "*d n n"] | tuple[Inexact[Array, "*d n n"], BornInfo]:
    r"""Born series of the Dyson equation: all paths with at most `order` scatterings.

        G_N = sum_{k=0..N} (G0 Sigma)^k G0

    It converges to `solve` just where the spectral radius of G0 Sigma is below 1, and grows without
    bound above. Over depth G0 Sigma is strictly triangular and the series of order n - 1 is exact,
    whatever the norms.

    Args:
        free: G0 (..., n, n), real or complex.
        self_energy: Sigma (..., n, n), likewise; the batch axes broadcast.
        order: N >= 0, the highest order. Static.
        tolerance: End at the first order whose residual, relative to |G|, is within it; >= 0.

    Returns:
        G_N (..., n, n); with a tolerance the pair (G, BornInfo), the latter of batch shape: a
        series that has not converged says so. A sum that overflows ends there, not converged.
        Without a tolerance derivatives are those of the partial sum. With one they are those of the
        solution, of all orders, from series of the same order and tolerance.

    Raises:
        ValueError: As `solve`; order < 0, or a known tolerance that is negative or NaN.
        TypeError: As `solve`; order is not an int.

    Example:
        >>> import jax.numpy as jnp
        >>> half = jnp.array([[0.5]])
        >>> print(born_series(jnp.eye(1), half, order=2))
        [[1.75]]
        >>> g, info = born_series(jnp.eye(1), half, order=50, tolerance=1e-3)
        >>> f"{g[0, 0]:.3f}", int(info.order), bool(info.converged)
        ('1.996', 8, True)
        >>> g, info = born_series(jnp.eye(1), 3 * half, order=50, tolerance=1e-3)
        >>> bool(info.converged)
        False
    """
    order = _checks.positive_int("order", order, minimum=0)
    free, self_energy = pair(free, self_energy)
    scattering = product(free, self_energy)
    if tolerance is None:
        return lax.fori_loop(0, order, lambda _, g: free + product(scattering, g), free)
    known = _checks.known("tolerance", tolerance)
    if known is not None and (known.ndim or not known >= 0):
        raise ValueError(f"tolerance must be a number >= 0, got {tolerance!r}")
    tolerance = jnp.asarray(tolerance).astype(free.real.dtype)

    def run(free, scattering):
        return _to_tolerance(free, scattering, order, tolerance)

    for _ in range(free.ndim - 2):
        run = jax.vmap(run)
    g, (used, residual) = run(free, scattering)
    return g, BornInfo(used, residual, residual <= tolerance)


def _to_tolerance(free: Array, scattering: Array, order: int, tolerance: Array):
    """G and (order, residual) of one equation."""

    def summed(matrix, start):
        def relative(term, total):
            size = jnp.linalg.norm(total)
            return jnp.linalg.norm(term) / jnp.where(size > 0, size, 1)

        def goes_on(state):
            _, _, k, residual = state
            return (k < order) & (residual > tolerance) & jnp.isfinite(residual)

        def add(state):
            total, term, k, _ = state
            total, term = total + term, product(matrix, term)
            return total, term, k + 1, relative(term, total)

        term = product(matrix, start)
        zero = jnp.zeros_like(term.real, jnp.int32, shape=())
        state = (start, term, zero, relative(term, start))
        total, _, k, residual = lax.while_loop(goes_on, add, state)
        return total, (k, residual)

    return lax.custom_linear_solve(
        lambda g: g - product(scattering, g),
        free,
        solve=lambda _, b: summed(scattering, b),
        transpose_solve=lambda _, b: summed(scattering.T, b),
        has_aux=True,
    )
