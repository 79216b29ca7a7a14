"""How evenly tokens spread over experts."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Integer

from physnet import _checks
from physnet.moe import _arguments


class Load(NamedTuple):
    """Loads of E experts.

    Attributes:
        count: (E,) int32: assignments of each expert, dropped ones included.
        effective: exp of the entropy of the shares, 1..E: how many experts are in use.
        imbalance: the largest load over the mean one, 1..E.
        dropped: the share of assignments without an output, 0..1; 0 where none is dropped.
    """

    count: Any
    effective: Any
    imbalance: Any
    dropped: Any


def load(expert: Integer[Array, "..."], *, experts: int) -> Load:
    """Loads of the experts that a routing names.

    Args:
        expert: `Routing.expert`, of any shape; numbers outside 0..experts-1 count as dropped.
        experts: E. Static.

    Returns:
        A `Load`. Without any assignment effective, imbalance and dropped are 0.

    Raises:
        TypeError: Experts that are not integers.

    Example:
        >>> import jax.numpy as jnp
        >>> even = load(jnp.array([0, 1, 2, 3]), experts=4)
        >>> print(f"{even.effective:.2f} {even.imbalance:.2f}")
        4.00 1.00
        >>> skew = load(jnp.array([0, 0, 0, 1]), experts=4)
        >>> print(f"{skew.effective:.2f} {skew.imbalance:.2f}")
        1.75 3.00
    """
    expert = _arguments.numbers("expert", expert)
    experts = _checks.positive_int("experts", experts)
    flat = expert.reshape(-1)
    valid = (flat >= 0) & (flat < experts)
    key = jnp.where(valid, flat, experts).astype(jnp.int32)
    count = jnp.zeros(experts + 1, jnp.int32).at[key].add(1)[:-1]
    return of_counts(count, jnp.sum(valid, dtype=jnp.int32), flat.shape[0])


def of_counts(count: jax.Array, kept: jax.Array, assignments: int) -> Load:
    """`Load` of these counts, where `kept` of all assignments have an output."""
    loads = count.astype(jnp.float32)
    total = jnp.maximum(jnp.sum(loads), 1)
    share = loads / total
    entropy = -jnp.sum(jnp.where(share > 0, share * jnp.log(jnp.where(share > 0, share, 1)), 0))
    some = jnp.sum(loads) > 0
    return Load(
        count,
        jnp.where(some, jnp.exp(entropy), 0),
        jnp.max(loads) * len(loads) / total,
        1 - kept.astype(jnp.float32) / assignments if assignments else jnp.float32(0),
    )
