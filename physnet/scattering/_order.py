"""Tokens in the order of (class, position), each class padded to whole blocks."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Int

from physnet import _checks

NO_TOKEN = np.int32(2**31 - 1)  # the position of a slot that holds no token


def block_count(length: int, *, block_size: int, classes: int) -> int:
    """Blocks that always suffice for `length` tokens in `classes` classes."""
    return (length + classes * (block_size - 1)) // block_size


def block_order(
    token_class: Int[Array, "*#b T"],
    position: Int[Array, "*#b T"] | np.ndarray,
    *,
    block_size: int,
    classes: int,
) -> Int[Array, "*c slots"]:
    """Which token each slot holds when tokens are ordered by (class, position).

    Every class starts with a block of its own, so a token's place within its block depends on
    the earlier tokens of its class alone.

    Args:
        token_class: (..., T), in 0..classes-1.
        position: (..., T); equal positions keep the order given.
        block_size: Slots of a block. Static.
        classes: Number of classes. Static.

    Returns:
        (..., slots), indices 0..T-1, T where a slot is empty; slots is `block_size` times
        (T + classes (block_size - 1)) // block_size.

    Raises:
        ValueError: Shapes that do not fit.

    Example:
        >>> import jax.numpy as jnp
        >>> c = jnp.array([1, 0, 1, 1])
        >>> block_order(c, jnp.arange(4), block_size=2, classes=2).tolist()
        [1, 4, 0, 2, 3, 4]
    """
    size = _checks.positive_int("block_size", block_size)
    classes = _checks.positive_int("classes", classes)
    token_class = _checks.at_least_1d("token_class", _checks.integer("token_class", token_class))
    if not isinstance(position, np.ndarray):  # one that is known may be in order
        position = _checks.integer("position", position)
    if np.ndim(position) < 1:
        raise ValueError("position must have at least one axis, got a scalar")
    length = token_class.shape[-1]
    if position.shape[-1] not in (length, 1):
        raise ValueError(f"position must have {length} tokens, got shape {position.shape}")
    batch = _checks.broadcast(token_class=token_class.shape, position=position.shape)[:-1]
    token_class = jnp.broadcast_to(token_class.astype(jnp.int32), (*batch, length))
    slots = size * block_count(length, block_size=size, classes=classes)
    if classes == 1 and _is_arange(position):
        filled = jnp.minimum(jnp.arange(slots), length)
        return jnp.broadcast_to(filled.astype(jnp.int32), (*batch, slots))
    token = jnp.broadcast_to(jnp.arange(length, dtype=jnp.int32), token_class.shape)
    token = token + jnp.zeros_like(token_class)  # of the same type in shard_map
    if _is_arange(position) and classes * length < 2**31:
        code = lax.sort(token_class * length + token, dimension=-1)  # one key: a radix sort on GPUs
        ordered, token = code // length, code % length
    else:
        position = jnp.broadcast_to(jnp.asarray(position, jnp.int32), (*batch, length))
        ordered, _, token = lax.sort((token_class, position, token), dimension=-1, num_keys=3)
    members = ordered[..., :, None] == jnp.arange(classes, dtype=jnp.int32).reshape(
        (1,) * ordered.ndim + (classes,)
    )
    count = jnp.sum(members, axis=-2, dtype=jnp.int32)
    before = jnp.cumsum(count, axis=-1) - count
    blocks = (count + size - 1) // size
    start = size * (jnp.cumsum(blocks, axis=-1) - blocks)
    shift = jnp.take_along_axis(start - before, ordered, axis=-1)
    slot = jnp.arange(length, dtype=jnp.int32).reshape((1,) * (shift.ndim - 1) + (-1,)) + shift
    empty = jnp.full((*token.shape[:-1], slots), length, jnp.int32)
    return jnp.put_along_axis(empty, slot, token, axis=-1, inplace=False)


def _is_arange(position: Any) -> bool:
    known = _checks.concrete(position)
    return known is not None and bool((known == np.arange(known.shape[-1])).all())
