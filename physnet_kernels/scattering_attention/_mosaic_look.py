"""Whether keys and values are finite, found on the side by a warpgroup that mostly waits.

Each block is looked at once, by a tile of the first query head of its key head, a piece at a time.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from physnet_kernels.scattering_attention import _mosaic_common as common
from physnet_kernels.scattering_attention._types import BLOCK

COLUMNS = 32  # of a piece: as many of a key and a value as a few registers hold


class Look:
    """The blocks rank, rank + P, ... of a key head, P the number of query blocks."""

    def __init__(self, r: dict[str, Any], batch, head, rank, group: int) -> None:
        ranks, (_, tokens, _, width) = r["q"].shape[1] // BLOCK, r["k"].shape
        self.refs = r
        self.batch, self.head, self.rank, self.ranks = batch, lax.div(head, jnp.int32(group)), rank, ranks
        self.columns = width // COLUMNS
        blocks = lax.div(tokens // BLOCK - rank + (ranks - 1), jnp.int32(ranks))
        self.blocks = jnp.where(lax.rem(head, jnp.int32(group)) == 0, blocks, 0)
        self.pieces = self.blocks * (2 * self.columns)

    def nothing(self) -> jax.Array:
        zero = jnp.full((common.HALF,), 0, jnp.float32)
        return plgpu.layout_cast(zero, common.WIDE.reduce(1))

    def read(self, index: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A piece of keys and of values; zeros where there is none of this number."""
        half = lax.div(index, jnp.int32(self.columns))
        block = self.rank + lax.div(half, jnp.int32(2)) * self.ranks
        first = block * BLOCK + lax.rem(half, jnp.int32(2)) * common.HALF
        column = lax.rem(index, jnp.int32(self.columns)) * COLUMNS
        place = self.batch, pl.ds(first, common.HALF), self.head, pl.ds(column, COLUMNS)

        def piece():
            return tuple(common.load(self.refs[n].at[place], common.WIDE) for n in ("k", "v"))

        def none():
            shape = common.HALF, COLUMNS
            zero = jnp.full(shape, 0, self.refs["k"].dtype)
            return (plgpu.layout_cast(zero, common.WIDE),) * 2

        return lax.cond((index >= 0) & (index < self.pieces), piece, none)

    def add(self, seen: jax.Array, piece: tuple[jax.Array, jax.Array]) -> jax.Array:
        """NaN for a row of the piece that is not finite."""
        keys, values = piece
        return seen + ((keys - keys) + (values - values)).sum(axis=1).astype(jnp.float32)

    def finish(self, done: jax.Array, seen: jax.Array) -> None:
        """Look at what is left behind the first `done` pieces, and tell of all of them."""

        def more(i, seen):
            return self.add(seen, self.read(i))

        seen = lax.fori_loop(done, jnp.maximum(done, self.pieces), more, seen)
        smem = self.refs["looked_smem"]
        smem[...] = seen
        plgpu.commit_smem()

        @pl.loop(0, self.blocks)
        def _(i):
            block = self.rank + i * self.ranks
            target = self.refs["looked"].at[self.batch, self.head, block]
            plgpu.copy_smem_to_gmem(smem, target)

        plgpu.wait_smem_to_gmem(0, wait_read_only=True)
