"""Arguments of a chain: checked, of one dtype, batch broadcast by rank, the site axis in front."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from physnet import _checks, _dispatch
from physnet.greens._planes import Planes, split

FEW_SITES = 2  # as when a sequence is continued by one: cheaper than to launch a kernel


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Chain:
    """A tridiagonal Hamiltonian and energies as the recursions take them.

    All arrays have equal rank; batch axes of size 1 stay 1, so that a hopping that heads or
    energies share is read once and its cotangent is summed by the elementwise code around it.
    """

    onsite: jax.Array  # (n, *b)
    link: Planes  # (n, *b): conj(b_{i-1}), the amplitude from site i-1 to i; 0 in front of site 0
    energy: Planes  # (1, *b)
    batch: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    @property
    def weight(self) -> jax.Array:
        """w_{i-1} = |b_{i-1}|^2, (n, *b)."""
        return self.link.real**2 + self.link.imag**2


def real_dtype(*arrays: jax.Array) -> np.dtype:
    """float64 if one of the arrays is of that precision, else float32."""
    wide = any(jnp.finfo(array.dtype).bits == 64 for array in arrays)
    return np.dtype(np.float64 if wide else np.float32)


def astype(array: jax.Array, dtype: np.dtype) -> jax.Array:
    """`array` with real parts of `dtype`, real or complex as before."""
    if jnp.iscomplexobj(array):
        dtype = np.dtype(np.complex128 if dtype == np.float64 else np.complex64)
    return array.astype(dtype)


def energy_planes(energy: Any, dtype: np.dtype) -> Planes:
    """Real and imaginary part of an energy, Im > 0 checked where the value is known.

    Raises:
        ValueError: The energy is of a real dtype, or a known imaginary part is not positive.
    """
    known = _checks.concrete(energy)
    array = energy if isinstance(energy, jax.Array) else np.asarray(energy)
    if not jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise ValueError(
            f"energy must be complex with a positive imaginary part, got dtype {array.dtype}"
        )
    if known is not None:
        imag = np.imag(known)
        if not np.all(imag.astype(dtype) > 0):
            raise ValueError(
                "energy must have a positive imaginary part "
                f"(in {dtype}), got min Im = {imag.min()}"
            )
    return Planes(jnp.real(array).astype(dtype), jnp.imag(array).astype(dtype))


def align(array: jax.Array, rank: int) -> jax.Array:
    """Batch axes padded in front to `rank`; the site axis moved to the front."""
    missing = rank + 1 - array.ndim
    return jnp.moveaxis(array.reshape((1,) * missing + array.shape), -1, 0)


def chain(
    onsite: Any,
    hopping: Any,
    energy: Any,
    *,
    linked: bool = False,
    dtype: np.dtype | None = None,
    batch: tuple[int, ...] = (),
) -> Chain:
    """The chain of public arguments.

    Args:
        onsite, hopping, energy: As the public functions take them.
        linked: hopping has n entries, the first of them the bond to a site in front.
        dtype: Real dtype to compute in, at least that of onsite and hopping.
        batch: Further batch axes to broadcast with.

    Raises:
        TypeError, ValueError: On dtypes, shapes and energies that make no chain.
    """
    onsite = _checks.at_least_1d("onsite", _checks.real("onsite", onsite))
    hopping = _checks.at_least_1d("hopping", _checks.inexact("hopping", hopping))
    n = onsite.shape[-1]
    if n == 0:
        raise ValueError("onsite must have at least one site, got n = 0")
    bonds = n if linked else n - 1
    if hopping.shape[-1] != bonds:
        raise ValueError(
            f"hopping must have {bonds} bonds on its last axis for {n} sites"
            f"{' and an initial state' if linked else ''}, got shape {hopping.shape}"
        )
    dtype = dtype or real_dtype(onsite, hopping)
    planes = energy_planes(energy, dtype)
    batch = _checks.broadcast(
        onsite=onsite.shape[:-1], hopping=hopping.shape[:-1], energy=planes.real.shape, batch=batch
    )
    return _assemble(onsite, hopping, planes, dtype=dtype, linked=linked, batch=batch)


@functools.partial(jax.jit, static_argnames=("dtype", "linked", "batch"))
def _assemble(onsite, hopping, energy, *, dtype, linked, batch) -> Chain:
    rank = len(batch)
    link = align(astype(hopping, dtype).conj(), rank)
    if not linked:
        link = jnp.pad(link, ((1, 0),) + ((0, 0),) * rank)
    return Chain(
        onsite=align(onsite.astype(dtype), rank),
        link=split(link),
        energy=Planes(*(align(plane[..., None], rank) for plane in energy)),
        batch=batch,
    )


def to_user(g: Planes, c: Chain) -> jax.Array:
    """Planes (n, *b) as a complex array (*batch, n)."""
    array = jnp.moveaxis(lax.complex(g.real, g.imag), 0, -1)
    return jnp.broadcast_to(array, (*c.batch, array.shape[-1]))


def zero_state(c: Chain) -> Planes:
    """The state in front of the first site of a chain: no lead; (1, *b)."""
    zero = jnp.zeros_like(c.energy.real)
    return Planes(zero, zero)


def state_planes(name: str, state: jax.Array, c: Chain) -> Planes:
    """A state of batch shape as planes (1, *b)."""
    state = astype(_checks.inexact(name, state), c.onsite.dtype)
    return split(align(state[..., None], len(c.batch)))


def choose(
    operation: str, implementation: _dispatch.Implementation | None, c: Chain
) -> _dispatch.Implementation:
    """Name of the implementation that runs `operation` on this chain."""
    return _dispatch.choose(
        operation,
        implementation,
        pays=len(c.onsite) > FEW_SITES,
        arrays=(c.onsite,),
        dtype=c.onsite.dtype,
    )
