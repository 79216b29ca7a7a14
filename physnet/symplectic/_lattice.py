"""States on a lattice of fixed-point numbers, where addition is exact and so can be undone."""

import dataclasses
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from physnet import _checks

_SCALES = {"int32": 2**24, "int64": 2**40, "float32": 2**20}


class LatticeState(NamedTuple):
    """What lies on a lattice: floating values that carry gradients, and the bits that are exact.

    Attributes:
        value: An array or a tree of arrays: bits / scale, rounded to its dtype.
        bits: The same tree in the dtype of the lattice; no gradient. Whoever changes the value
            quantises anew: the bits do not follow.
    """

    value: Any
    bits: Any


@dataclasses.dataclass(frozen=True)
class Lattice:
    """The numbers n / scale, n an integer: sums of them are exact, and have an exact inverse.

    "int32" and "int64" hold n; a sum out of their range wraps around, which is exact still, hence
    reversible, but wrong physics: |x| < 2^31 / scale or 2^63 / scale. "float32" holds n / scale
    as a float, exact for |x| <= 2^24 / scale; beyond it sums round, and no longer reverse.

    Attributes:
        scale: A power of two; by default 2^24 (|x| < 128) for "int32", 2^40 (|x| < 2^23) for
            "int64", 2^20 (|x| <= 16) for "float32".
        dtype: "int32", "int64" (needs 64-bit types enabled) or "float32".

    Raises:
        ValueError: A scale that is no power of two; another dtype; "int64" without 64-bit types.

    Example:
        >>> import jax.numpy as jnp
        >>> state = Lattice().quantise(jnp.array([0.25, -1.0]))
        >>> print(state.bits, Lattice().dequantise(state))
        [  4194304 -16777216] [ 0.25 -1.  ]
    """

    scale: int | float | None = None
    dtype: Literal["int32", "int64", "float32"] = "int32"

    def __post_init__(self) -> None:
        _checks.one_of("dtype", self.dtype, tuple(_SCALES))
        if self.dtype == "int64" and not jax.config.read("jax_enable_x64"):
            raise ValueError(
                "dtype 'int64' needs 64-bit types, the option jax_enable_x64 of JAX "
                "(JAX_ENABLE_X64=1 in the environment), got False"
            )
        if self.scale is None:
            object.__setattr__(self, "scale", _SCALES[self.dtype])
        scale = self.scale
        if isinstance(scale, np.number):  # equal and hashed alike, whatever its type
            scale = scale.item()
            object.__setattr__(self, "scale", scale)
        if not isinstance(scale, (int, float)) or scale <= 0 or math.frexp(scale)[0] != 0.5:
            raise ValueError(f"scale must be a power of two, got {scale!r}")

    def quantise(self, value: Any) -> LatticeState:
        """The nearest lattice points, halves to even; gradients pass as if nothing had happened.

        Args:
            value: A real floating array, or a tree of them, such as (position, momentum).

        Returns:
            LatticeState(value, bits), each the same tree.

        Raises:
            TypeError: What is not floating, or a LatticeState already.
        """
        if isinstance(value, LatticeState):
            raise TypeError("value must be floating arrays, got a LatticeState")
        value = jax.tree.map(lambda x: _checks.real("value", x), value)
        bits = jax.tree.map(lambda x: counts(self, jax.lax.stop_gradient(x)), value)
        return LatticeState(snapped(self, value, bits), bits)

    def dequantise(self, state: LatticeState) -> Any:
        """The values of a state, as they follow from its bits.

        Args:
            state: What `quantise` or a trajectory on this lattice returned.

        Returns:
            Floating arrays of the dtypes of `state.value`, to which their gradients go.

        Raises:
            TypeError: No LatticeState, or bits of another dtype.
        """
        check_state(self, state)
        return snapped(self, state.value, state.bits)


@jax.custom_jvp
def _through(x: Array, near: Array) -> Array:
    """`near`, with the derivative of `x`."""
    return near


@_through.defjvp
def _through_jvp(primals, tangents):
    return _through(*primals), tangents[0]


def snapped(lattice: Lattice, value: Any, bits: Any) -> Any:
    """The values of bits, whose gradients go to `value`; NaN where that is, which bits are not."""

    def each(x: Array, n: Array) -> Array:
        return _through(x, jnp.where(jnp.isnan(x), x, read(lattice, n, x.dtype)))

    return jax.tree.map(each, value, bits)


def check_state(lattice: Lattice, state: Any) -> None:
    """A TypeError unless `state` is a LatticeState of this lattice."""
    if not isinstance(state, LatticeState):
        raise TypeError(f"state must be a LatticeState, got {type(state).__name__}")
    found = {str(jnp.result_type(n)) for n in jax.tree.leaves(state.bits)}
    if found - {lattice.dtype}:
        raise TypeError(f"state.bits must be {lattice.dtype} on this lattice, got {sorted(found)}")


def scale(lattice: Lattice) -> float:
    """Points per unit of length."""
    assert lattice.scale is not None
    return float(lattice.scale)


def wide(dtype: Any) -> Any:
    """The dtype for arithmetic on values of `dtype`."""
    return np.promote_types(dtype, np.float32)


def read(lattice: Lattice, bits: Array, dtype: Any) -> Array:
    """Lattice points as floats."""
    x = bits.astype(wide(dtype))
    return (x if lattice.dtype == "float32" else x * (1 / scale(lattice))).astype(dtype)


def counts(lattice: Lattice, x: Array) -> Array:
    """The nearest lattice points, as bits; an odd function of x, also where it saturates.

    NaN is 0 as an integer, NaN as a float. No zero has a sign: equal points have equal bits.
    """
    x = jnp.round(x.astype(wide(x.dtype)) * scale(lattice))
    if lattice.dtype == "float32":
        return jnp.where(x == 0, jnp.zeros_like(x), x * (1 / scale(lattice))).astype(jnp.float32)
    most = limit(lattice, x.dtype) * scale(lattice)
    x = jnp.where(jnp.isnan(x), jnp.zeros_like(x), jnp.clip(x, -most, most))
    return x.astype(lattice.dtype)


def limit(lattice: Lattice, dtype: Any) -> float:
    """What absolute values must stay below: the last that this dtype has on the lattice."""
    if lattice.dtype == "float32":
        return 2.0**24 / scale(lattice)
    top = 2.0 ** (jnp.iinfo(lattice.dtype).bits - 1)
    return (top - top * 2.0 ** -(jnp.finfo(wide(dtype)).nmant + 1)) / scale(lattice)
