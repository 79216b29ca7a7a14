"""The Stiefel manifold, X^T X = 1, as a place for optimisers to step on.

Matrices (..., n, m) with n >= m have orthonormal columns, others orthonormal rows: those are
transposed on the way in. Tangent vectors at X are the V with X^T V antisymmetric.
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from physnet import _checks
from physnet.optim._polar_factor import polar_factor

Metric = Literal["euclidean", "canonical"]
Retraction = Literal["polar", "qr"]


@dataclasses.dataclass(frozen=True)
class Stiefel:
    """Gradients, lengths and steps, for tall matrices."""

    metric: Metric
    retraction: Retraction

    def __post_init__(self) -> None:
        _checks.one_of("metric", self.metric, ("euclidean", "canonical"))
        _checks.one_of("retraction", self.retraction, ("polar", "qr"))

    def gradient(self, x: Array, grad: Array) -> Array:
        """The Riemannian gradient of what has this plain derivative."""
        if self.metric == "canonical":
            return grad - _matmul(x, _matmul(grad.mT, x))
        return project(x, grad)

    def length(self, x: Array, vector: Array) -> Array:
        """Of a tangent vector, (..., 1, 1)."""
        square = _square(vector)
        if self.metric == "canonical":
            square = square - _square(_matmul(x.mT, vector)) / 2
        return jnp.sqrt(jnp.maximum(square, 0))

    def enter(self, x: Array) -> Array:
        """A leaf as steps take it."""
        return tall(x)

    def move(self, x: Array, step: Array, carried: Any) -> tuple[Array, Any]:
        """Where a step leads, and a vector carried along (if any): projected at the new point."""
        new = polar_factor(x + step) if self.retraction == "polar" else _unit_triangle(x + step)
        still = jnp.all(step == 0, axis=(-2, -1), keepdims=True)
        new = jnp.where(still, x, new)
        if carried is None:
            return new, None
        return new, jnp.where(still, carried, project(new, carried))


def project(x: Array, vector: Array) -> Array:
    """The nearest tangent vector at X: V - X sym(X^T V)."""
    inner = _matmul(x.mT, vector)
    return vector - _matmul(x, (inner + inner.mT) / 2)


def tall(x: Array) -> Array:
    """x, transposed if it is wide."""
    return x if x.shape[-2] >= x.shape[-1] else x.mT


def back(x: Array, like: Array) -> Array:
    """What `tall` made, in the shape of the original."""
    return x if like.shape[-2] >= like.shape[-1] else x.mT


def matrices(owner: str, params: Any) -> None:
    """An error unless every leaf is a real floating (..., n, m)."""
    for path, leaf in jax.tree.leaves_with_path(params):
        where = f"{owner}: params{jax.tree_util.keystr(path)}"
        if _checks.real(where, leaf).ndim < 2:
            raise ValueError(
                f"{where} must be matrices (..., n, m), got shape {jnp.shape(leaf)}: choose the "
                "matrices by optax.masked or optax.partition"
            )


def _unit_triangle(x: Array) -> Array:
    """The orthogonal factor of QR whose R has a positive diagonal: continuous in x."""
    q, r = jnp.linalg.qr(x)
    sign = jnp.where(jnp.diagonal(r, axis1=-2, axis2=-1) < 0, -1, 1).astype(x.dtype)
    return q * sign[..., None, :]


def _square(x: Array) -> Array:
    return jnp.sum(x * x, axis=(-2, -1), keepdims=True)


def _matmul(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=lax.Precision.HIGHEST)
