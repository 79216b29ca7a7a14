"""States of a holographic code: encoding by contraction, decoding of what is left."""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Complex, Inexact

from physnet import _checks
from physnet.holography.codes import _perfect
from physnet.holography.codes._perfect import Pauli
from physnet.holography.codes._stabilisers import stabilisers
from physnet.holography.codes._tiling import BULK, Code

Mask = Bool[Array, " n"] | Bool[np.ndarray, " n"]


def encode(code: Code, state: Inexact[Array, "..."]) -> Inexact[Array, "..."]:
    """Physical qubits of a code from its logical ones: the contraction of its tensors.

    An isometry: each tile takes the legs inside of it and its logical qubit to its legs outwards.

    Args:
        code: From `happy_code`; static. The result has 2^n entries: n up to about 25.
        state: Of the k logical qubits, (2,) * k, real or complex, the centre's first.

    Returns:
        The state of the physical qubits, (2,) * n, in the dtype of `state`.

    Raises:
        TypeError, ValueError: A state of another shape, or not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> from physnet.holography import codes
        >>> state = encode(codes.happy_code("pentagon", 0), jnp.array([0.6, 0.8]))
        >>> print(state.shape, round(float(jnp.linalg.norm(state)), 4))
        (2, 2, 2, 2, 2) 1.0
    """
    state = _checks.inexact("state", state)
    if state.shape != (2,) * code.logical:
        raise ValueError(f"state must have shape (2,) * {code.logical}, got {state.shape}")
    inside = np.bincount(code.bonds[:, 2], minlength=len(code.ring))
    parents: dict[tuple[int, int], tuple[int, int]] = {}
    for tile, leg, child, own in code.bonds.tolist():
        parents[child, own] = tile, leg
    tensor = _perfect.perfect_tensor(dtype=state.dtype)
    open_legs: list[tuple[int, int]] = [(tile, BULK) for tile in code.bulk.tolist()]
    for tile in range(len(code.ring)):
        legs = [(own, parents[tile, own]) for own in range(inside[tile])]
        if (tile, BULK) in open_legs:
            legs.append((BULK, (tile, BULK)))
        axes = [open_legs.index(outer) for _, outer in legs]
        inputs = [own for own, _ in legs]
        isometry = tensor * 2 ** (len(legs) / 2)
        state = jnp.tensordot(state, isometry, (axes, inputs), precision="highest")
        open_legs = [leg for i, leg in enumerate(open_legs) if i not in axes]
        open_legs += [(tile, leg) for leg in range(_perfect.LEGS) if leg not in inputs]
    return state.transpose([open_legs.index((t, leg)) for t, leg in code.boundary.tolist()])


def logical_operators(code: Code, lost: Mask, *, logical: int = 0) -> Pauli:
    """X and Z of a logical qubit, as operators on the physical ones that are left.

    Args:
        code: From `happy_code`.
        lost: Which of the physical qubits are lost, bool (n,); known at trace time.
        logical: Which logical qubit; 0 is the centre's.

    Returns:
        A Pauli of two rows, X and Z, that is the identity on what is lost.

    Raises:
        TypeError, ValueError: Another mask or logical qubit; a loss after which there are none.

    Example:
        >>> import numpy as np
        >>> from physnet.holography import codes
        >>> lost = np.arange(5) > 2
        >>> found = logical_operators(codes.happy_code("pentagon", 0), lost)
        >>> print((found.x | found.z).astype(int))
        [[1 1 1 0 0] [1 1 1 0 0]]
    """
    mask = _checks.concrete(lost)
    if mask is None or mask.dtype != bool:
        raise TypeError(f"lost must be a bool array that is known at trace time, got {lost!r}")
    if mask.shape != (code.physical,):
        raise ValueError(f"lost must have shape ({code.physical},), got {mask.shape}")
    logical = _checks.positive_int("logical", logical, minimum=0)
    if logical >= code.logical:
        raise ValueError(f"logical must be below the {code.logical} logical qubits, got {logical}")
    rows, operators = stabilisers(code)
    rows = Pauli(*(np.concatenate([f, g[logical]]) for f, g in zip(rows, operators, strict=True)))
    for i in range(len(rows.phase) - 2):  # each takes its first letter on a lost qubit out of all
        for part in ("x", "z"):
            columns = np.flatnonzero(getattr(rows, part)[i] & mask)
            if len(columns):
                has = getattr(rows, part)[:, columns[0]] & (np.arange(len(rows.phase)) > i)
                product = _perfect.multiply(rows, Pauli(*(field[i] for field in rows)))
                rows = Pauli(*(np.where(has.reshape(-1, *[1] * (new.ndim - 1)), new, old)
                               for new, old in zip(product, rows, strict=True)))  # fmt: skip
                break
    found = Pauli(*(field[-2:] for field in rows))
    if np.any((found.x | found.z)[:, mask]):
        raise ValueError(
            f"lost must leave logical qubit {logical} recoverable (see `recoverable`), got a loss "
            f"of {int(mask.sum())} of {code.physical} qubits that does not"
        )
    return found


def decode(
    code: Code, state: Inexact[Array, "..."], lost: Mask, *, logical: int = 0
) -> Complex[Array, "2 2"]:
    """A logical qubit from the physical ones that are left, exactly.

    With X and Z of the logical qubit on what is left, the unitary |0> (1 + Z) / 2 + |1> X (1 - Z) /
    2 moves the logical qubit into a fresh one, of which this is the density matrix: all else is
    traced out. It acts on no lost qubit; what became of these does not matter.

    Args:
        code: From `happy_code`; static.
        state: Of the physical qubits, (2,) * n and, if there are, further axes of whatever they
            are entangled with (a reference, an environment), which are traced out. Of norm 1.
        lost: Which of the physical qubits are lost, bool (n,); known at trace time.
        logical: Which logical qubit; 0 is the centre's.

    Returns:
        Its density matrix, complex: |a><a| where the encoded one was a pure state |a> of its own.

    Raises:
        TypeError, ValueError: Another state, mask or logical qubit; a loss from which the logical
            qubit cannot be recovered.

    Example:
        >>> import jax.numpy as jnp
        >>> from physnet.holography import codes
        >>> code = codes.happy_code("pentagon", 0)
        >>> spoilt = encode(code, jnp.array([0.6, 0.8])).at[1].set(0)  # qubit 0 measured
        >>> spoilt = spoilt / jnp.linalg.norm(spoilt)
        >>> found = decode(code, spoilt, jnp.arange(5) < 2)
        >>> print(found.real.round(2).tolist())
        [[0.3..., 0.4...], [0.4..., 0.6...]]
    """
    state, n = _checks.inexact("state", state), code.physical
    if state.shape[:n] != (2,) * n:
        raise ValueError(f"state must have shape (2,) * {n} + (...), got {state.shape}")
    operators = logical_operators(code, lost, logical=logical)
    flat = state.reshape(2**n, -1).astype(np.promote_types(state.dtype, np.complex64))
    x, z = (Pauli(*(field[i] for field in operators)) for i in (0, 1))
    moved = _apply(z, flat)
    branches = jnp.stack([(flat + moved) / 2, _apply(x, (flat - moved) / 2)])
    return jnp.einsum("aij,bij->ab", branches, branches.conj(), precision="highest")


def _apply(pauli: Pauli, state: Array) -> Array:
    """The operator on the first axis, of 2^n; the first qubit is the highest bit."""
    n = len(pauli.x)
    x, z = (sum(1 << (n - 1 - int(q)) for q in np.flatnonzero(p)) for p in (pauli.x, pauli.z))
    index = jnp.arange(2**n, dtype=jnp.uint32)
    odd = jnp.bitwise_count(index & np.uint32(z)) % 2 == 1
    signed = jnp.where(odd[:, None], -state, state)
    return signed[index ^ np.uint32(x)] * (1, 1j, -1, -1j)[int(pauli.phase)]
