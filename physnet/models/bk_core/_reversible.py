"""BK-Core's blocks as halves of a leapfrog step, whose backward pass rebuilds the stream.

Shapes: B batch, T time, W width.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from physnet import _dispatch, _varying, symplectic
from physnet.models._axes import Axes
from physnet.models.bk_core import _block
from physnet.models.bk_core._block import Params, Stream
from physnet.models.bk_core._config import BKCoreConfig
from physnet.models.bk_core._depth import dropout_at

LATTICE = symplectic.Lattice(2**22)  # embeddings start at 0.02; room for streams up to 512


def stream(
    config: BKCoreConfig,
    params: Params,
    x: Stream,
    *,
    key: jax.Array | None,
    implementation: _dispatch.Implementation | None,
    axes: Axes,
) -> Stream:
    """The stream after all blocks, of which no block keeps anything.

    NaN from a position on that begins as NaN, and everywhere where the lattice was left or a block
    gave NaN: its integers have none, and would go on with wrong ones.
    """

    # What the blocks close over varies as the stream will within the scan.
    key = _varying.alike(key, x, params["layers"])

    def own(given: Any) -> tuple[Params, Any]:
        index, layer = given
        return layer, dropout_at(config.dropout, key, index)

    def kick(_: Any, position: jax.Array, given: Any) -> jax.Array:
        layer, drop = own(given)
        return _block.tokens_mixed(config, layer, position, drop, implementation, axes)[1]

    def drift(_: Any, momentum: jax.Array, given: Any) -> jax.Array:
        layer, drop = own(given)
        return _block.feed_forward(config, layer, momentum, _block.at(drop, 4), axes)[0]

    each = jnp.arange(config.layers, dtype=jnp.int32), params["layers"]
    options: Any = {"steps": config.layers, "lattice": LATTICE, "return_info": True}
    unknown = jnp.isnan(x[0]).any(-1, keepdims=True)
    known = jax.tree.map(lambda half: jnp.where(unknown, jnp.zeros_like(half), half), x)
    found, info = symplectic.coupled_scan(kick, drift, known, None, each, **options)
    lost = lax.cummax(unknown.astype(jnp.int32), axis=1) > 0
    largest = info.largest
    if axes.sequence is not None:  # NaN reaches the pieces behind, and a lattice left all of them
        ends = lax.all_gather(lost[:, -1:], axes.sequence)
        pieces = jnp.arange(len(ends), dtype=jnp.int32).reshape(-1, 1, 1, 1)
        lost = lost | jnp.any(ends & (pieces < lax.axis_index(axes.sequence)), axis=0)
        largest = lax.pmax(largest, axes.sequence)
    lost = lost | ~(largest < info.limit)
    return jax.tree.map(lambda half: jnp.where(lost, jnp.full_like(half, jnp.nan), half), found)
