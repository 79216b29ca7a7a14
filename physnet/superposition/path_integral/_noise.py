"""Standard normal noise of a draw, made anew from its key wherever it is needed."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class LowRank:
    r"""Noise Z = L R^T of a matrix, or of a stack of them, of rank r.

    L (..., m, r) has entries of variance 1 / r, R (..., n, r) of 1, all independent: entries of Z
    have mean 0 and variance 1, are uncorrelated, and normal as r grows.
    """

    left: Any
    right: Any

    def dense(self) -> Float[Array, "... m n"]:
        return self.left @ jnp.matrix_transpose(self.right)


def dtype(leaf: Any) -> np.dtype:
    """What noise and steps of a leaf are computed in: float64 where it is that, else float32."""
    return np.promote_types(leaf.dtype, np.float32)


def is_low_rank(leaf: Any, rank: int | None) -> bool:
    """Whether a leaf's noise is made of factors: where these hold fewer numbers than the leaf."""
    if rank is None or leaf.ndim < 2:
        return False
    m, n = leaf.shape[-2:]
    return rank * (m + n) < m * n


def numbers(like: Any, rank: int | None) -> int:
    """How many numbers one draw holds."""

    def count(leaf):
        if is_low_rank(leaf, rank):
            return leaf.size // (leaf.shape[-2] * leaf.shape[-1]) * rank * sum(leaf.shape[-2:])
        return leaf.size

    return sum(count(leaf) for leaf in jax.tree.leaves(like))


def factors(key: Array, like: Any, *, rank: int | None) -> Any:
    """Noise of unit variance in the shapes of `like`, as `LowRank` where it is of low rank."""
    leaves, tree = jax.tree.flatten(like)

    def one(key, leaf):
        kind = dtype(leaf)
        if rank is None or not is_low_rank(leaf, rank):
            return jax.random.normal(key, leaf.shape, kind)
        *batch, m, n = leaf.shape
        both = jax.random.normal(key, (*batch, m + n, rank), kind)
        left, right = both[..., :m, :], both[..., m:, :]
        return LowRank(left * jnp.asarray(rank**-0.5, kind), right)

    keys = jax.random.split(key, len(leaves))
    return tree.unflatten([one(key, leaf) for key, leaf in zip(keys, leaves, strict=True)])


def dense(noise: Any) -> Any:
    """The same noise with all factors multiplied."""
    return jax.tree.map(
        lambda z: z.dense() if isinstance(z, LowRank) else z, noise, is_leaf=_is_factors
    )


def draw(key: Array, like: Any, *, rank: int | None) -> Any:
    """Noise of unit variance in the shapes of `like`: float64 where a leaf is, else float32."""
    return dense(factors(key, like, rank=rank))


def signed(noise: Any, sign: Array) -> Any:
    """The noise, or its antithetic partner."""

    def one(z):
        if isinstance(z, LowRank):
            return LowRank(z.left * sign.astype(z.left.dtype), z.right)
        return z * sign.astype(z.dtype)

    return jax.tree.map(one, noise, is_leaf=_is_factors)


def _is_factors(x: Any) -> bool:
    return isinstance(x, LowRank)
