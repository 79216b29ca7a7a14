"""What happens when a block leaves the window: landmarks are chosen anew, all else merges.

Shapes: B tokens of a block, K landmarks, C slots, F = K + C; d and e channels.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from physnet.holography.memory import _counter, _packing
from physnet.holography.memory._assign import shares
from physnet.holography.memory._config import Config
from physnet.holography.memory._landmarks import priorities, sort
from physnet.holography.memory._state import Far, PackedFar

EXACT = lax.Precision.HIGHEST


class Tokens(NamedTuple):
    """Some tokens."""

    key: Float[Array, "B d"]
    value: Float[Array, "B e"]
    mass: Float[Array, " B"]
    position: Float[Array, " B"]


class Plan(NamedTuple):
    """What the binary counter does when the block comes: `_counter.moves`, `_counter.spans`."""

    first: Int[Array, " C"]
    second: Int[Array, " C"]
    start: Int[Array, " C"]
    stop: Int[Array, " C"]


def plan_of(config: Config, n: Any) -> Plan:
    """The plan of the step that makes n blocks (*n)."""
    first, second = _counter.moves(config, n)
    start, stop = _counter.spans(config, n)
    return Plan(first, second, start, stop)


class Merged(NamedTuple):
    """The slots after a block has left, before they are stored."""

    far: Far  # (C, ...) in the dtype of masses
    source: Int[Array, " C"]  # the old slot of which it is a copy; -1 for none


def merge(config: Config, slots: Far, tokens: Tokens, plan: Plan) -> Merged:
    """Slots (C, ...) as numbers move up the binary counter, and tokens join them."""
    wide = slots.mass.dtype

    def old(index: Array) -> Far:
        there = index >= 0
        found = jax.tree.map(lambda x: x[jnp.maximum(index, 0)].astype(wide), slots)
        return found._replace(mass=jnp.where(there, found.mass, 0))

    one, two = old(plan.first), old(plan.second)
    start, stop = ((edge * config.block).astype(wide) for edge in plan[2:])
    part = shares(config, lax.stop_gradient(tokens.position), start, stop)
    weights = jnp.concatenate(
        [one.mass[:, None], two.mass[:, None], part * tokens.mass[None].astype(wide)], 1
    )
    present = weights > 0
    alone = jnp.sum(present, 1, dtype=jnp.int32) == 1
    total = jnp.sum(weights, 1)
    # What is alone has weight 1 to the bit, and no gradient of m / m.
    mean = weights / jnp.where(total > 0, total, 1)[:, None]
    weight = jnp.where(alone[:, None], present.astype(wide), mean)

    def means(one: Array, two: Array, new: Array) -> Array:
        joined = jnp.matmul(weight[:, 2:], new.astype(wide), precision=EXACT)
        shape = (-1, *(1,) * (one.ndim - 1))
        return weight[:, 0].reshape(shape) * one + weight[:, 1].reshape(shape) * two + joined

    far = Far(
        means(one.key, two.key, tokens.key),
        means(one.value, two.value, tokens.value),
        total,
        means(one.position, two.position, tokens.position),
    )
    source = jnp.where(present[:, 0], plan.first, plan.second)
    return Merged(far, jnp.where(alone & jnp.any(present[:, :2], 1), source, -1))


def stored(config: Config, merged: Merged, dtype: Any) -> Far:
    """The slots that a memory would give back, differentiable: quantised or in its dtype."""
    bits, far = config.bits, merged.far
    if bits is None:
        return far._replace(key=far.key.astype(dtype), value=far.value.astype(dtype))
    copied = (merged.source >= 0)[:, None]

    def kept(x: Array) -> Array:
        return jnp.where(copied, x, _packing.rounded(x, bits))

    return far._replace(key=kept(far.key), value=kept(far.value))


def leave(
    config: Config,
    far: Far | PackedFar,
    block: Tokens,
    plan: Plan,
    threshold: Float[Array, ""],
    dtype: Any,
) -> Far | PackedFar:
    """The landmarks and slots after a block has left the window.

    Args:
        config: the sizes.
        far: before.
        block: its tokens, in their order.
        plan: of this step.
        threshold: no token with a mass up to this becomes a landmark.
        dtype: of keys and values that are not quantised.
    """
    count, bits = config.landmarks, config.bits
    block = jax.tree.map(lambda x: x[::-1], block)
    mass = jnp.concatenate([block.mass, far.mass[:count]])
    position = jnp.concatenate([block.position, far.position[:count]])
    new = jnp.arange(len(mass)) < len(block.mass)  # those that are landmarks passed it before
    able = priorities(config, mass, position, jnp.where(new, threshold, 0))
    chosen = sort(config, able)

    def at(index: Array, there: Array, x: Array) -> Array:
        shape = (-1, *(1,) * (x.ndim - 1))
        return jnp.where(there.reshape(shape), x[index], jnp.zeros((), x.dtype))

    dropping = chosen.dropped < len(mass)
    place = jnp.minimum(chosen.dropped, len(mass) - 1)

    def parts(name: str) -> tuple[Any, Array, Any]:
        """Landmarks, what is dropped, and old slots, of keys or values."""
        new, old = getattr(block, name), getattr(far, name)
        if bits is None:
            every = jnp.concatenate([new.astype(dtype), old[:count]])
            return at(chosen.landmark, chosen.taken, every), at(place, dropping, every), old[count:]
        codes = jax.tree.map(
            lambda new, old: jnp.concatenate([new, old[:count]]),
            _packing.pack(new.astype(mass.dtype), bits),
            old,
        )
        landmarks = jax.tree.map(lambda x: at(chosen.landmark, chosen.taken, x), codes)
        opened = _packing.unpack(jax.tree.map(lambda x: x[:count], old), bits, mass.dtype)
        every = jnp.concatenate([new.astype(mass.dtype), opened])
        return landmarks, at(place, dropping, every), jax.tree.map(lambda x: x[count:], old)

    (keys, key, old_keys), (values, value, old_values) = parts("key"), parts("value")
    tokens = Tokens(key, value, at(place, dropping, mass), at(place, dropping, position))
    slots = Far(old_keys, old_values, far.mass[count:], far.position[count:])
    if bits is not None:
        opened = [_packing.unpack(x, bits, mass.dtype) for x in (old_keys, old_values)]
        slots = slots._replace(key=opened[0], value=opened[1])
    merged = merge(config, slots, tokens, plan) if config.slots else Merged(slots, plan.first)

    def join(landmarks: Any, slots: Any) -> Any:
        return jax.tree.map(lambda x, y: jnp.concatenate([x, y]), landmarks, slots)

    rest = (
        join(at(chosen.landmark, chosen.taken, mass), merged.far.mass),
        join(at(chosen.landmark, chosen.taken, position), merged.far.position),
    )
    if bits is None:
        slots = stored(config, merged, dtype)
        return Far(join(keys, slots.key), join(values, slots.value), *rest)

    def codes(x: Array, old: _packing.Packed) -> _packing.Packed:
        """Of a slot that stays as it was they are not computed anew."""

        def choose(new: Array, old: Array) -> Array:
            copied = (merged.source >= 0).reshape(-1, *(1,) * (new.ndim - 1))
            return jnp.where(copied, old[jnp.maximum(merged.source, 0)], new)

        return jax.tree.map(choose, _packing.pack(x, bits), old) if len(x) else old

    own = codes(merged.far.key, old_keys), codes(merged.far.value, old_values)
    return PackedFar(join(keys, own[0]), join(values, own[1]), *rest)
