"""The six-leg perfect tensor: the state that the five-qubit code and its logical qubit share."""

import functools
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Inexact

GENERATORS = ("XZZXII", "IXZZXI", "XIXZZI", "ZXIXZI", "XXXXXX", "ZZZZZZ")
LEGS = 6


class Pauli(NamedTuple):
    """i^phase X^x Z^z on some qubits, X before Z on each; rows of several on a leading axis.

    Attributes:
        x, z: bool (..., n).
        phase: int (...), mod 4.
    """

    x: np.ndarray
    z: np.ndarray
    phase: np.ndarray


def perfect_tensor(*, dtype: Any = jnp.float32) -> Inexact[Array, "2 2 2 2 2 2"]:
    """The state of six qubits that is as entangled as can be across every cut, as a tensor.

    The +1 eigenvector of XZZXII, IXZZXI, XIXZZI, ZXIXZI, XXXXXX and ZZZZZZ: real, of norm 1, with
    32 entries of +-1/sqrt(32), the first of them positive. Across each of the 20 splits of its legs
    into three and three, sqrt(8) times it is an orthogonal matrix; so sqrt(2^m) times it is an
    isometry from any m <= 3 legs to the others. From the last leg to the first five it is the
    five-qubit code.

    Args:
        dtype: Of the result, real or complex floating.

    Returns:
        The tensor, (2,) * 6.

    Example:
        >>> import jax.numpy as jnp
        >>> split = perfect_tensor().transpose(0, 2, 4, 1, 3, 5).reshape(8, 8)
        >>> print(jnp.abs(8 * split @ split.T - jnp.eye(8, dtype=jnp.float32)).max() < 1e-6)
        True

    References:
        Pastawski, Yoshida, Harlow, Preskill, "Holographic quantum error-correcting codes: toy
        models for the bulk/boundary correspondence", JHEP 06 (2015) 149.
    """
    state = np.zeros(2**LEGS)
    state[0] = 1
    index = np.arange(2**LEGS)
    for word in GENERATORS:  # projections on +1; |000000> overlaps with the state
        x, z = (
            sum((letter == pauli) << (5 - i) for i, letter in enumerate(word)) for pauli in "XZ"
        )
        moved = np.where(np.bitwise_count(index & z) % 2, -state, state)
        state = (state + moved[index ^ x]) / 2
    return jnp.asarray((state / np.linalg.norm(state)).reshape((2,) * LEGS), dtype)


def multiply(first: Pauli, second: Pauli) -> Pauli:
    """first second, of operators or rows of them: Z^z1 X^x2 = (-1)^(z1 x2) X^x2 Z^z1."""
    swaps = np.sum(first.z & second.x, -1)
    phase = (first.phase + second.phase + 2 * swaps) % 4
    return Pauli(first.x ^ second.x, first.z ^ second.z, phase)


@functools.lru_cache
def pushed(inputs: tuple[int, ...]) -> tuple[Pauli, Pauli]:
    """How the isometry from these <= 3 legs of a perfect tensor to the others moves operators.

    Returns:
        The images of all 4^m products of X^x Z^z on the input legs, indexed by the bits
        x0 z0 x1 z1 ... (x0 the highest), and generators of the stabiliser of the other legs:
        both on those legs in order.
    """
    letters = np.array([list(word) for word in GENERATORS])
    rows = Pauli(letters == "X", letters == "Z", np.zeros(LEGS, int))
    others = [leg for leg in range(LEGS) if leg not in inputs]
    units = []
    for leg in inputs:
        for part in ("x", "z"):  # a row that has this one, taken out of all the rest
            column = getattr(rows, part)[:, leg]
            pivot = next(i for i in np.flatnonzero(column) if i not in units)
            clear = column & (np.arange(LEGS) != pivot)
            product = multiply(rows, Pauli(*(field[pivot] for field in rows)))
            rows = Pauli(*(np.where(clear.reshape(-1, *[1] * (new.ndim - 1)), new, old)
                           for new, old in zip(product, rows, strict=True)))  # fmt: skip
            units.append(pivot)
    outside = Pauli(rows.x[:, others], rows.z[:, others], rows.phase)
    table = Pauli(*(np.zeros((1, *field.shape[1:]), field.dtype) for field in outside))
    for unit in units:
        with_unit = multiply(table, Pauli(*(field[unit] for field in outside)))
        table = Pauli(*(np.stack([a, b], 1).reshape(-1, *a.shape[1:])
                        for a, b in zip(table, with_unit, strict=True)))  # fmt: skip
    free = [i for i in range(LEGS) if i not in units]
    return table, Pauli(*(field[free] for field in outside))
