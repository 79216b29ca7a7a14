"""Gated attention through a boundary memory: the parameters of `nn.attention`, a bounded cache.

A head's score is the mass of a token: its weight in the logits, where tokens merge, and its rank as
a landmark. Tokens whose score no partner could lift over the threshold go from the window straight
to the levels.

Shapes: B batch, T time, W width, N heads, D = W / N.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet.holography import memory
from physnet.nn import attention
from physnet.nn.layers import linear, rotary

Params = dict[str, Any]

LEAST_MASS = 1e-6  # so that a token always sees itself, with a bounded gradient of log mass


def init(
    config: memory.Config, *, batch: int, heads: int, head_dim: int, dtype: Any = jnp.float32
) -> memory.Memory:
    """Empty memories of all heads of a batch: leaves (B, N, ...), but for the one count.

    Args:
        config: the sizes of one head's memory.
        batch: B.
        heads: N.
        head_dim: D.
        dtype: of keys and values.
    """
    one = memory.init(None, head_dim, config=config, dtype=dtype)

    def every(x: Array) -> Array:
        return jnp.broadcast_to(x, (batch, heads, *x.shape))

    near, far = jax.tree.map(every, (one.near, one.far))
    return memory.Memory(one.count, near, far, config)


def over_heads(
    one: Callable[..., tuple[Array, memory.Memory]], held: memory.Memory, *given: Array
) -> tuple[Array, memory.Memory]:
    """one(memory, *arrays) -> (y, memory) of all heads of a batch.

    The count is common to them, and so the branch that a full block takes stays a branch.

    Args:
        one: takes T tokens of one head.
        held: from `init` or an earlier call.
        given: (B, N, T, ...) each, or (N,) what a head has for all sequences.

    Returns:
        (B, N, ...) and the new memory.
    """

    def run(near: Any, far: Any, *given: Array) -> tuple[Array, Any, Any]:
        y, new = one(memory.Memory(held.count, near, far, held.config), *given)
        return y, new.near, new.far

    common = [None if x.ndim == 1 else 0 for x in given]
    y, near, far = jax.vmap(jax.vmap(run), (0, 0, *common))(held.near, held.far, *given)
    return y, memory.Memory(held.count + given[0].shape[2], near, far, held.config)


def apply(
    params: Params,
    x: Float[Array, "B T W"],
    score: Float[Array, "B T N"],
    *,
    config: memory.Config,
    rotary_base: float = 1000.0,
) -> Float[Array, "B T W"]:
    """Attention of a whole sequence through a memory: the same numbers as `extend` token by token.

    Args:
        params: of `nn.attention.init`.
        x: (B, T, W).
        score: (B, T, N) in [0, 1], as `nn.attention.score` makes it.
        config: the sizes of one head's memory.
        rotary_base: as in `layers.rotary`.

    Returns:
        (B, T, W). Its gradient reaches the score.
    """
    query, key, value, mass, threshold = _heads_first(params, x, score, 0, rotary_base)

    def head(query, key, value, mass, threshold):
        return memory.attention(
            query,
            key,
            value,
            mass,
            config=config,
            threshold=threshold,
            rotate=rotation(rotary_base),
        )

    y = jax.vmap(jax.vmap(head), (0, 0, 0, 0, None))(query, key, value, mass, threshold)
    return linear(jnp.swapaxes(y, 1, 2).reshape(*x.shape[:-1], -1), params["out"])


def extend(
    params: Params,
    x: Float[Array, "B T W"],
    score: Float[Array, "B T N"],
    held: memory.Memory,
    *,
    rotary_base: float = 1000.0,
) -> tuple[Float[Array, "B T W"], memory.Memory]:
    """Attention of tokens behind those in a memory, and the memory with them.

    Args:
        params: of `nn.attention.init`.
        x: (B, T, W).
        score: (B, T, N), as in `apply`.
        held: from `init` or an earlier call.
        rotary_base: as in `layers.rotary`.

    Returns:
        (B, T, W) and the new memory.
    """
    parts = _heads_first(params, x, score, held.count, rotary_base)

    def head(held, query, key, value, mass, threshold):
        return memory.decode(
            query, held, key, value, mass, threshold=threshold, rotate=rotation(rotary_base)
        )

    y, held = over_heads(head, held, *parts)
    return linear(jnp.swapaxes(y, 1, 2).reshape(*x.shape[:-1], -1), params["out"]), held


def share(config: memory.Config, time: int) -> float:
    """Entries that a memory has room for, or the tokens so far, as a share of all causal pairs."""
    rows = config.sinks + config.ring + config.landmarks + config.slots
    short = min(time, rows)
    return (short * (short + 1) / 2 + (time - short) * rows) / (time * (time + 1) / 2)


def rotation(base: float) -> Callable[[Array, Array], Array]:
    """`layers.rotary` of keys (m, D) at the tokens nearest to their positions (m,)."""

    def rotate(key: Array, position: Array) -> Array:
        token = jnp.round(position).astype(jnp.int32)
        return rotary(key[:, None], token, base=base)[:, 0]

    return rotate


def _heads_first(params, x, score, start, rotary_base) -> tuple[Array, ...]:
    """Rotated queries, keys that are not, values (B, N, T, D), masses (B, N, T), threshold (N,)."""
    still = jnp.zeros((x.shape[1],), jnp.int32)
    parts = attention.project(params, x, still, rotary_base=rotary_base)
    position = start + jnp.arange(x.shape[1], dtype=jnp.int32)
    query = rotary(parts.query, position, base=rotary_base)
    mass = jnp.maximum(score, LEAST_MASS)
    heads = (jnp.swapaxes(part, 1, 2) for part in (query, parts.key, parts.value, mass))
    return (*heads, params["threshold"])
