"""BK-Core with one mechanism more or less: what --ablate and benchmarks/ablation.py compare."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

from lm.settings import Settings
from physnet.holography import memory

NARROW = 4
"""Experts that share the parameters of one feed-forward; with more they are too narrow."""


class Change(NamedTuple):
    """A row: BK-Core with other fields of its config, and with or without a penalty.

    `fields(settings)` are those of `BKCoreConfig`. Where they give the experts a width, this and
    not `hidden` follows from the number of parameters.
    """

    name: str
    label: str
    fields: Callable[[Settings], dict[str, Any]]
    isometry: bool = False


def window(block: int, density: float) -> int:
    """The number of nearest tokens whose band has nearly this share of a block's causal pairs."""
    pairs = block * (block + 1) / 2
    # w block - w (w - 1) / 2 = density pairs
    root = math.sqrt((block + 0.5) ** 2 - 2.0 * density * pairs)
    return max(1, round(block + 0.5 - root))


def small_memory(block: int, density: float) -> memory.Config:
    """A boundary memory with as many entries as `window`: as large a share of the causal pairs."""
    entries = window(block, density)
    size = 1 << (max(1, entries // 6).bit_length() - 1)  # tokens that leave together
    levels = min(8, max(1, entries // 12))
    sizes: Any = {"window": 2 * size, "block": size, "sinks": 1, "per_level": 2, "levels": levels}
    spare = entries - (3 * size + 1 + 2 * levels)
    return memory.Config(**sizes, landmarks=max(0, spare))


def _window(settings: Settings) -> dict[str, Any]:
    near = window(settings.training.block, settings.bk.density)
    return {"density": 0.0, "local_window": near}


def _memory(settings: Settings) -> dict[str, Any]:
    return {"memory": small_memory(settings.training.block, settings.bk.density)}


def _experts(settings: Settings) -> dict[str, Any]:
    return {"experts": min(NARROW, settings.bk.experts), "expert_width": 1}


def _teleport(settings: Settings) -> dict[str, Any]:
    return {"teleport": settings.bk.teleport, "teleport_mode": settings.bk.teleport_mode}


TOKENS = (
    Change("bk-mixer", "mixer only", lambda _: {"attention": False}),
    Change("bk-attention", "gated attention only", lambda _: {"mixer": False}),
    Change("bk-dense", "dense attention only", lambda _: {"mixer": False, "density": 1.0}),
    Change("bk-all-pairs", "BK-Core, all pairs", lambda _: {"density": 1.0}),
    Change("bk-window", "BK-Core, sliding window", _window),
    Change("bk-no-band", "BK-Core, no local window", lambda _: {"local_window": 0}),
    Change("bk-soft", "BK-Core, soft gate", lambda _: {"soft_gate": True}),
    Change("bk-hopping", "BK-Core, learned hopping", lambda _: {"learn_hopping": True}),
    Change("bk-narrow", "BK-Core, narrow experts", _experts),
    Change("bk-memory", "BK-Core, memory", _memory),
)
"""What tokens see of each other, and their feed-forward: with the same share of pairs as BK-Core
where it is not all or none, and with its parameters."""

DEPTH = (
    Change("bk-teleport", "BK-Core, teleport", _teleport),
    Change("bk-isometry", "BK-Core, isometry", lambda _: {}, isometry=True),
    Change("bk-reversible", "BK-Core, reversible", lambda _: {"reversible": True}),
)
"""BK-Core whose gradients jump over blocks, with a penalty on blocks that keep no lengths, and of
blocks that keep no activations."""
