"""A memory as a pytree: what was kept as it came, and what stands for the rest.

Shapes: d and e channels of keys and values; S sinks, R rows of the ring, F = landmarks + slots.
"""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet._dtypes import accurate
from physnet.holography.memory import _packing
from physnet.holography.memory._config import Config, configure
from physnet.holography.memory._packing import Packed

WINDOW, LANDMARK, SINK = -1, -2, -3  # in the place of a level


class Near(NamedTuple):
    """Tokens as they came: S sinks, then token t in row S + t mod R."""

    key: Float[Array, "rows d"]
    value: Float[Array, "rows e"]
    mass: Float[Array, " rows"]


class Far(NamedTuple):
    """Landmarks, from the highest score on, then the slots of the levels, level 0 first."""

    key: Float[Array, "F d"]
    value: Float[Array, "F e"]
    mass: Float[Array, " F"]
    position: Float[Array, " F"]


class PackedFar(NamedTuple):
    """`Far` in few bits."""

    key: Packed
    value: Packed
    mass: Float[Array, " F"]
    position: Float[Array, " F"]


class Slots(NamedTuple):
    """All entries of a memory; those of mass 0 are empty.

    Attributes:
        key: (n, d), mean of the keys for which an entry stands, weighted by their masses.
        value: (n, e), the same of the values.
        position: (n,), the same of the positions.
        mass: (n,), the sum of the masses.
        level: (n,) the level of a slot; -1 in the window, -2 for a landmark, -3 for a sink.
    """

    key: Float[Array, "n d"]
    value: Float[Array, "n e"]
    position: Float[Array, " n"]
    mass: Float[Array, " n"]
    level: Int[Array, " n"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Memory:
    """One head's memory of one sequence; `vmap` gives batches and heads.

    Attributes:
        count: Tokens so far, int32.
        near: The tokens of the window and the sinks.
        far: What stands for the others.
        config: The sizes, static.
    """

    count: Any  # with batches, and without arrays in `jax.eval_shape`, no int32[]
    near: Near
    far: Far | PackedFar
    config: Config = dataclasses.field(metadata={"static": True})

    @property
    def nbytes(self) -> int:
        """Bytes of all leaves."""
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))


def init(
    budget_bytes: int | None,
    head_dim: int,
    *,
    value_dim: int | None = None,
    dtype: Any = jnp.float32,
    bits: Literal[8, 4, 2] | None = None,
    config: Config | None = None,
) -> Memory:
    """An empty memory of one head of one sequence.

    Args:
        budget_bytes: the most that all its arrays may take; None for whatever `config` takes.
        head_dim: d, channels of a key.
        value_dim: channels of a value; None for d.
        dtype: of the keys and values that are kept as they came.
        bits: as in `Config`, of the sizes that are found.
        config: the sizes; None for those that `configure` finds.

    Returns:
        A `Memory` without tokens. Attention over it is 0.

    Raises:
        ValueError: the budget is too small, or both it and the config are None.

    Example:
        >>> memory = init(32_768, 32)
        >>> memory.nbytes <= 32_768, int(memory.count)
        (True, 0)
    """
    _checks.positive_int("head_dim", head_dim)
    value_dim = head_dim if value_dim is None else _checks.positive_int("value_dim", value_dim)
    if config is None:
        if budget_bytes is None:
            raise ValueError("budget_bytes must be given where config is None")
        config = configure(budget_bytes, head_dim, value_dim=value_dim, dtype=dtype, bits=bits)
    elif bits not in (None, config.bits):
        raise ValueError(f"bits must be None or those of config, {config.bits}, got {bits}")
    needed = config.nbytes(head_dim, value_dim=value_dim, dtype=dtype)
    if budget_bytes is not None and needed > budget_bytes:
        raise ValueError(f"budget_bytes must be at least {needed} for {config}, got {budget_bytes}")
    rows, far = config.sinks + config.ring, config.landmarks + config.slots
    near = Near(
        jnp.zeros((rows, head_dim), dtype),
        jnp.zeros((rows, value_dim), dtype),
        jnp.zeros((rows,), accurate(dtype)),
    )
    nothing, dims = jnp.zeros((far,), accurate(dtype)), (head_dim, value_dim)
    if config.bits is None:
        zeros = (jnp.zeros((far, channels), dtype) for channels in dims)
        entries = Far(*zeros, mass=nothing, position=nothing)
    else:
        zeros = (_packing.empty(far, channels, config.bits) for channels in dims)
        entries = PackedFar(*zeros, mass=nothing, position=nothing)
    return Memory(jnp.zeros((), jnp.int32), near, entries, config)


def opened(memory: Memory) -> Far:
    """The far entries as numbers."""
    bits, far = memory.config.bits, memory.far
    if isinstance(far, Far):
        return far
    assert bits is not None
    key, value = (_packing.unpack(part, bits, far.mass.dtype) for part in (far.key, far.value))
    return Far(key, value, far.mass, far.position)


def ring_positions(memory: Memory) -> Int[Array, " R"]:
    """The token in each row of the ring; negative for one that is none, or that has left."""
    config = memory.config
    last = memory.count - 1
    rows = jnp.arange(config.ring, dtype=jnp.int32)
    position = last - jnp.mod(last - rows, config.ring)
    first = last // config.block * config.block - config.window
    return jnp.where(position >= first, position, -1)


def slots(memory: Memory) -> Slots:
    """Every entry of a memory: sinks, landmarks, slots of the levels, window.

    Args:
        memory: of one head (no batch axes).

    Returns:
        `Slots`. The sums over them of mass, mass * key, mass * value and mass * position are those
        over all tokens so far, as long as nothing was quantised or forgotten.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.holography import memory
        >>> small = memory.Config(window=2, block=2, sinks=1, landmarks=0, per_level=2, levels=3)
        >>> x = jnp.zeros((14, 2))
        >>> held = jax.jit(memory.extend)(memory.init(None, 2, config=small), x, x)
        >>> found = jax.jit(memory.slots)(held)
        >>> there = found.mass > 0
        >>> print(found.level[there], found.position[there])
        [-3  0  1  1 -1 -1 -1 -1] [ 0.   8.5  2.   5.5 12.  13.  10.  11. ]
    """
    _checks.instance("memory", memory, Memory)
    config, near = memory.config, memory.near
    far = opened(memory)
    dtype = near.key.dtype
    token = ring_positions(memory)
    mass = jnp.where(token >= 0, near.mass[config.sinks :], 0)
    sink = jnp.arange(config.sinks, dtype=jnp.int32)

    def level(value: int, count: int) -> jax.Array:
        return jnp.full((count,), value, jnp.int32)

    def join(first: Array, second: Array, third: Array) -> Array:
        return jnp.concatenate([first, second, third])

    own = jnp.repeat(jnp.arange(config.levels, dtype=jnp.int32), config.per_level)
    return Slots(
        join(near.key[: config.sinks], far.key.astype(dtype), near.key[config.sinks :]),
        join(near.value[: config.sinks], far.value.astype(dtype), near.value[config.sinks :]),
        join(*(part.astype(far.position.dtype) for part in (sink, far.position, token))),
        join(near.mass[: config.sinks], far.mass, mass),
        jnp.concatenate(
            [
                level(SINK, config.sinks),
                level(LANDMARK, config.landmarks),
                own,
                level(WINDOW, config.ring),
            ]
        ),
    )
