"""Entropies that grow with surfaces: of a region of a free field, and of what slots carry."""

import functools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from physnet import _checks


def entanglement_entropy(
    shape: tuple[int, ...], region: Bool[np.ndarray, "*shape"], *, mass: float = 0.0
) -> float:
    r"""Entropy of a region of a free scalar field in its ground state, on a grid with fixed ends.

    The lattice Hamiltonian is \(\frac12 \sum \pi^2 + \phi (-\Delta + m^2) \phi\), the field 0
    outside the grid. Its ground state is Gaussian: with the correlators X of the field and P of the
    momentum within the region, and \(\nu\) the square roots of the eigenvalues of X P,

    $$ S = \sum_\nu (\nu + \tfrac12) \ln(\nu + \tfrac12) - (\nu - \tfrac12) \ln(\nu - \tfrac12) $$

    In one dimension without mass each end of the region within the grid adds (1/6) ln(length), in
    more dimensions S grows as the region's surface: area law. NumPy, in float64; costs N^3.

    Args:
        shape: sides of the grid, N sites in all.
        region: booleans of this shape.
        mass: m in inverse lattice units.

    Returns:
        S in nats.

    Raises:
        ValueError: a region of another shape; mass < 0.

    Example:
        >>> import numpy as np
        >>> site = np.arange(200)
        >>> half, quarter = (entanglement_entropy((200,), site < n) for n in (100, 50))
        >>> print(f"{half - quarter:.4f} {np.log(2 ** 0.5) / 6:.4f}")
        0.0571 0.0578

    References:
        Srednicki 1993, Entropy and Area; Peschel & Eisler 2009, Reduced density matrices and
        entanglement entropy in free lattice models.
    """
    region = np.asarray(region)
    shape = tuple(_checks.positive_int("shape", side) for side in shape)
    if region.shape != shape or region.dtype != bool:
        raise ValueError(
            f"region must be booleans of the shape {shape}, got {region.dtype} of {region.shape}"
        )
    if not 0.0 <= _checks.number("mass", mass) < math.inf:
        raise ValueError(f"mass must be a finite number >= 0, got {mass}")
    waves, square = _modes(shape)
    frequency = np.sqrt(square + mass**2)
    inside = waves[region.ravel()]
    field = inside * (0.5 / frequency) @ inside.T
    momentum = inside * (0.5 * frequency) @ inside.T
    root = np.linalg.cholesky(field)
    nu = np.sqrt(np.maximum(np.linalg.eigvalsh(root.T @ momentum @ root), 0.25))
    less = nu - 0.5
    safe = np.where(less > 0, less, 1.0)
    return float(np.sum((nu + 0.5) * np.log(nu + 0.5) - less * np.log(safe)))


def gram_entropy(slots: Float[Array, "n c"]) -> Float[Array, ""]:
    r"""Von Neumann entropy of the normalised Gram matrix of some slots.

    $$ S = -\mathrm{tr}\, \rho \ln \rho, \qquad \rho = A A^T / \mathrm{tr}\, A A^T $$

    e^S is their effective rank: between 1 for multiples of one slot and min(n, c) for orthogonal
    ones of one length. A bottleneck of n slots so carries at most ln n.

    Args:
        slots: A (n, c).

    Returns:
        S in nats, float32 at least; 0 for slots that are all 0. First derivatives are right where
        singular values meet, too; higher ones are not.

    Raises:
        TypeError, ValueError: not a real floating-point matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> for slots in (jnp.eye(8), jnp.ones((8, 3))):
        ...     print(f"{jnp.exp(gram_entropy(slots)):.3f}")
        8.000
        1.000
    """
    slots = _checks.real("slots", slots)
    if slots.ndim != 2:
        raise ValueError(f"slots must have the shape (n, c), got {slots.shape}")
    wide = slots.astype(np.promote_types(slots.dtype, np.float32))
    power = jnp.linalg.svd(wide, compute_uv=False) ** 2
    total = jnp.sum(power)
    share = power / jnp.where(total > 0, total, 1)
    return -jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1)))


@functools.lru_cache(maxsize=8)
def _modes(shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Standing waves (N, N), a column each, and their squared frequencies without mass."""
    waves, square = np.ones((1, 1)), np.zeros(1)
    for side in shape:
        n = np.arange(1, side + 1)
        own = np.sqrt(2 / (side + 1)) * np.sin(np.pi * np.outer(n, n) / (side + 1))
        waves = np.kron(waves, own)
        square = np.add.outer(square, 4 * np.sin(0.5 * np.pi * n / (side + 1)) ** 2).ravel()
    return waves, square
