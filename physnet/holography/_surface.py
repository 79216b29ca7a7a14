"""A bottleneck for fields on grids: a region passes as many numbers as its surface has sites.

Shapes: grid of d axes, c channels; regions of N sites, S of them at the surface.
"""

import functools
import itertools
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnet import _checks


def surface_slots(shape: tuple[int, ...], *, block: int | None = None) -> int:
    r"""How many slots the bottleneck has for a grid: the sites at the surfaces of its regions.

    A region with the sides b_i has \(S = \prod b_i - \prod \max(b_i - 2, 0)\) of them: of a cube of
    N sites about \(2 d N^{(d-1)/d}\), of a line 2.

    Args:
        shape: sides of the grid, one a dimension.
        block: side of the regions, a divisor of all; None for the whole grid as one.

    Returns:
        Slots of all regions.

    Raises:
        ValueError: a side below 1, or one that is no multiple of block.

    Example:
        >>> surface_slots((1024,)), surface_slots((32, 32)), surface_slots((10, 10, 10))
        (2, 124, 488)
        >>> surface_slots((32, 32), block=8)
        448
    """
    region = _region(shape, block)
    regions = math.prod(side // own for side, own in zip(shape, region, strict=True))
    return regions * len(_shell(region))


def surface_encode(
    field: Float[Array, "*grid c"], *, block: int | None = None, mass: float = 0.0
) -> Float[Array, "regions S c"]:
    r"""The part of a field that its values at surfaces determine, a slot a surface site.

    What is harmonic within a region, \((-\Delta + m^2) \phi = 0\) with the lattice's Laplacian,
    is the extension P g of its values g at the surface: P is the region's bulk-to-boundary kernel.
    Its columns made orthonormal while staying as near to their sites as can be,
    \(W = P (P^T P)^{-1/2}\), are an isometry from slots to fields, and encoding is its adjoint:

    $$ s = W^T \phi $$

    Decoding and encoding is the identity; encoding and decoding is the orthogonal projection on
    harmonic fields. Over all fields no other S numbers keep more of these.

    Args:
        field: (*grid, c), one to three dimensions or more.
        block: as in `surface_slots`. Static.
        mass: m in inverse lattice units. With a large mass slots are the values at the surface.
            Static.

    Returns:
        (regions, S, c): regions and their surface sites in row-major order, of the field's dtype.

    Raises:
        ValueError: no grid axis; sides that are no multiple of block; mass < 0.
        TypeError: the field is not real floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> x, y = jnp.meshgrid(jnp.arange(8.0), jnp.arange(8.0), indexing="ij")
        >>> field = (x * y)[..., None]
        >>> slots = surface_encode(field)
        >>> slots.shape, bool(jnp.allclose(surface_decode(slots, (8, 8)), field, atol=1e-4))
        ((1, 28, 1), True)

    References:
        't Hooft 1993, Dimensional Reduction in Quantum Gravity.
    """
    field = _checks.real("field", field)
    if field.ndim < 2:
        raise ValueError(f"field must have grid axes and channels, got shape {field.shape}")
    if 0 in field.shape:
        raise ValueError(f"field must hold a site and a channel at least, got {field.shape}")
    shape = field.shape[:-1]
    isometry = jnp.asarray(_isometry(_region(shape, block), _mass(mass)), field.dtype)
    split = [n for pair in _pairs(shape, block) for n in pair]
    axes = (*range(0, 2 * len(shape), 2), *range(1, 2 * len(shape), 2), 2 * len(shape))
    regions = field.reshape(*split, -1).transpose(axes).reshape(-1, len(isometry), field.shape[-1])
    return jnp.einsum("ns,rnc->rsc", isometry, regions)


def surface_decode(
    slots: Float[Array, "regions S c"],
    shape: tuple[int, ...],
    *,
    block: int | None = None,
    mass: float = 0.0,
) -> Float[Array, "*grid c"]:
    """The harmonic field of which slots came: the adjoint of `surface_encode`, W s.

    Args:
        slots: (regions, S, c).
        shape: of the grid. Static.
        block, mass: those with which they were encoded.

    Returns:
        (*grid, c), with the same norm.

    Raises:
        ValueError, TypeError: as `surface_encode`; ValueError for slots of another grid.

    Example:
        >>> import jax.numpy as jnp
        >>> slots = jnp.ones((1, 2, 1))
        >>> field = surface_decode(slots, (5,))
        >>> print(f"{jnp.sum(field**2):.3f}", bool(jnp.allclose(surface_encode(field), slots)))
        2.000 True
    """
    slots, region = _checks.real("slots", slots), _region(shape, block)
    pairs = _pairs(shape, block)
    isometry = jnp.asarray(_isometry(region, _mass(mass)), slots.dtype)
    wanted = (math.prod(count for count, _ in pairs), isometry.shape[1])
    if slots.ndim != 3 or slots.shape[:2] != wanted:
        raise ValueError(f"slots must have the shape {wanted} and channels, got {slots.shape}")
    regions = jnp.einsum("ns,rsc->rnc", isometry, slots)
    d = len(shape)
    regions = regions.reshape(*(count for count, _ in pairs), *region, -1)
    axes = (*(n for pair in zip(range(d), range(d, 2 * d), strict=True) for n in pair), 2 * d)
    return regions.transpose(axes).reshape(*shape, -1)


def _region(shape: tuple[int, ...], block: int | None) -> tuple[int, ...]:
    if not shape:
        raise ValueError("shape must have at least one side")
    sides = tuple(_checks.positive_int("shape", side) for side in shape)
    if block is None:
        return sides
    block = _checks.positive_int("block", block)
    if any(side % block for side in sides):
        raise ValueError(f"shape must have multiples of block={block}, got {shape}")
    return (block,) * len(sides)


def _pairs(shape: tuple[int, ...], block: int | None) -> list[tuple[int, int]]:
    """Along each axis the number of regions and their side."""
    return [(n // own, own) for n, own in zip(shape, _region(shape, block), strict=True)]


def _mass(mass: float) -> float:
    if not 0.0 <= _checks.number("mass", mass) < math.inf:
        raise ValueError(f"mass must be a finite number >= 0, got {mass}")
    return float(mass)


def _shell(region: tuple[int, ...]) -> np.ndarray:
    """Row-major indices of the sites at the surface."""
    grid = np.indices(region).reshape(len(region), -1)
    last = np.array(region)[:, None] - 1
    return np.flatnonzero(np.any((grid == 0) | (grid == last), axis=0))


@functools.lru_cache(maxsize=64)
def _isometry(region: tuple[int, ...], mass: float) -> np.ndarray:
    """W (N, S), float64."""
    size = math.prod(region)
    shell = _shell(region)
    inner = np.setdiff1d(np.arange(size), shell)
    operator = np.diag(np.full(size, 2.0 * len(region) + mass**2))
    index = np.arange(size).reshape(region)
    for axis, side in itertools.product(range(len(region)), (slice(1, None), slice(None, -1))):
        other = slice(None, -1) if side == slice(1, None) else slice(1, None)
        one = tuple(side if k == axis else slice(None) for k in range(len(region)))
        two = tuple(other if k == axis else slice(None) for k in range(len(region)))
        operator[index[one].ravel(), index[two].ravel()] = -1.0
    extension = np.zeros((size, len(shell)))
    extension[shell, np.arange(len(shell))] = 1.0
    if len(inner):
        extension[inner] = -np.linalg.solve(
            operator[np.ix_(inner, inner)], operator[np.ix_(inner, shell)]
        )
    left, _, right = np.linalg.svd(extension, full_matrices=False)
    return left @ right  # P (P^T P)^{-1/2}, the nearest isometry
