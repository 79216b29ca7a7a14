"""Choice between all pairs at once and blocks of them; non-finite tokens in both."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from physnet import _dispatch
from physnet.attention._arguments import Pairs, Scores, Spoil, Tensors, accumulator
from physnet.attention._dense import unclean
from physnet.attention._sparse import Plans, Rules, sparse

DENSE_PAIRS = 256 * 256  # so few pairs are computed at once: blocks cannot pay
ACCELERATOR_PAIRS = 2048 * 2048  # where XLA's loops cost kernel launches
KERNEL_PAIRS = 192 * 192  # on an H100 all at once is faster at 128 x 128, a kernel at 256 x 256
DENSE_QUERIES = 8  # the logits of so few queries are no larger than the keys


def dense_pays(x: Tensors) -> bool:
    """Whether to form all pairs at once."""
    time, span = x.query.shape[1], x.key.shape[1]
    few = DENSE_PAIRS if _dispatch.device(*x).platform == "cpu" else ACCELERATOR_PAIRS
    return time * span <= few or time <= DENSE_QUERIES


def kernel_pays(x: Tensors) -> bool:
    """Whether a GPU kernel is faster than forming all pairs."""
    time, span = x.query.shape[1], x.key.shape[1]
    short = x.query.dtype.itemsize == 2  # tensor cores
    few = KERNEL_PAIRS if short else ACCELERATOR_PAIRS
    return time * span > few and time > DENSE_QUERIES


def facts(x: Tensors, block_size: int = 128, scores: Scores | None = None) -> dict[str, object]:
    """What decides which implementation serves a call."""
    return {
        "arrays": tuple(x),
        "dtype": x.query.dtype,
        "score_dtype": np.dtype(np.float32) if scores is None else scores.query.dtype,
        "head_dim": x.query.shape[-1],
        "block_size": block_size,
        "pairs": x.query.size * x.key.size,
    }


def attend(
    name: _dispatch.Implementation,
    rules: Rules,
    size: int,
    x: Tensors,
    pairs: Pairs,
    plans: Plans,
) -> tuple[jax.Array, jax.Array]:
    """`sparse` for tensors that may hold non-finite entries: who sees one becomes NaN."""
    # In a shard_map the zero varies over all axes that anything here does: so then do the tensors,
    # and with them all that the loops carry.
    leaves = jax.tree.leaves((x, pairs, plans))
    zero: Any = sum(jnp.zeros_like(leaf, shape=(), dtype=jnp.float32) for leaf in leaves)
    if name != "xla":  # kernels find out by themselves: no pass over the tensors
        # XLA drops a selection that a constant decides.
        x = Tensors(*(jnp.where(np.ones((), bool), a, zero.astype(a.dtype)) for a in x))
        return sparse(name, rules, size, x, None, pairs, plans)
    x, bad_query, bad_key = unclean(x, zero)
    dtype = accumulator(x.query.dtype)
    spoil = Spoil(*(jnp.where(bad, jnp.nan, 0).astype(dtype) for bad in (bad_query, bad_key)))
    output, lse = sparse(name, rules, size, x, spoil, pairs, plans)
    output = jnp.where(bad_query[..., None], jnp.nan, output)
    return output, jnp.where(bad_query, jnp.nan, lse)
