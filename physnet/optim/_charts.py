"""Coordinates of hyperbolic space in which an optimiser can step.

A chart says where a step from x begins (`enter`), the Riemannian gradient of what has given
derivatives by the coordinates, the Riemannian length (..., 1) of a vector, and where a step leads,
with a vector carried along by parallel transport (`move`).
"""

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from physnet import _checks
from physnet.hyperbolic import poincare
from physnet.optim import _polar

Coordinates = Literal["ball", "tangent"]
Retraction = Literal["exponential", "first_order"]


@dataclasses.dataclass(frozen=True)
class Ball:
    """The Poincare ball; tangent vectors by their coordinates, metric (2/(1 - c|x|^2))^2."""

    curvature: ArrayLike
    retraction: Retraction
    project_eps: ArrayLike | None

    def enter(self, x: jax.Array) -> jax.Array:
        c = jnp.asarray(self.curvature, x.dtype)
        if self.project_eps is None:
            return poincare.project(x, curvature=c)
        most = (1 - jnp.asarray(self.project_eps, x.dtype)) / jnp.sqrt(c)
        length = _polar.norm(x)
        return jnp.where(length > most, x / jnp.maximum(length, most) * most, x)

    def gradient(self, x: jax.Array, grad: jax.Array) -> jax.Array:
        return grad / self._factor(x) ** 2

    def length(self, x: jax.Array, vector: jax.Array) -> jax.Array:
        return self._factor(x) * _polar.norm(vector)

    def move(
        self, x: jax.Array, step: jax.Array, carried: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        c = jnp.asarray(self.curvature, x.dtype)
        if self.retraction == "exponential":
            moved = poincare.expmap(x, step, curvature=c)
        else:
            moved = x + step
        still = jnp.all(step == 0, axis=-1, keepdims=True)
        moved = jnp.where(still, x, self.enter(moved))
        if carried is None:
            return moved, None
        return moved, jnp.where(still, carried, poincare.transport(x, moved, carried, curvature=c))

    def _factor(self, x: jax.Array) -> jax.Array:
        size = jnp.sqrt(jnp.asarray(self.curvature, x.dtype)) * _polar.norm(x)
        return 2 / ((1 - size) * (1 + size))


@dataclasses.dataclass(frozen=True)
class Tangent:
    """Tangent coordinates at the origin; tangent vectors in the orthonormal frame of `_polar`."""

    curvature: ArrayLike

    def enter(self, x: jax.Array) -> jax.Array:
        return x

    def gradient(self, x: jax.Array, grad: jax.Array) -> jax.Array:
        return _polar.gradient(x, grad, self._root(x))

    def length(self, x: jax.Array, vector: jax.Array) -> jax.Array:
        return _polar.norm(vector)

    def move(
        self, x: jax.Array, step: jax.Array, carried: jax.Array | None
    ) -> tuple[jax.Array, jax.Array | None]:
        return _polar.move(x, step, carried, self._root(x))

    def _root(self, x: jax.Array) -> jax.Array:
        return jnp.sqrt(jnp.asarray(self.curvature, x.dtype))


def chart(
    coordinates: Coordinates,
    curvature: ArrayLike,
    retraction: Retraction,
    project_eps: ArrayLike | None,
) -> Ball | Tangent:
    """The chart of that name, its options checked."""
    _checks.one_of("coordinates", coordinates, ("ball", "tangent"))
    _checks.one_of("retraction", retraction, ("exponential", "first_order"))
    curvature = one_curvature(curvature)
    if coordinates == "ball":
        if project_eps is not None:
            in_range("project_eps", project_eps, 0.0, 1.0, open_below=True)
        return Ball(curvature, retraction, project_eps)
    if retraction != "exponential":
        raise ValueError("coordinates='tangent' has retraction='exponential' alone")
    if project_eps is not None:
        raise ValueError(f"coordinates='tangent' has no boundary, got project_eps={project_eps!r}")
    return Tangent(curvature)


def one_curvature(curvature: ArrayLike) -> ArrayLike:
    """A scalar, or a ValueError where it is known not to be one positive number."""
    in_range("curvature", curvature, 0.0, float("inf"), open_below=True)
    return jnp.reshape(curvature, ()) if jnp.ndim(curvature) else curvature


def in_range(
    name: str, value: ArrayLike, least: float, below: float, *, open_below: bool = False
) -> None:
    """A ValueError unless least <= value < below, where the value is known."""
    known = _checks.known(name, value)
    if jnp.size(value) != 1:
        raise ValueError(f"{name} must be one number, got shape {jnp.shape(value)}")
    if known is None:
        return
    inside = (known > least if open_below else known >= least) & (known < below)
    if not inside.all():
        bracket = "(" if open_below else "["
        raise ValueError(f"{name} must be in {bracket}{least:g}, {below:g}), got {value!r}")


def one_number(**values: Any) -> None:
    """A ValueError that names what is neither a schedule nor one number."""
    for name, value in values.items():
        if callable(value):
            continue
        _checks.known(name, value)
        if jnp.ndim(value) > 0:
            raise ValueError(f"{name} must be one number, got shape {jnp.shape(value)}")


def points(owner: str, params: Any) -> None:
    """An error unless every leaf is real floating and has an axis of coordinates."""
    for path, leaf in jax.tree.leaves_with_path(params):
        where = f"{owner}: params{jax.tree_util.keystr(path)}"
        x = _checks.at_least_1d(where, _checks.real(where, leaf))
        if x.shape[-1] == 0:
            raise ValueError(f"{where} must have at least one coordinate, got shape {x.shape}")
