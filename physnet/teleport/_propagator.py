"""Sums over depth, sum_k G(l, k) x_k, one node after another.

Nodes are h_0 .. h_L. A form keeps a state of the nodes that it has passed: at each node it `emit`s
the sum that arrives there, and then `absorb`s what the node itself sends on. Backwards, from L to
0, the sum at l is sum_{k>l} G(l, k) x_k; forwards, from 0 to L, the one at k is
sum_{l<k} G(l, k) x_l. Only the coefficients of the nodes differ, (L+1, ...) each.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import _checks


class Product(NamedTuple):
    """G(l, k) = rho_{l+1} ... rho_k; the state is one array like x."""

    rho: Float[Array, " layers"]

    @property
    def width(self) -> tuple[int, ...]:
        return ()

    def backward(self) -> Any:
        return jnp.concatenate([self.rho, jnp.zeros_like(self.rho, shape=(1,))])

    def forward(self) -> Any:
        return jnp.concatenate([jnp.zeros_like(self.rho, shape=(1,)), self.rho])

    @staticmethod
    def emit(node: Any, state: Array) -> Array:
        return node.astype(state.dtype) * state

    @staticmethod
    def absorb(node: Any, state: Array, emitted: Array, x: Array) -> Array:
        return emitted + x


class Semiseparable(NamedTuple):
    """G(l, k) = U_l . V_k; the state is r arrays like x."""

    left: Float[Array, "nodes r"]
    right: Float[Array, "nodes r"]

    @property
    def width(self) -> tuple[int, ...]:
        return self.left.shape[1:]

    def backward(self) -> Any:
        return self.left, self.right

    def forward(self) -> Any:
        return self.right, self.left

    @staticmethod
    def emit(node: Any, state: Array) -> Array:
        return _contract(node[0], state)

    @staticmethod
    def absorb(node: Any, state: Array, emitted: Array, x: Array) -> Array:
        weights = node[1].astype(state.dtype).reshape(-1, *(1,) * x.ndim)
        return state + weights * x[None]


class Dense(NamedTuple):
    """Any G(l, k), of which k > l counts; the state is an array for each node."""

    matrix: Float[Array, "nodes nodes"]

    @property
    def width(self) -> tuple[int, ...]:
        return self.matrix.shape[1:]

    def backward(self) -> Any:
        return self._upper(), jnp.arange(len(self.matrix))

    def forward(self) -> Any:
        return self._upper().T, jnp.arange(len(self.matrix))

    @staticmethod
    def emit(node: Any, state: Array) -> Array:
        return _contract(node[0], state)

    @staticmethod
    def absorb(node: Any, state: Array, emitted: Array, x: Array) -> Array:
        return jax.lax.dynamic_update_index_in_dim(state, x, node[1], 0)

    def _upper(self) -> Array:
        return jnp.triu(self.matrix, 1)


Propagator = Product | Semiseparable | Dense


def propagator(value: Any, layers: int) -> Propagator:
    """The form that a user's `propagator` has, checked."""
    if isinstance(value, (tuple, list)) and len(value) == 2:
        left, right = (_checks.real("propagator", x) for x in value)
        rows = (layers, layers + 1)
        if left.ndim != 2 or left.shape != right.shape or left.shape[0] not in rows:
            raise ValueError(
                f"propagator (U, V) must be two arrays ({layers}, r) or ({layers + 1}, r), got "
                f"shapes {left.shape} and {right.shape}"
            )
        missing = layers + 1 - left.shape[0]
        return Semiseparable(*(jnp.pad(x, ((missing, 0), (0, 0))) for x in (left, right)))
    array = _checks.real("propagator", value)
    if array.shape == (layers,):
        return Product(array)
    if array.shape in ((layers, layers), (layers + 1, layers + 1)):
        missing = layers + 1 - array.shape[0]
        return Dense(jnp.pad(array, ((missing, 0), (missing, 0))))
    raise ValueError(
        f"propagator must be rho ({layers},), a pair (U, V), or a matrix ({layers}, {layers}) or "
        f"({layers + 1}, {layers + 1}), for {layers} layers; got shape {array.shape}"
    )


def _contract(weights: Array, state: Array) -> Array:
    precision = jax.lax.Precision.HIGHEST
    return jnp.tensordot(weights.astype(state.dtype), state, 1, precision=precision)
