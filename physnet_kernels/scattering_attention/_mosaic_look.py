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
_ROWS = common.WIDE.reduce(1)


class Look:
    """The blocks rank, rank + P, ... of a key head, P the number of query blocks.

    What one of them holds is told of all of them: marks may say too much, never too little.
    """

    def __init__(self, r: dict[str, Any], batch, head, rank, group: int) -> None:
        ranks, (_, tokens, _, width) = r["q"].shape[1] // BLOCK, r["k"].shape
        self.refs, self.seen = r, r["looked_smem"]
        self.batch, self.head = batch, lax.div(head, jnp.int32(group))
        self.rank, self.ranks = rank, ranks
        self.columns = width // COLUMNS
        blocks = lax.div(tokens // BLOCK - rank + (ranks - 1), jnp.int32(ranks))
        self.blocks = jnp.where(lax.rem(head, jnp.int32(group)) == 0, blocks, 0)
        self.pieces = self.blocks * (2 * self.columns)

        self._tell(plgpu.layout_cast(jnp.full((common.HALF,), 0, jnp.float32), _ROWS))

    def at(self, index: jax.Array) -> None:
        """Look at the piece of this number, if there is one."""

        @pl.when((index >= 0) & (index < self.pieces))
        def _():
            half = lax.div(index, jnp.int32(self.columns))
            block = self.rank + lax.div(half, jnp.int32(2)) * self.ranks
            first = block * BLOCK + lax.rem(half, jnp.int32(2)) * common.HALF
            column = lax.rem(index, jnp.int32(self.columns)) * COLUMNS
            place = self.batch, pl.ds(first, common.HALF), self.head, pl.ds(column, COLUMNS)
            keys, values = (common.load(self.refs[n].at[place], common.WIDE) for n in ("k", "v"))
            nothing = (keys - keys) + (values - values)  # NaN where one of them is not finite
            found = nothing.sum(axis=1).astype(jnp.float32)
            self._tell(common.load(self.seen, _ROWS) + found)

    def finish(self, done: jax.Array) -> None:
        """Look at what is left behind the first `done` pieces, and tell of all of them."""
        pl.loop(done, jnp.maximum(done, self.pieces))(self.at)

        @pl.loop(0, self.blocks)
        def _(i):
            block = self.rank + i * self.ranks
            target = self.refs["looked"].at[self.batch, self.head, block]
            plgpu.copy_smem_to_gmem(self.seen, target)

        plgpu.wait_smem_to_gmem(0, wait_read_only=True)

    def _tell(self, found: jax.Array) -> None:
        self.seen[...] = found
        plgpu.commit_smem()
