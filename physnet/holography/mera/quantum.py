"""MERA states of periodic spin chains: spaces of sites multiply, and energies cost O(log N)."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnet import _checks
from physnet.holography.mera._levels import Level, orthonormal

# Six sites below, in three blocks. Capitals belong to the bra. Disentanglers: outer legs, then
# inner ones; isometries: inner legs, then the coarse one. An operator on the sites 2, 3, 4 or on
# 1, 2, 3 becomes one on the three blocks.
_ISOMETRIES = "iep,iEP,fgq,FGQ,hjr,HjR->pqrPQR"
_LIFTS = (
    f"bcdBCD,abef,aBEF,cdgh,CDGH,{_ISOMETRIES}",
    f"abcABC,abef,ABEF,cdgh,CdGH,{_ISOMETRIES}",
)


class Chain(NamedTuple):
    """A state of a periodic chain of n 2^L sites, by real tensors that all places share.

    Every leaf is a matrix with orthonormal columns.

    Attributes:
        levels: The finest first, d states a site below and d' above: disentanglers
            (1, d^2, d^2) and an isometry (d^2, d').
        top: (d'^n, 1): the state of the last n >= 3 sites.
    """

    levels: tuple[Any, ...]
    top: Float[Array, "s 1"]


def init(
    key: jax.Array,
    *,
    sites: int,
    bonds: tuple[int, ...],
    physical: int = 2,
    noise: float = 0.1,
    dtype: Any = np.float32,
) -> Chain:
    r"""A random MERA state: disentanglers near 1, isometries and top uniform.

    Args:
        key: A JAX random key.
        sites: n 2^L with n >= 3.
        bonds: d' of each of the L >= 1 levels, at most the square of the one below.
        physical: d of the chain.
        noise: Deviation of the disentanglers from 1.
        dtype: Of the tensors.

    Returns:
        A `Chain`.

    Raises:
        ValueError: A size out of range.
        TypeError: A size that is not a static integer, or a dtype that is not real floating.

    Example:
        >>> import jax
        >>> chain = init(jax.random.key(0), sites=12, bonds=(3, 4))
        >>> [level.isometry.shape for level in chain.levels], chain.top.shape
        ([(4, 3), (9, 4)], (64, 1))
    """
    last, rest = divmod(_checks.positive_int("sites", sites), 2 ** len(bonds))
    if rest or last < 3:
        raise ValueError(
            f"sites must be n 2^{len(bonds)} with n >= 3 for {len(bonds)} levels, got {sites}"
        )
    if not bonds or (bonds[-1] == 1 and last > 3):  # the top's entries tell its number of sites
        raise ValueError(f"bonds must hold a size a level, the last above 1 if n > 3, got {bonds}")
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(f"dtype must be real floating, got {dtype}")
    below = _checks.positive_int("physical", physical)
    key, deviation = _checks.key("key", key), _checks.one_number("noise", noise, dtype)
    levels = []
    for bond in bonds:
        if _checks.positive_int("bonds", bond) > below**2:
            raise ValueError(
                f"bonds must be at most the square of the one below, {below}, got {bonds}"
            )
        key, first, second = jax.random.split(key, 3)
        size = below**2
        turn = deviation * jax.random.normal(first, (size, size), dtype)
        near = orthonormal(jnp.eye(size, dtype=dtype) + turn)
        isometry = orthonormal(jax.random.normal(second, (size, bond), dtype))
        levels.append(Level(near[None], isometry, bond))
        below = bond
    top = jax.random.normal(key, (below**last, 1), dtype)
    return Chain(tuple(levels), top / jnp.linalg.norm(top))


def ising(*, field: float = 1.0) -> Float[Array, "4 4"]:
    r"""The two-site term of the quantum Ising chain, H = -sum X_i X_{i+1} - field sum Z_i.

    Args:
        field: 1 is critical.

    Returns:
        -X X - field (Z 1 + 1 Z) / 2, float32 or float64 as JAX is set.

    Example:
        >>> print(ising()[0])
        [-1.  0.  0. -1.]
    """
    x, z, one = np.array([[0, 1], [1, 0]]), np.diag([1, -1]), np.eye(2)
    along = np.kron(z, one) + np.kron(one, z)
    if not math.isfinite(field := _checks.number("field", field)):
        raise ValueError(f"field must be finite, got {field}")
    return jnp.asarray(0.0 - (np.kron(x, x) + field / 2 * along))


def state(chain: Chain) -> Float[Array, " s"]:
    r"""The vector of all d^N amplitudes, for chains that are small enough.

    Args:
        chain: A MERA state.

    Returns:
        (d^N,), of norm 1, the first site the slowest index.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> psi = state(init(jax.random.key(0), sites=6, bonds=(4,)))
        >>> psi.shape, f"{jnp.linalg.norm(psi):.4f}"
        ((64,), '1.0000')
    """
    count = _top_sites(chain)
    psi = chain.top[:, 0]
    for level in reversed(chain.levels):
        turn = level.disentanglers[0]
        low = math.isqrt(turn.shape[-1])
        for _ in range(count):  # the first site becomes two at the end: in order after all
            psi = _product(psi.reshape(level.up, -1).T, level.isometry.T).reshape(-1)
        psi = psi.reshape(low, -1).T.reshape(-1)
        for _ in range(count):
            psi = _product(psi.reshape(low * low, -1).T, turn.T).reshape(-1)
        psi = psi.reshape(-1, low).T.reshape(-1)
        count *= 2
    return psi


def expectation(psi: Float[Array, " s"], term: Float[Array, "t t"]) -> Float[Array, ""]:
    r"""<psi| sum_i h_{i,i+1} |psi> on a ring, from all amplitudes.

    Args:
        psi: (d^N,), real.
        term: h, (d^2, d^2), symmetric.

    Returns:
        A scalar.

    Raises:
        ValueError: A psi whose size is no power of d.

    Example:
        >>> import jax.numpy as jnp
        >>> up = jnp.zeros(8).at[0].set(1.0)                    # three spins along the field
        >>> print(f"{expectation(up, ising()):.1f}")
        -3.0
    """
    psi, term = _checks.real("psi", psi), _checks.real("term", term)
    low = _states(term)
    sites = round(math.log(max(psi.size, 1), low))
    if psi.ndim != 1 or low**sites != psi.size or sites < 2:
        raise ValueError(f"psi must have {low}^N entries, N >= 2, got shape {psi.shape}")
    total = jnp.zeros((), psi.dtype)
    for _ in range(sites):
        two = psi.reshape(low * low, -1)
        total = total + jnp.sum(two * _product(term.astype(psi.dtype), two))
        psi = psi.reshape(low, -1).T.reshape(-1)
    return total


def energy(chain: Chain, term: Float[Array, "t t"]) -> Float[Array, ""]:
    r"""<H> of H = sum_i h_{i,i+1} on the ring, through the causal cones of its terms.

    An operator on three neighbours becomes one on three neighbours of the next level, in one of two
    ways by its place. Their sum is lifted from level to level, O(d^9) each: no vector of all
    amplitudes, so that a chain of a thousand sites costs what its ten levels do.

    Args:
        chain: A MERA state.
        term: h, (d^2, d^2), symmetric.

    Returns:
        A scalar, differentiable in the tensors: an upper bound of the lowest energy.

    Raises:
        ValueError: A term for another number of states a site.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> chain = init(jax.random.key(0), sites=6, bonds=(4,))
        >>> found = jax.jit(lambda chain: energy(chain, ising()))(chain)
        >>> wanted = jax.jit(lambda chain: expectation(state(chain), ising()))(chain)
        >>> print(f"{jnp.abs(found - wanted) < 1e-5}")
        True

    References:
        Evenbly and Vidal, "Algorithms for entanglement renormalization", Phys. Rev. B 79 (2009),
        144108.
    """
    sites, term = _top_sites(chain), _checks.real("term", term)
    first = chain.levels[0].isometry.shape[-2]
    low = _states(term)
    if term.shape[-1] != first:
        raise ValueError(
            f"term must have shape ({first}, {first}) for this chain, got {term.shape}"
        )
    three = jnp.kron(term.astype(chain.top.dtype), jnp.eye(low, dtype=chain.top.dtype))
    for level in chain.levels:
        low = math.isqrt(level.isometry.shape[-2])
        u = level.disentanglers[0].reshape(low, low, low, low)
        w = level.isometry.reshape(low, low, level.up)
        three = three.reshape((low,) * 6)
        left, right = (
            jnp.einsum(lift, three, *(u,) * 4, *(w,) * 6, optimize="dp", precision="highest")
            for lift in _LIFTS
        )
        three = left + right
        low = level.up
    cube, psi = low**3, chain.top[:, 0]
    three = jnp.reshape(three, (cube, cube))
    total = jnp.zeros((), psi.dtype)
    for _ in range(sites):
        some = psi.reshape(cube, -1)
        total = total + jnp.sum(some * _product(three, some))
        psi = psi.reshape(low, -1).T.reshape(-1)
    return total


def _states(term: jax.Array) -> int:
    """d of a term (d^2, d^2)."""
    low = math.isqrt(term.shape[-1]) if term.ndim else 0
    if low < 2 or term.shape != (low * low, low * low):
        raise ValueError(f"term must have shape (d^2, d^2) with d >= 2, got {term.shape}")
    return low


def _top_sites(chain: Chain) -> int:
    _checks.instance("chain", chain, Chain)
    if not chain.levels:
        raise ValueError("chain must have at least one level, got none")
    size, low = chain.top.shape[0], chain.levels[-1].up
    count = 3
    while low > 1 and low**count < size:
        count += 1
    if low**count != size:
        raise ValueError(f"chain.top must have {low}^n entries, n >= 3, got {size}")
    return count


def _product(a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.matmul(a, b, precision="highest")
