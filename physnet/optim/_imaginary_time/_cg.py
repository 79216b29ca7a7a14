"""Conjugate gradients over trees: natural gradients without a matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int


def inner(left: Any, right: Any) -> Float[Array, ""]:
    """Re <left, right> over all leaves, in float32 or float64."""
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    parts = [jnp.real(jnp.vdot(a, b, precision=lax.Precision.HIGHEST)) for a, b in pairs]
    dtype = np.result_type(*(part.dtype for part in parts))
    return jnp.sum(jnp.stack([part.astype(dtype) for part in parts]))


def add(tree: Any, scale: Float[Array, ""], other: Any) -> Any:
    """tree + scale other, in the leaves' own dtypes."""

    def one(a, b):
        return a + scale.astype(a.dtype) * b.astype(a.dtype)

    return jax.tree.map(one, tree, other)


def solve(
    apply: Callable[[Any], Any],
    rhs: Any,
    start: Any,
    *,
    tolerance: Float[Array, ""],
    iterations: int,
) -> tuple[Any, Int[Array, ""]]:
    """x with apply(x) = rhs, apply symmetric and positive, and how many products that took.

    Ends at |rhs - apply(x)| <= tolerance |rhs| or after `iterations`. NaN or infinity anywhere
    makes x NaN.
    """
    size = inner(rhs, rhs)
    bound = tolerance.astype(size.dtype) ** 2 * size

    def more(carry):
        _, _, _, square, count = carry
        return (square > bound) & (count < iterations)

    def body(carry):
        x, residual, direction, square, count = carry
        image = apply(direction)
        step = square / inner(direction, image)
        x, residual = add(x, step, direction), add(residual, -step, image)
        new = inner(residual, residual)
        return x, residual, add(residual, new / square, direction), new, count + 1

    residual = add(rhs, -jnp.ones((), bound.dtype), apply(start))
    first = inner(residual, residual)
    carry = (start, residual, residual, first, jnp.zeros((), jnp.int32))
    x, _, _, square, count = lax.while_loop(more, body, carry)
    good = jnp.isfinite(square) & jnp.isfinite(bound)
    return jax.tree.map(lambda leaf: jnp.where(good, leaf, jnp.nan), x), count
