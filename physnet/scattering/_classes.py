r"""Edges of score classes that fit a product gate.

s_i s_j > tau compares the logarithms' sum: edges that mirror each other, e' = tau / e, make every
pair of classes pass as a whole or fail as a whole, but for those on the antidiagonal.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet.scattering._gates import as_score, as_threshold


def class_of(score: Float[Array, "*#b T"], edges: Float[Array, "*#b e"]) -> Int[Array, "*b T"]:
    """Class of each score: the number of edges below it.

    Args:
        score: (..., T).
        edges: (..., C - 1), ascending.

    Returns:
        (..., T), int32 in 0..C-1.

    Example:
        >>> class_of(jnp.array([0.1, 0.5, 0.9]), jnp.array([0.2, 0.5])).tolist()
        [0, 1, 2]
    """
    score = _checks.at_least_1d("score", _checks.real("score", score))
    edges = _checks.at_least_1d("edges", _checks.real("edges", edges))
    _checks.broadcast(score=score.shape[:-1], edges=edges.shape[:-1])
    return jnp.sum(score[..., :, None] > edges[..., None, :], axis=-1, dtype=jnp.int32)


def default_edges(threshold: ArrayLike, *, length: int, block_size: int = 128) -> Float[Array, "c"]:
    r"""Class edges from the threshold alone, geometric between tau and 1 and mirrored at sqrt(tau).

    For scores in [0, 1]; no statistic enters, so nothing leaks. The lowest class holds the virtual
    particles. Longer sequences take more classes: each one costs a step of the causal staircase.

    Args:
        threshold: tau >= 0, a number.
        length: Tokens of a sequence. Static.
        block_size: Tokens of a block. Static.

    Returns:
        Ascending edges (c,), 3 <= c <= 15.

    Raises:
        ValueError: A threshold that is known to be negative or NaN, or that is not a number.

    Example:
        >>> [f"{edge:.3f}" for edge in default_edges(0.04, length=1024)]
        ['0.040', '0.200', '1.000']
    """
    tau = as_threshold(threshold, _float(threshold))
    if tau.ndim:
        raise ValueError(f"threshold must be a number, got shape {tau.shape}")
    length = _checks.positive_int("length", length)
    half = _half(length, _checks.positive_int("block_size", block_size))
    power = jnp.arange(2 * half, -1, -1, dtype=tau.dtype) / (2 * half)
    return jnp.sort(tau**power)


def class_edges(
    sample: Float[Array, "..."],
    threshold: ArrayLike,
    *,
    length: int,
    block_size: int = 128,
    classes: int = 16,
    is_causal: bool = True,
) -> Float[Array, "c"]:
    r"""Class edges calibrated on a sample of scores: those that keep the fewest blocks.

    The upper edges are quantiles of the scores above sqrt(tau) or a geometric ladder, the lower
    ones mirror them. How many pays depends on the length: the choice among all that `classes`
    allows minimises the expected number of blocks for a sequence of that length with such scores.
    As constants they let `schedule` order every sequence alike, so that a later token moves no
    earlier sum.

    Args:
        sample: Scores of any shape, pooled.
        threshold: tau >= 0, a number.
        length: Tokens of the sequences to come. Static.
        block_size: Tokens of a block. Static.
        classes: The most classes to make, >= 2. Static.
        is_causal: Whether blocks above the diagonal fall away. Static.

    Returns:
        Ascending edges, at most classes - 1: those that pay. Under jit always classes - 1, and
        those that are not wanted are infinite.

    Raises:
        ValueError: An empty sample; a threshold that is negative or NaN where it is known.

    Example:
        >>> import jax.numpy as jnp
        >>> s = jnp.linspace(0.0, 1.0, 4096)
        >>> edges = class_edges(s, 0.25, length=4096, classes=8)
        >>> [f"{edge:.2f}" for edge in edges]
        ['0.25', '0.50', '1.00']
    """
    ordered = jnp.sort(as_score("sample", sample).reshape(-1))
    if ordered.shape[0] == 0:
        raise ValueError("sample must hold at least one score")
    classes = _checks.positive_int("classes", classes, minimum=2)
    length = _checks.positive_int("length", length)
    block_size = _checks.positive_int("block_size", block_size)
    tau = as_threshold(threshold, ordered.dtype)
    if tau.ndim:
        raise ValueError(f"threshold must be a number, got shape {tau.shape}")
    edges = best_edges(ordered, tau, length, block_size, classes, is_causal)
    known = _checks.concrete(edges)
    return edges if known is None else edges[: int(np.isfinite(known).sum())]


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def best_edges(
    ordered: Array, tau: Array, length: int, block_size: int, classes: int, is_causal: bool
) -> Array:
    """`class_edges` of sorted scores, for a single sequence."""
    most = classes // 2  # edges above the root
    half, step = (np.arange(1, most + 1, dtype=ordered.dtype) for _ in range(2))
    half, step = np.broadcast_arrays(half[:, None], step[None, :])
    root, none = jnp.sqrt(tau), jnp.full((most, 1), jnp.inf, ordered.dtype)
    # Upper edges: quantiles without and with the largest score, whose mirror image parts the
    # virtual particles off, and a geometric ladder up to it.
    size = ordered.shape[0]
    below = jnp.searchsorted(ordered, root, side="right")
    above = (size - below).astype(ordered.dtype)
    places = [below + (step / parts * above).astype(below.dtype) for parts in (half + 1, half)]
    ratio = ordered[-1] / jnp.where(root > 0, root, 1)
    uppers = [ordered[jnp.minimum(place, size - 1)] for place in places]
    uppers.append(root * ratio ** (step / half))
    used: list[Any] = [[1]]
    options = [jnp.full((1, 2 * most + 1), jnp.inf, ordered.dtype).at[0, 0].set(root)]
    for upper in uppers:
        upper = jnp.where(step <= half, jnp.maximum(upper, root), jnp.inf)
        lower = jnp.where(step <= half, tau / jnp.where(upper > 0, upper, 1), jnp.inf)
        for middle in (none, jnp.broadcast_to(root, none.shape)):
            options.append(jnp.sort(jnp.concatenate([lower, middle, upper], axis=1), axis=1))
            used.append(2 * half[:, 0] + (middle is not none))
    table = jnp.concatenate(options)[:, : classes - 1]
    cost = jax.vmap(lambda e: _expected_blocks(e, ordered, tau, length, block_size, is_causal))
    fits = np.concatenate(used) < classes
    return table[jnp.argmin(jnp.where(fits, cost(table), jnp.inf))]


def _expected_blocks(
    edges: Array, ordered: Array, tau: Array, length: int, block_size: int, is_causal: bool
) -> Array:
    """Blocks that a sequence keeps if each class is spread evenly over it."""
    size = ordered.shape[0]
    last = jnp.searchsorted(ordered, edges, side="right")
    last = jnp.concatenate([last, jnp.full(1, size, last.dtype)])
    top = ordered[jnp.maximum(last - 1, 0)]  # the largest score of each class
    count = jnp.diff(last, prepend=0).astype(jnp.float32)
    blocks = jnp.ceil(count * (length / (size * block_size)))
    kept = top[:, None] * top[None, :] > tau
    area = blocks[:, None] * blocks[None, :]
    if is_causal:  # half of the area, and half of the blocks that the staircase cuts
        steps = jnp.where(area > 0, blocks[:, None] + blocks[None, :], 0)
        area = (area + steps - jnp.diag(blocks)) / 2
    return jnp.sum(jnp.where(kept, area, 0))


def _half(length: int, block_size: int) -> int:
    """Edges above the root: the mixed classes' cost falls with them, the staircase's grows."""
    return min(7, max(1, round(0.4 * (length / block_size) ** 0.5)))


def _float(value: ArrayLike) -> np.dtype:
    """float64 for an array of it; float32 for numbers, those of NumPy's scalars included."""
    wide = not isinstance(value, float) and getattr(value, "dtype", None) == np.float64
    return np.dtype(np.float64 if wide else np.float32)
