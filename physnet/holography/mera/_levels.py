"""What a MERA consists of, and what it makes of a signal."""

import dataclasses
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import _checks

Boundary = Literal["open", "periodic"]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Level:
    """One level of a MERA, a pytree of two stacks of matrices with orthonormal columns.

    Of d features a site below and d' above. Without the axis P all places share one matrix; with
    it each pair of sites has its own.

    Attributes:
        disentanglers: (L, [P,] 2d, 2d), orthogonal: layers of them, the first applied first.
        isometry: ([P,] 2d, k), d' <= k <= 2d: the first d' columns lead to the level above, the
            others to its details.
        up: d'. Static.
    """

    disentanglers: Any
    isometry: Any
    up: int = dataclasses.field(metadata={"static": True})


class Bulk(NamedTuple):
    """A signal by scales.

    Attributes:
        top: (..., n, d) of the last level.
        details: One (..., n, k - d') a level, the finest first.
    """

    top: Float[Array, "*b n d"]
    details: tuple[Float[Array, "*b _ _"] | None, ...]


def dimension(level: Level) -> int:
    """d, the features of a site below this level."""
    return level.isometry.shape[-2] // 2


def check(levels: Any, boundary: Boundary) -> tuple[Level, ...]:
    """The levels, or an error unless they fit on one another."""
    levels = _checks.sequence("levels", levels, Level)
    _checks.one_of("boundary", boundary, ("open", "periodic"))
    if not levels:
        raise ValueError("levels must hold at least one Level, got none")
    for index, level in enumerate(levels):
        width, kept = level.isometry.shape[-2:]
        if width % 2 or not 1 <= level.up <= kept <= width:
            raise ValueError(
                f"levels[{index}] must have an isometry (2d, k) with up <= k <= 2d, got "
                f"{level.isometry.shape} and up={level.up}"
            )
        if level.disentanglers.shape[-2:] != (width, width):
            raise ValueError(
                f"levels[{index}] must have disentanglers (..., {width}, {width}), as its isometry "
                f"has {width} rows, got {level.disentanglers.shape}"
            )
        below = levels[index - 1].up if index else width // 2
        if width != 2 * below:
            raise ValueError(
                f"levels[{index}] takes {width // 2} features a site, and the level below gives "
                f"{below}"
            )
    return levels


def signal_of(name: str, value: Any, features: int) -> jax.Array:
    """`value` as a signal (..., N, features), or an error that names it."""
    array = _checks.real(name, value)
    if array.ndim < 2 or array.shape[-1] != features or not array.shape[-2]:
        raise ValueError(f"{name} must have shape (..., N, {features}), got {array.shape}")
    return array


def layers_of(level: Level) -> list[tuple[jax.Array, bool]]:
    """Disentanglers in the order of application, and whether each straddles the blocks."""
    count = level.disentanglers.shape[0]
    straddles = [(count - 1 - index) % 2 == 0 for index in range(count)]
    return [(level.disentanglers[index], flag) for index, flag in enumerate(straddles)]


def sizes(sites: int, levels: int) -> list[int]:
    """Sites below each level and above the last: each half of the one below, rounded up."""
    found = [sites]
    for _ in range(levels):
        found.append(-(-found[-1] // 2))
    return found


def blocks(x: jax.Array) -> jax.Array:
    """(..., 2P, d) as (..., P, 2d)."""
    return x.reshape(*x.shape[:-2], x.shape[-2] // 2, 2 * x.shape[-1])


def unblock(x: jax.Array) -> jax.Array:
    """(..., P, 2d) as (..., 2P, d)."""
    return x.reshape(*x.shape[:-2], 2 * x.shape[-2], x.shape[-1] // 2)


def times(x: jax.Array, matrix: jax.Array) -> jax.Array:
    """Rows (..., P, a) by one matrix (a, b), or each by its own (P, a, b)."""
    own = "p" if matrix.ndim == 3 else ""
    if own and matrix.shape[0] != x.shape[-2]:
        raise ValueError(
            f"levels must have a matrix of its own for each of {x.shape[-2]} places, or one for "
            f"all, got {matrix.shape}"
        )
    return jnp.einsum(f"...pa,{own}ab->...pb", x, matrix.astype(x.dtype), precision="highest")


def orthonormal(x: jax.Array) -> jax.Array:
    """Columns by QR with a positive diagonal: uniform from normal entries, 1 from the identity."""
    q, r = jnp.linalg.qr(x)
    sign = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1, 1).astype(x.dtype)
    return q * sign[..., None, :]
