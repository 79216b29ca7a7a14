"""First values of a MERA: wavelets, random ones, and principal components from the bottom up."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnet import _checks
from physnet.holography.mera._levels import Level, blocks, orthonormal, sizes

Start = Literal["mean", "identity", "random"]


def init(
    key: jax.Array,
    dim: int,
    *,
    levels: int,
    up: int | tuple[int, ...] | None = None,
    complements: bool = True,
    layers: int = 1,
    start: Start = "mean",
    sites: int | None = None,
    dtype: Any = np.float32,
) -> tuple[Level, ...]:
    r"""A MERA to train, by `physnet.optim.stiefel_adam` for one: every leaf has X^T X = 1.

    Args:
        key: A JAX random key.
        dim: d, features of a site of the signal.
        levels: How often two sites become one.
        up: d', features of a site above each level, at most twice those below; None keeps d.
        complements: Keep what the isometries leave out, so that the MERA is invertible.
        layers: Layers of disentanglers a level; 0 is a tree.
        start: "mean": no disentangling, and sums and differences of each two sites over sqrt 2
            (Haar wavelets); "identity": the left site goes up; "random": uniform (Haar's measure).
        sites: N, for matrices of each place's own; None shares one among all places.
        dtype: Of the matrices.

    Returns:
        One `Level` a level, the finest first.

    Raises:
        ValueError: A size out of range.
        TypeError: A size that is not a static integer, or a dtype that is not real floating.

    Example:
        >>> import jax
        >>> levels = init(jax.random.key(0), 4, levels=2, up=(6, 3), complements=False)
        >>> [level.isometry.shape for level in levels]
        [(8, 6), (12, 3)]
    """
    dims = _dimensions(dim, levels, up)
    key = _checks.key("key", key)
    _checks.positive_int("layers", layers, minimum=0)
    _checks.one_of("start", start, ("mean", "identity", "random"))
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be real floating, got {dtype}")
    places: list[tuple[int, ...]] = [()] * levels
    if sites is not None:
        below = sizes(_checks.positive_int("sites", sites), levels)
        places = [(above,) for above in below[1:]]
    found = []
    for level, place in enumerate(places):
        width, new = 2 * dims[level], dims[level + 1]
        kept = width if complements else new
        key, first, second = jax.random.split(key, 3)
        if start == "random":
            turns = _uniform(first, (layers, *place, width, width), dtype)
            isometry = _uniform(second, (*place, width, width), dtype)
        else:
            turns = jnp.broadcast_to(jnp.eye(width, dtype=dtype), (layers, *place, width, width))
            pair = np.array([[1, 1], [1, -1]]) / np.sqrt(2) if start == "mean" else np.eye(2)
            block = np.kron(pair, np.eye(width // 2))
            isometry = jnp.broadcast_to(jnp.asarray(block, dtype), (*place, width, width))
        found.append(Level(turns, isometry[..., :kept], new))
    return tuple(found)


def principal(
    signals: Float[Array, "*b n d"],
    *,
    levels: int,
    up: int | tuple[int, ...] | None = None,
    complements: bool = True,
    layers: int = 1,
) -> tuple[Level, ...]:
    r"""A MERA whose isometries are the principal axes of each level's blocks, without training.

    From the bottom up W holds the leading eigenvectors of the blocks' second moment, over all
    examples and places; disentanglers are 1. The best tree if levels are chosen one by one, and a
    start for the training of disentanglers.

    Args:
        signals: (..., N, d), examples; their mean is not taken off.
        levels, up, complements, layers: As for `init`.

    Returns:
        One `Level` a level, in the dtype of the signals.

    Raises:
        ValueError: A size out of range, or no signal.
        TypeError: Signals that are not real floating.

    Example:
        >>> import jax.numpy as jnp
        >>> (level,) = principal(jnp.array([[3.0], [4.0], [6.0], [8.0]]), levels=1)
        >>> [f"{abs(value):.4f}" for value in level.isometry[:, 0]]
        ['0.6000', '0.8000']
    """
    x = _checks.real("signals", signals)
    if x.ndim < 2 or 0 in x.shape:
        raise ValueError(f"signals must have shape (..., N, d) without zeros, got {x.shape}")
    dims = _dimensions(x.shape[-1], levels, up)
    _checks.positive_int("layers", layers, minimum=0)
    narrow = x.dtype
    x = x.astype(np.promote_types(narrow, np.float32)).reshape(-1, *x.shape[-2:])
    found = []
    for level in range(levels):
        width, new = 2 * dims[level], dims[level + 1]
        x = blocks(jnp.pad(x, ((0, 0), (0, x.shape[-2] % 2), (0, 0))))
        moment = jnp.einsum("bpi,bpj->ij", x, x, precision="highest")
        axes = jnp.linalg.eigh(moment)[1][:, ::-1]
        turns = jnp.broadcast_to(jnp.eye(width, dtype=narrow), (layers, width, width))
        kept = axes if complements else axes[:, :new]
        found.append(Level(turns, kept.astype(narrow), new))
        x = jnp.einsum("bpi,ij->bpj", x, axes[:, :new], precision="highest")
    return tuple(found)


def _dimensions(dim: int, levels: int, up: int | tuple[int, ...] | None) -> list[int]:
    """Features of a site below each level and above the last."""
    _checks.positive_int("dim", dim)
    _checks.positive_int("levels", levels)
    each = tuple(up) if isinstance(up, (tuple, list)) else (dim if up is None else up,) * levels
    if len(each) != levels:
        raise ValueError(f"up must have one size a level, {levels}, got {each}")
    dims = [dim]
    for size in each:
        if _checks.positive_int("up", size) > 2 * dims[-1]:
            raise ValueError(f"up must be at most twice the features below, {dims[-1]}, got {each}")
        dims.append(size)
    return dims


def _uniform(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    wide = np.promote_types(dtype, np.float32)
    return orthonormal(jax.random.normal(key, shape, wide)).astype(dtype)
