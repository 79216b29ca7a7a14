"""Which tokens are landmarks: when a block leaves, and of a whole sequence from masses alone.

Shapes: p tokens in blocks of B, N steps, K landmarks, n = B + K. In step i block i leaves.
"""

from typing import Any, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from physnet import _varying
from physnet.holography.memory._config import Config


def priorities(
    config: Config,
    mass: Float[Array, "*n"],
    position: Float[Array, "*n"],
    threshold: Float[Array, "..."],
) -> Float[Array, "*n"]:
    """By which landmarks are chosen; -inf for what can be none.

    With `recency` what newer tokens have ahead of older ones never changes: no order does.
    """
    able = (mass > threshold) & (mass > 0)
    worth = mass
    if config.recency is not None:
        worth = jnp.log(jnp.where(able, mass, 1)) + position / config.recency
    return lax.stop_gradient(jnp.where(able, worth, -jnp.inf))


class Sorted(NamedTuple):
    """Places among the tokens of a block, from the newest on, and the landmarks before."""

    landmark: Int[Array, " K"]
    taken: Bool[Array, " K"]
    dropped: Int[Array, " B"]  # all that become no landmark; more than there are: B + K


def sort(config: Config, priority: Float[Array, " n"]) -> Sorted:
    """Which of n = B + K become landmarks: those of the highest priority, of equal ones the newest.

    What is no landmark afterwards is at most a block: others have only made way for newer ones.
    """
    count = config.landmarks
    best, order = lax.top_k(priority, len(priority))
    order, taken = order.astype(jnp.int32), best[:count] > -jnp.inf
    spare = jnp.full((config.block,), len(priority), jnp.int32)
    begin = jnp.sum(taken, dtype=jnp.int32)
    dropped = lax.dynamic_slice_in_dim(jnp.concatenate([order, spare]), begin, config.block)
    return Sorted(order[:count], taken, dropped)


class History(NamedTuple):
    """Tokens by their numbers, -1 for none."""

    landmark: Int[Array, "N K"]  # after each step, from the highest priority on
    dropped: Int[Array, "N B"]  # to the levels, in each step


def history(
    config: Config, mass: Float[Array, " p"], threshold: Float[Array, ""], steps: int
) -> History:
    """Step by step, without keys and values.

    Args:
        config: the sizes.
        mass: of the tokens, at least `steps` blocks of them.
        threshold: as in `leave`.
        steps: N.
    """
    block, count = config.block, config.landmarks
    priority = priorities(config, mass, jnp.arange(len(mass), dtype=mass.dtype), threshold)
    newest = jnp.arange(block, dtype=jnp.int32)[::-1]

    def step(before: Any, i: Array) -> tuple[Any, History]:
        held, tokens = before
        new = i * block + newest
        every = jnp.concatenate([priority[new], held])
        numbers = jnp.concatenate([new, tokens])
        chosen = sort(config, every)
        landmark = jnp.where(chosen.taken, numbers[chosen.landmark], -1)
        held = jnp.where(chosen.taken, every[chosen.landmark], -jnp.inf)
        place = jnp.minimum(chosen.dropped, len(every) - 1)
        dropped = jnp.where(chosen.dropped < len(every), numbers[place], -1)
        return (held, landmark), History(landmark, dropped)

    none = jnp.full((count,), -jnp.inf, mass.dtype), jnp.full((count,), -1, jnp.int32)
    none = _varying.alike(none, priority)
    return lax.scan(step, none, jnp.arange(steps, dtype=jnp.int32))[1]
