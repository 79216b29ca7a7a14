"""Tokens come to a memory.

Shapes: n tokens, d and e channels of keys and values.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks, _varying
from physnet.holography.memory._leave import Tokens, leave, plan_of
from physnet.holography.memory._state import Far, Memory, Near, PackedFar

HEAVIEST = 1e9


def masses(score: Array | None, count: int, dtype: Any) -> Float[Array, " n"]:
    """Scores as masses: 1 without, 0 for NaN and negative ones, at most 1e9."""
    if score is None:
        return jnp.ones((count,), dtype)
    score = score.astype(dtype)
    return jnp.where(score > 0, jnp.minimum(score, HEAVIEST), jnp.zeros((), dtype))


def present(mass: Array, x: Array) -> Array:
    """Rows x (n, ...), 0 for tokens of mass 0: means multiply them by 0, and they may be NaN."""
    return jnp.where((mass > 0)[:, None], x, jnp.zeros((), x.dtype))


def gate(threshold: ArrayLike | None, dtype: Any) -> Float[Array, ""]:
    """A threshold as one number; None lets every token pass."""
    one = _checks.one_number("threshold", 0.0 if threshold is None else threshold, dtype)
    return lax.stop_gradient(one)


def append(
    memory: Memory,
    key: Float[Array, " d"],
    value: Float[Array, " e"],
    score: Float[Array, ""] | None = None,
    *,
    threshold: ArrayLike | None = None,
) -> Memory:
    """The memory with one token more.

    Args:
        memory: of one head of one sequence.
        key: (d,), before rotary positions.
        value: (e,).
        score: the token's mass, in (0, 1] as `scattering.score` makes it; None for 1. A token of
            mass 0, or NaN, or negative, is never seen. Above 1e9 counts as that.
        threshold: a token with a score up to this, as it leaves the window, never becomes a
            landmark: it goes from there straight to the levels. None for no threshold.

    Returns:
        A `Memory` of the same size. Where a key or value is not finite and its mass not 0,
        attention is NaN from then on, as it would be over all tokens.

    Raises:
        ValueError: other shapes than the memory's.
        TypeError: not real floating-point numbers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.holography import memory
        >>> held = jax.jit(memory.append)(memory.init(8_192, 4), jnp.ones(4), jnp.arange(4.0))
        >>> print(jax.jit(memory.attend)(jnp.ones(4), held))
        [0. 1. 2. 3.]
    """
    _checks.instance("memory", memory, Memory)
    one = None if score is None else _checks.real("score", score)
    if one is not None and one.size != 1:
        raise ValueError(f"score must be one number, got shape {one.shape}")
    one = None if one is None else one.reshape(1)
    key, value = _checks.real("key", key), _checks.real("value", value)
    checked("key", key, (memory.near.key.shape[1],))
    checked("value", value, (memory.near.value.shape[1],))
    return _appended(memory, key[None], value[None], one, threshold)


def extend(
    memory: Memory,
    keys: Float[Array, "n d"],
    values: Float[Array, "n e"],
    scores: Float[Array, " n"] | None = None,
    *,
    threshold: ArrayLike | None = None,
) -> Memory:
    """The memory with n tokens more: the same as n times `append`, a block at a time.

    Args:
        memory: of one head of one sequence.
        keys: (n, d).
        values: (n, e).
        scores: (n,), as in `append`.
        threshold: as in `append`.

    Returns:
        A `Memory` of the same size.

    Raises:
        ValueError, TypeError: as `append`.

    Example:
        >>> import jax.numpy as jnp
        >>> from physnet.holography import memory
        >>> held = memory.extend(memory.init(8_192, 4), jnp.ones((100, 4)), jnp.ones((100, 4)))
        >>> int(held.count), float(memory.slots(held).mass.sum())
        (100, 100.0)
    """
    keys, values, scores = tokens_of(memory, keys, values, scores)
    return _extended(memory, keys, values, scores, threshold)


@jax.jit
def _extended(memory: Memory, keys, values, scores, threshold) -> Memory:
    def step(memory: Memory, piece: Any) -> tuple[Memory, None]:
        return add(memory, *piece, threshold=threshold), None

    return by_blocks(step, memory, (keys, values, scores))[0]


def by_blocks(step: Any, memory: Memory, given: Any) -> tuple[Memory, list[Any]]:
    """step(memory, piece) -> (memory, y) over pieces of a block and the rest: the y of both."""
    block = memory.config.block
    count = len(jax.tree.leaves(given)[0])
    whole, found = count // block * block, []
    memory = varying(memory, given)
    if whole:
        pieces = jax.tree.map(lambda x: x[:whole].reshape(-1, block, *x.shape[1:]), given)
        memory, y = lax.scan(step, memory, pieces)
        found.append(jax.tree.map(lambda x: x.reshape(whole, *x.shape[2:]), y))
    if count > whole:
        memory, y = step(memory, jax.tree.map(lambda x: x[whole:], given))
        found.append(y)
    return memory, found


def varying(memory: Memory, given: Any) -> Memory:
    """The memory, its entries varying over the axes of a `shard_map` over which tokens do."""
    near, far = _varying.alike((memory.near, memory.far), given)
    return Memory(memory.count, near, far, memory.config)


def tokens_of(memory: Memory, keys: Any, values: Any, scores: Any) -> tuple[Any, Any, Any]:
    """Several tokens for a memory, or an error that says what is wrong with them."""
    _checks.instance("memory", memory, Memory)
    keys, values = _checks.real("keys", keys), _checks.real("values", values)
    count = keys.shape[0] if keys.ndim else 0
    checked("keys", keys, (count, memory.near.key.shape[1]))
    checked("values", values, (count, memory.near.value.shape[1]))
    if scores is not None:
        scores = _checks.real("scores", scores)
        checked("scores", scores, (count,))
    return keys, values, scores


def checked(name: str, array: Array, shape: tuple[int, ...]) -> None:
    """Raise for another shape."""
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape} of the memory, got {array.shape}")


def add(memory: Memory, keys, values, scores, threshold) -> Memory:
    """Up to a block of tokens: no more than one block leaves."""
    memory = varying(memory, (keys, values, scores, threshold))
    config, near, count = memory.config, memory.near, memory.count
    mass = masses(scores, len(keys), near.mass.dtype)
    new = Near(present(mass, keys), present(mass, values), mass)
    token = count + jnp.arange(len(keys), dtype=jnp.int32)
    row = jnp.where(token < config.sinks, token, config.sinks + token % config.ring)

    def write(near: Near, row: Array) -> Near:
        return jax.tree.map(
            lambda old, x: old.at[row].set(x.astype(old.dtype), mode="drop"), near, new
        )

    edge = next_block(memory)
    full = (edge < count + len(keys)) & (edge >= config.ring)
    if not config.window and len(keys) > 1:  # the first of these tokens are in the block that goes
        spare = config.sinks + config.ring
        near = write(near, jnp.where(token < edge, row, spare))
    far = lax.cond(
        full,
        lambda: _left(memory, near, edge, gate(threshold, near.mass.dtype)),
        lambda: memory.far,
    )
    return Memory(count + len(keys), write(near, row), far, config)


_appended = jax.jit(add)  # compiled once, also where a loop in Python calls it


def next_block(memory: Memory) -> Array:
    """The first token of the block that begins with the next token or after it."""
    block = memory.config.block
    return (memory.count + block - 1) // block * block


def _left(memory: Memory, near: Near, edge: Array, threshold: Array) -> Far | PackedFar:
    """The far entries when the block is gone in whose rows token `edge` begins another."""
    config = memory.config
    begin = config.sinks + edge % config.ring
    key, value, mass = (lax.dynamic_slice_in_dim(part, begin, config.block) for part in near)
    position = edge - config.ring + jnp.arange(config.block, dtype=jnp.int32)
    block = Tokens(key, value, mass, position.astype(mass.dtype))
    n = (edge - config.ring) // config.block + 1
    plan = plan_of(config, n)
    return leave(config, memory.far, block, plan, threshold, near.key.dtype)
