"""Which form a recursion over sites runs in, and the cutting of a chain into chunks.

A scan over n sites takes n steps whatever the batch. Cut into m chunks of c sites it takes about
2 c + m steps on m times the lanes: what accelerators need, and CPUs for long chains of few lanes.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def by_platform(run: Callable[..., Any], sites: int, *operands: Any, cpu_chunks: bool) -> Any:
    """run(c, *operands) with the chunk length c that serves the platform; c = 0 is a plain scan.

    Args:
        run: The recursion.
        sites: Its length.
        operands: Arrays.
        cpu_chunks: Whether a CPU gains by chunks, once the chain is long.
    """
    on_cpu = _length(sites) if cpu_chunks and sites > 128 else 0
    elsewhere = _length(sites) if sites > 16 else 0
    if on_cpu == elsewhere:
        return run(on_cpu, *operands)
    return lax.platform_dependent(
        *operands,
        cpu=lambda *operands: run(on_cpu, *operands),
        default=lambda *operands: run(elsewhere, *operands),
    )


def _length(sites: int) -> int:
    """The power of two next to sqrt(n / 2), where 2 c + n / c is least."""
    return 2 ** round(math.log2(sites / 2) / 2)


def fold(x: jax.Array, length: int) -> jax.Array:
    """(n, ...) as (length, chunks, ...), zeros behind the last site."""
    missing = -x.shape[0] % length
    x = jnp.pad(x, ((0, missing),) + ((0, 0),) * (x.ndim - 1))
    return jnp.swapaxes(x.reshape(-1, length, *x.shape[1:]), 0, 1)


def unfold(x: jax.Array, sites: int) -> jax.Array:
    """(length, chunks, ...) as (n, ...)."""
    return jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])[:sites]
