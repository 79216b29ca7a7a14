"""How the lanes of a batch read operands that broadcast over some of its axes."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Lanes(NamedTuple):
    """Lanes counted over three axes; bits of `has` (4, 2, 1) say which an operand has."""

    batch: tuple[int, ...]
    count: int
    inner: tuple[int, int]  # sizes of the last two axes
    has: tuple[int, ...]  # an operand each


def plan(*shapes: tuple[int, ...]) -> Lanes | None:
    """Batch axes gathered into at most three; None where operands differ in more ways.

    Args:
        shapes: Batch shapes of the operands, of equal rank; sizes of 1 broadcast.
    """
    axes: list[tuple[int, tuple[bool, ...]]] = []  # sizes, and which operands have them
    batch = np.broadcast_shapes(*shapes)
    for size, *sizes in zip(batch, *shapes, strict=True):
        owners = tuple(s == size for s in sizes)
        if size == 1:
            continue
        if axes and axes[-1][1] == owners:
            axes[-1] = axes[-1][0] * size, owners
        else:
            axes.append((size, owners))
    if len(axes) > 3:
        return None
    axes = [(1, (False,) * len(shapes))] * (3 - len(axes)) + axes
    bits = zip(*(owners for _, owners in axes), strict=True)
    has = tuple(4 * first + 2 * second + third for first, second, third in bits)
    return Lanes(batch, math.prod(batch), (axes[1][0], axes[2][0]), has)


def lanes(*operands: tuple[Any, int]) -> tuple[Lanes, list[Any]]:
    """The plan of operands, and they themselves.

    Operands that broadcast in too many ways to count over three axes are written out.

    Args:
        operands: Pytrees of arrays, each with the number of axes behind the batch.
    """
    shapes = [
        np.broadcast_shapes(*(x.shape[: x.ndim - own] for x in jax.tree.leaves(tree)))
        for tree, own in operands
    ]
    found = plan(*shapes)
    if found is None:
        shapes = [np.broadcast_shapes(*shapes)] * len(shapes)
        found = plan(*shapes)
        assert found is not None  # all operands have all axes
    trees = []
    for (tree, own), shape in zip(operands, shapes, strict=True):
        leaves, structure = jax.tree.flatten(tree)
        leaves = [jnp.broadcast_to(x, (*shape, *x.shape[x.ndim - own :])) for x in leaves]
        trees.append(jax.tree.unflatten(structure, leaves))
    return found, trees
