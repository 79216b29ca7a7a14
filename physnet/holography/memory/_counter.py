"""The binary counter of the levels: which blocks a slot stands for follows from their number alone.

A level that is full passes its two oldest slots, merged, to the next. Pairs leave in order from the
first on, so the k-th slot that level l ever gets stands for the blocks k 2^l .. (k + 1) 2^l.
Functions of the number n of blocks so far, of any shape (*n): NumPy where it is known, else JAX.

Shapes: L levels, C = L per_level slots, those of a level from the oldest on.
"""

from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np

from physnet.holography.memory._config import Config


def _module(n: Any) -> ModuleType:
    return np if isinstance(n, np.ndarray) else jnp


def _grid(config: Config, n: Any) -> tuple[np.ndarray, np.ndarray]:
    """Level and place of each slot, as axes behind those of n: (..., L, 1) and (..., 1, C / L)."""
    lead = (1,) * n.ndim
    level = np.arange(config.levels, dtype=np.int32).reshape(*lead, -1, 1)
    return level, np.arange(config.per_level, dtype=np.int32).reshape(*lead, 1, -1)


def _counts(config: Config, n: Any) -> tuple[Any, Any]:
    """Slots that each level (*n, L) was ever given, and those that it holds."""
    xp, c = _module(n), config.per_level
    given = [n]
    for _ in range(config.levels - 1):
        given.append(xp.maximum((given[-1] - (c - 1)) // 2, 0))
    given = xp.stack(given, -1)
    below = given[..., :-1] - 2 * given[..., 1:]
    return given, xp.concatenate([below, xp.minimum(given[..., -1:], c)], -1)


def moves(config: Config, n: Any) -> tuple[Any, Any]:
    """Which two old slots each slot (*n, C) is made of when block n - 1 comes; -1 for none.

    The block itself goes to the newest slot of level 0, of which both are -1.
    """
    xp, c, levels = _module(n), config.per_level, config.levels
    if not levels:
        nothing = xp.zeros((*n.shape, 0), np.int32)
        return nothing, nothing
    _, held = _counts(config, xp.maximum(n - 1, 0))
    full = held == c
    one = xp.ones((*n.shape, 1), bool)
    given = xp.concatenate([one, xp.cumprod(full, -1, dtype=np.int32)[..., :-1] > 0], -1)
    pair = (given & full)[..., None]  # this level's two oldest merge
    level, i = _grid(config, n)
    base, top = c * level, level == levels - 1
    held, given = held[..., None], given[..., None]
    kept = held - xp.where(pair, np.where(top, 1, 2).astype(np.int32), 0)
    shift = xp.where(pair, np.where(top, (i > 0), 2).astype(np.int32), 0)
    own = i < kept
    new = (i == kept) & given & (base > 0)
    first = xp.where(own, base + i + shift, xp.where(new, base - c, -1))
    merged = pair & top & (i == 0)
    second = xp.where(merged, base + 1, xp.where(new, base - c + 1, -1))
    flat = (*n.shape, levels * c)
    return first.reshape(flat).astype(np.int32), second.reshape(flat).astype(np.int32)


def spans(config: Config, n: Any) -> tuple[Any, Any]:
    """First block of each slot (*n, C) and the one after its last, after n blocks; empty: equal."""
    xp, levels = _module(n), config.levels
    if not levels:
        nothing = xp.zeros((*n.shape, 0), np.int32)
        return nothing, nothing
    given, held = (part[..., None] for part in _counts(config, n))
    level, i = _grid(config, n)
    k = given - held + i
    oldest = (level == levels - 1) & (i == 0)  # where the last level merges in place
    start = xp.where(oldest, 0, k << level)
    stop = (k + 1) << level
    there = i < held
    flat = (*n.shape, config.slots)
    return tuple(xp.where(there, edge, 0).reshape(flat).astype(np.int32) for edge in (start, stop))  # type: ignore[return-value]
