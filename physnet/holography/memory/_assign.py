"""Which slots a token without a place of its own joins.

Shapes: t tokens, C slots of the levels.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet.holography.memory._config import Config


def shares(
    config: Config, position: Float[Array, " t"], start: Array, stop: Array
) -> Float[Array, "C t"]:
    r"""The part of a token that goes to each slot; over the slots of a token they sum to 1.

    "mean" is 1 for the slot whose blocks hold the token. "kernel" also takes the slots next to it,
    by the bulk-to-boundary kernel of dimension 1 and \(\Delta = 1\) from the token to the middle
    c_j of a slot, z_j half its length:

    $$ P_{z}(x - c_j) \propto z_j / (z_j^2 + (x - c_j)^2) $$

    Args:
        config: the sizes.
        position: of the tokens.
        start, stop: the first token of each slot (C,), and the one after its last.
    """
    start, stop, where = start[:, None], stop[:, None], position[None]
    newest = (start < stop) & (stop == jnp.max(stop, initial=0))  # its last token may round to stop
    own = (start <= where) & ((where < stop) | newest)
    if config.merge == "mean":
        return own.astype(position.dtype)
    before = jnp.sum(jnp.where(own, start, 0), 0, keepdims=True)
    after = jnp.sum(jnp.where(own, stop, 0), 0, keepdims=True)
    beside = (start < stop) & jnp.any(own, 0)[None] & ((stop == before) | (start == after))
    half = 0.5 * (stop - start)
    away = where - 0.5 * (start + stop - 1)
    kernel = half / (jnp.where(own | beside, half, 1) ** 2 + away * away)
    kernel = jnp.where(own | beside, kernel, 0)
    total = jnp.sum(kernel, 0, keepdims=True)
    return kernel / jnp.where(total > 0, total, 1)
