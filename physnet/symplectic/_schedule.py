"""Which drifts and kicks make one step, and what one of them does."""

from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import _checks

Scheme: TypeAlias = Literal["drift-kick-drift", "kick-drift-kick"]
Stage: TypeAlias = tuple[Literal["drift", "kick"], float]


def stages(scheme: str, order: int) -> tuple[Stage, ...]:
    """The palindrome of one step: ("drift" or "kick", its share of the step size), ...

    Order 4 composes three steps of shares w, 1 - 2w, w with w = 1/(2 - 2^(1/3)). Drifts that meet
    are one; kicks stay apart, as two with friction are no kick of the sum.
    """
    _checks.one_of("scheme", scheme, ("drift-kick-drift", "kick-drift-kick"))
    _checks.one_of("order", order, (2, 4))
    outer, inner, _ = scheme.split("-")
    w = 1 / (2 - 2 ** (1 / 3))
    shares = (1.0,) if order == 2 else (w, 1 - 2 * w, w)
    found: list[Any] = []
    for share in shares:
        first = (outer, share / 2)
        if found and outer == "drift":
            first = (outer, share / 2 + found.pop()[1])
        found += [first, (inner, share), (outer, share / 2)]
    return tuple(found)


def drift(position: Any, momentum: Any, share: Float[Array, ""]) -> Any:
    """q + share p, `share` being the stage's share of the step size."""
    return jax.tree.map(lambda q, p: q + share.astype(q.dtype) * p, position, momentum)


def kick(
    momentum: Any, pull: Any, share: Float[Array, ""], friction: Float[Array, ""] | None
) -> Any:
    """c p + c^(1/2) share F with c = exp(-friction share): its inverse is that of -share."""
    if friction is None:
        return drift(momentum, pull, share)
    half = -friction.astype(share.dtype) * share / 2

    def each(p, f):
        c, root = (jnp.exp(x).astype(p.dtype) for x in (2 * half, half))
        return c * p + root * share.astype(p.dtype) * f

    return jax.tree.map(each, momentum, pull)
