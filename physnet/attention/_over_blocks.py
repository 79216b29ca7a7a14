"""Choice between all pairs at once and blocks of them; non-finite tokens in both."""

import jax
import jax.numpy as jnp

from physnet.attention._arguments import Pairs, Tensors, accumulator
from physnet.attention._dense import unclean
from physnet.attention._sparse import Plans, Rules, sparse

DENSE_PAIRS = 256 * 256  # so few pairs are computed at once: blocks cannot pay
ACCELERATOR_PAIRS = 2048 * 2048  # where XLA's loops cost kernel launches
DENSE_QUERIES = 8  # the logits of so few queries are no larger than the keys


def dense_pays(x: Tensors) -> bool:
    """Whether to form all pairs at once."""
    time, span = x.query.shape[1], x.key.shape[1]
    few = DENSE_PAIRS if jax.default_backend() == "cpu" else ACCELERATOR_PAIRS
    return time * span <= few or time <= DENSE_QUERIES


def attend(
    rules: Rules, size: int, x: Tensors, pairs: Pairs, plans: Plans
) -> tuple[jax.Array, jax.Array]:
    """`sparse` for tensors that may hold non-finite entries: who sees one becomes NaN."""
    # In a shard_map the zero varies over all axes that anything here does: so then do the tensors,
    # and with them all that the loops carry.
    leaves = jax.tree.leaves((x, pairs, plans))
    zero = sum(jnp.zeros_like(leaf, shape=(), dtype=jnp.float32) for leaf in leaves)
    x, bad_query, bad_key = unclean(x, zero)
    spoil = jnp.where(bad_key, jnp.nan, 0).astype(accumulator(x.query.dtype))
    output, lse = sparse(rules, size, x, spoil, pairs, plans)
    output = jnp.where(bad_query[..., None], jnp.nan, output)
    return output, jnp.where(bad_query, jnp.nan, lse)
