"""A checksum of arrays that lie in parts on many devices: no device ever sees all of them.

Each element's bits are mixed with its place in the array, and the results are added modulo 2^32.
Such sums do not depend on their order, so that the same numbers have the same checksum however they
are spread. Four sums of different mixtures make 128 bits: against damage, not against malice.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

SUMS = 4


def checksum(tree: Any) -> str:
    """The checksum of all leaves, as 32 hexadecimal digits."""
    found = _checksum(jax.tree.leaves(tree))
    return "".join(f"{int(word):08x}" for word in np.asarray(found))


@jax.jit
def _checksum(leaves: list[jax.Array]) -> jax.Array:
    salts = (np.arange(1, SUMS + 1) * 0x9E3779B9 % 2**32).astype(np.uint32)

    def one(salt: jax.Array) -> jax.Array:
        total = salt
        for leaf in leaves:
            total = _mixed(total) + _of_leaf(leaf, salt)
        return total

    return lax.map(one, jnp.asarray(salts))


def _of_leaf(leaf: jax.Array, salt: jax.Array) -> jax.Array:
    width = min(leaf.dtype.itemsize, 4)
    words = lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * width}")).astype(jnp.uint32)
    place = jnp.full(words.shape, salt, jnp.uint32)
    for axis in range(words.ndim):
        place = _mixed(place ^ lax.broadcasted_iota(jnp.uint32, words.shape, axis))
    return jnp.sum(_mixed(words ^ place), dtype=jnp.uint32)


def _mixed(x: jax.Array) -> jax.Array:
    """A permutation of 32-bit words in which every bit of the argument moves about half of all."""
    for shift, factor in ((16, 0x21F0AAAD), (15, 0xD35A2D97)):
        x = (x ^ (x >> jnp.uint32(shift))) * jnp.uint32(factor)
    return x ^ (x >> jnp.uint32(15))
