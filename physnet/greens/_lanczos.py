"""Haydock's recursion: any Hermitian operator, seen from one vector, is a chain."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Inexact

from physnet import _checks
from physnet.greens._chain import astype, energy_planes, real_dtype
from physnet.greens._diagonal import left


def lanczos(
    matvec: Callable[[Array], Array], vectors: Inexact[Array, "*b n"], *, order: int
) -> tuple[Float[Array, "*b k"], Float[Array, "*b m"]]:
    r"""The chain that a Hermitian operator is to a start vector: onsite and hopping of its sites.

        b_k q_{k+1} = H q_k - a_k q_k - b_{k-1} q_{k-1},    q_0 = v / |v|,

    with every q made orthogonal to all before it, twice, so that no level appears as a ghost.
    Where the vectors H^k v end (an invariant subspace) the hopping is 0, and the sites behind are
    empty and uncoupled. All functions of a chain serve the result; its site 0 is v.

    Args:
        matvec: H as a function of one vector (n,) -> (n,); real symmetric or Hermitian.
        vectors: v (..., n), real or complex.
        order: Number of sites k of the chain, one product with H each. Static.

    Returns:
        onsite (..., order) and hopping (..., order - 1), real, hopping >= 0. Takes O(order n)
        memory and O(order^2 n) time beside the products. NaN in a vector or a product, or a norm
        that overflows, makes the chain NaN from that site on.

    Raises:
        TypeError: vectors are not of floating dtype; matvec changes the dtype.
        ValueError: vectors have no axis, order < 1, or matvec changes the shape.

    Example:
        >>> import jax.numpy as jnp
        >>> ring = lambda x: jnp.roll(x, 1) + jnp.roll(x, -1)
        >>> onsite, hopping = lanczos(ring, jnp.eye(6)[0], order=4)
        >>> [f"{b:.4f}" for b in hopping]  # both neighbours at once, then on to the far site
        ['1.4142', '1.0000', '1.4142']

    References:
        Haydock, Heine & Kelly, J. Phys. C 5 (1972) 2845; Paige, PhD thesis, London (1971).
    """
    _checks.function("matvec", matvec)
    order = _checks.positive_int("order", order)
    vectors = _checks.at_least_1d("vectors", _checks.inexact("vectors", vectors))
    vectors = astype(vectors, real_dtype(vectors))
    one = jax.ShapeDtypeStruct(vectors.shape[-1:], vectors.dtype)
    product = jax.eval_shape(matvec, one)
    if product.shape != one.shape:
        raise ValueError(f"matvec must map {one.shape} to {one.shape}, got {product.shape}")
    if product.dtype != one.dtype:
        raise TypeError(f"matvec must keep the dtype {one.dtype}, got {product.dtype}")

    run = lambda v: _chain_of(matvec, v, order)  # noqa: E731
    for _ in range(vectors.ndim - 1):
        run = jax.vmap(run)
    return run(vectors)


def ldos_lanczos(
    matvec: Callable[[Array], Array],
    vectors: Inexact[Array, "*b n"],
    energy: ArrayLike,
    *,
    order: int,
) -> Float[Array, "*c"]:
    r"""Local density of states of a Hermitian operator that is given by its products alone.

        -Im <v| (z - H)^{-1} |v> / pi

    by the first `order` sites of the chain of `lanczos`: the density has their 2 order moments
    exactly and is exact once the chain ends. Resolving structure of width Im z takes an order of
    about (width of the spectrum) / Im z. Never negative.

    Args:
        matvec: H as a function of one vector (n,) -> (n,); real symmetric or Hermitian.
        vectors: v (..., n): unit vectors for the density at sites, random ones for its mean.
        energy: z, complex, Im z > 0, of any shape; every vector meets every energy.
        order: Number of products with H for a vector. Static.

    Returns:
        (..., *energy.shape), real; its integral over Re z is |v|^2.

    Raises:
        TypeError, ValueError: As `lanczos`, and on energies as `diagonal`.

    Example:
        >>> import jax.numpy as jnp, numpy as np
        >>> ring = lambda x: jnp.roll(x, 1) + jnp.roll(x, -1)
        >>> exact = -np.mean(1 / (0.1j - 2 * np.cos(np.arange(6) * np.pi / 3))).imag / np.pi
        >>> density = ldos_lanczos(ring, jnp.eye(6)[2], 0.1j, order=4)
        >>> print(f"{density:.5f} {exact:.5f}")
        0.02366 0.02366
    """
    onsite, hopping = lanczos(matvec, vectors, order=order)
    z = energy_planes(energy, np.dtype(onsite.dtype))
    axes = tuple(range(onsite.ndim - 1, onsite.ndim - 1 + z.real.ndim))
    # Site 0 is the end of the mirrored half line.
    onsite, hopping = (jnp.expand_dims(x[..., ::-1], axes) for x in (onsite, hopping))
    g = left(onsite, hopping, lax.complex(z.real, z.imag))[..., -1]
    norm = jnp.sum(jnp.abs(astype(vectors, onsite.dtype)) ** 2, -1)
    return -g.imag / jnp.pi * jnp.expand_dims(norm, axes)


def _chain_of(matvec: Callable[[Array], Array], vector: Array, order: int) -> tuple[Array, Array]:
    n, epsilon = vector.shape[0], jnp.finfo(vector.dtype).eps

    def step(carry, k):
        basis, q, largest = carry
        basis = lax.dynamic_update_index_in_dim(basis, q, k, 0)
        image = matvec(q)
        onsite = jnp.vdot(q, image).real
        for _ in range(2):  # rows still to come are zero
            overlap = jnp.matmul(basis.conj(), image, precision="highest")
            image = image - jnp.matmul(overlap, basis, precision="highest")
        hopping = _norm(image)
        largest = jnp.maximum(largest, jnp.maximum(jnp.abs(onsite), hopping))
        # What is left of a vector inside the subspace is rounding.
        hopping = jnp.where(hopping <= 10 * epsilon * n**0.5 * largest, 0, hopping)
        return (basis, _normalised(image, hopping), largest), (onsite, hopping)

    zero = jnp.zeros_like(vector[:1].real).sum()
    start = _normalised(vector, _norm(vector))
    empty = jnp.zeros_like(vector, shape=(order, n))
    onsite, hopping = lax.scan(step, (empty, start, zero), np.arange(order))[1]
    return onsite, hopping[:-1]


def _norm(vector: Array) -> Array:
    """|vector|, whose derivative at 0 counts as 0."""
    square = jnp.sum(jnp.real(vector) ** 2 + jnp.imag(vector) ** 2)
    return jnp.where(square == 0, 0, jnp.sqrt(jnp.where(square == 0, 1, square)))


def _normalised(vector: Array, norm: Array) -> Array:
    """vector / norm, zero where the norm is, NaN where it is."""
    return jnp.where(norm == 0, 0, vector / jnp.where(norm == 0, 1, norm).astype(vector.dtype))
