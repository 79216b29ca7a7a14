"""A random isometry from k rows to n, fast: what `protect` spreads slots by."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array


def spread(slots: Array, n: int, key: Array) -> Array:
    """E slots (n, d), E^T E = 1: two transforms, and between them what is random.

    Of one transform, minors vanish on subgroups: random columns of a Hadamard matrix, k = 64 of
    128, are singular on one in five sets of 64 rows. Rotations by continuous angles and an order
    that mixes make all minors generic, as those of a random isometry.
    """
    first, order, second = jax.random.split(key, 3)
    x = _orthogonal(jnp.pad(slots, ((0, n - slots.shape[0]), (0, 0))))
    x = _rotated(x, first)[jnp.argsort(jax.random.uniform(order, (n,), jnp.float32))]
    return _orthogonal(_rotated(x, second))


def _rotated(x: Array, key: Array) -> Array:
    """Neighbouring rows turned into one another by random angles."""
    pairs = len(x) // 2
    angles = jax.random.uniform(key, (pairs, 1), jnp.float32, maxval=2 * np.pi)
    angles = angles.astype(x.dtype)  # one code for all dtypes: what is stored may be rounded
    cosine, sine = jnp.cos(angles), jnp.sin(angles)
    one, other = x[: 2 * pairs : 2], x[1 : 2 * pairs : 2]
    turned = jnp.stack([cosine * one - sine * other, sine * one + cosine * other], 1)
    return jnp.concatenate([turned.reshape(2 * pairs, -1), x[2 * pairs :]])


def _orthogonal(x: Array) -> Array:
    """An orthogonal transform of the rows whose entries are all of about the same size."""
    shape, before = x.shape, 1
    for matrix in _factors(shape[0]):
        size = len(matrix)
        x = x.reshape(before, size, -1)
        x = jnp.einsum("ij,ajb->aib", jnp.asarray(matrix, x.dtype), x, precision="highest")
        before *= size
    return x.reshape(shape)


@functools.lru_cache
def _factors(n: int) -> list[np.ndarray]:
    """Orthogonal matrices whose Kronecker product has n rows: Hartley's, then Hadamard's."""
    even = n & -n
    odd = n // even
    angles = 2 * np.pi / odd * (np.outer(np.arange(odd), np.arange(odd)) % odd)
    factors = [(np.cos(angles) + np.sin(angles)) / math.sqrt(odd)]
    while even > 1:
        size = min(even, 32)  # as matrices of a few rows, not as pairs: few and quick products
        bits = np.bitwise_count(np.bitwise_and.outer(np.arange(size), np.arange(size)))
        factors.append((1.0 - 2.0 * (bits % 2)) / math.sqrt(size))
        even //= size
    return factors
