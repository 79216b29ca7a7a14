"""How much erasure a code stands: greedy absorption of tensors, and elimination over GF(2)."""

import functools
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float, Int, UInt32

from physnet import _checks
from physnet.holography.codes import _perfect
from physnet.holography.codes._stabilisers import stabilisers
from physnet.holography.codes._tiling import Code

Decoder = Literal["optimal", "greedy"]
DECODERS = ("optimal", "greedy")
_WORD = 32


def recoverable(
    code: Code,
    lost: Bool[Array, " n"],
    *,
    decoder: Decoder = "optimal",
    logical: int = 0,
) -> Bool[Array, ""]:
    """Whether a logical qubit survives the loss of these physical ones, all others unknown.

    "optimal": whether its X and Z have equals on what is left, that is, whether on the lost qubits
    they lie in the row space over GF(2) of the stabilisers. "greedy": whether it lies in the region
    that grows from the boundary over each tensor of which three legs are known; never more.

    Args:
        code: From `happy_code`; static.
        lost: Which physical qubits are lost; may be traced.
        decoder: "optimal" or "greedy".
        logical: Which logical qubit; 0 is the centre's.

    Returns:
        A bool.

    Raises:
        TypeError, ValueError: Another decoder or logical qubit; a mask of another shape or dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> from physnet.holography import codes
        >>> five = codes.happy_code("pentagon", 0)
        >>> print([bool(recoverable(five, jnp.arange(5) < lost)) for lost in range(5)])
        [True, True, True, False, False]

    References:
        Pastawski, Yoshida, Harlow, Preskill, "Holographic quantum error-correcting codes: toy
        models for the bulk/boundary correspondence", JHEP 06 (2015) 149.
    """
    lost = _checks.boolean("lost", lost)
    if lost.shape != (code.physical,):
        raise ValueError(f"lost must have shape ({code.physical},), got {lost.shape}")
    lifetimes = jnp.where(lost, jnp.float32(0), 1)
    return tolerances(code, lifetimes[:, None], decoder=decoder, logical=logical)[0] > 0.5


def check_options(code: Code, decoder: Any, logical: Any) -> int:
    """The logical qubit, or an error that names what is not there."""
    _checks.instance("code", code, Code)
    _checks.one_of("decoder", decoder, DECODERS)
    logical = _checks.positive_int("logical", logical, minimum=0)
    if logical >= code.logical:
        raise ValueError(f"logical must be below the {code.logical} logical qubits, got {logical}")
    return logical


def tolerances(
    code: Code, lifetimes: Float[Array, "n s"], *, decoder: Decoder, logical: int
) -> Float[Array, " s"]:
    """The time at which a logical qubit is lost, if physical ones are lost one after another.

    Both decoders are monotone in what is lost, so that one number tells all of a sample: with
    lifetimes uniform in (0, 1), those below p are an erasure of probability p.
    """
    logical = check_options(code, decoder, logical)
    if decoder == "greedy":
        return _greedy(lifetimes, _sources(code), int(code.bulk[logical]))
    return _optimal(lifetimes, *_matrix(code, logical))


def _sources(code: Code) -> Int[np.ndarray, "tiles 6"]:
    """What each leg of a tile leads to: a tile, tiles + a physical qubit, or the last of all."""
    tiles = len(code.ring)
    sources = np.full((tiles, _perfect.LEGS), tiles + code.physical, np.int32)
    sources[code.bonds[:, 0], code.bonds[:, 1]] = code.bonds[:, 2]
    sources[code.bonds[:, 2], code.bonds[:, 3]] = code.bonds[:, 0]
    sources[code.boundary[:, 0], code.boundary[:, 1]] = tiles + np.arange(code.physical)
    return sources


@functools.partial(jax.jit, static_argnames="tile")
def _greedy(lifetimes: Array, sources: Array, tile: int) -> Array:
    """A tensor is known as long as three of its legs are: the third largest of their times.

    The least fixed point, reached from tensors that are never known: at each time those at or
    above it are just what absorption finds.
    """
    never = jnp.zeros_like(lifetimes[:1])

    def sweep(state):
        known, _ = state
        times = jnp.concatenate([known, lifetimes, never])
        first = second = third = jnp.zeros_like(known)
        for leg in range(_perfect.LEGS):  # keep the three largest
            new = times[sources[:, leg]]
            first, new = jnp.maximum(first, new), jnp.minimum(first, new)
            second, new = jnp.maximum(second, new), jnp.minimum(second, new)
            third = jnp.maximum(third, new)
        return third, jnp.any(third > known)

    start = jnp.broadcast_to(never, (len(sources), lifetimes.shape[1]))
    known, _ = lax.while_loop(lambda state: state[1], sweep, (start, jnp.array(True)))
    return known[tile]


@functools.lru_cache
def _matrix(code: Code, logical: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows over GF(2), the stabilisers and then X and Z of a logical qubit: x (r, n), z (r, n)."""
    generators, logicals = stabilisers(code)
    x, z = (np.concatenate([g, l[logical]])
            for g, l in ((generators.x, logicals.x), (generators.z, logicals.z)))  # fmt: skip
    return x, z


@jax.jit
def _optimal(lifetimes: Array, x: Array, z: Array) -> Array:
    """When X or Z of the logical qubit leaves the row space of the stabilisers, on what is lost.

    Columns in the order of loss; each stabiliser in turn takes its first 1 out of all rows after
    it. The rows found have their first 1 in different columns, so a row reduced by all of them is
    0 up to a column if and only if the stabilisers make it up there.
    """
    n, samples = lifetimes.shape
    order = jnp.argsort(lifetimes, axis=0, stable=True)
    words = -(-2 * n // _WORD)
    pair = x.astype(jnp.uint32) + 2 * z.astype(jnp.uint32)  # x before z of a qubit: either order
    pairs = jnp.pad(pair[:, order], ((0, 0), (0, words * _WORD // 2 - n), (0, 0)))
    shifts = 2 * jnp.arange(_WORD // 2, dtype=jnp.uint32)[None, None, :, None]
    packed = pairs.reshape(len(x), words, _WORD // 2, samples) << shifts
    rows = jnp.sum(packed, axis=2, dtype=jnp.uint32)
    left = _eliminate(rows)
    empty = jnp.all(left == 0, axis=(0, 1))
    both = left[0] | left[1]
    word = jnp.argmax(both != 0, axis=0)
    first = jnp.take_along_axis(both, word[None], axis=0)[0]
    bit = lax.population_count(_lowest(first) - 1)
    place = (word * _WORD + bit.astype(word.dtype)) // 2
    qubit = jnp.take_along_axis(order, jnp.minimum(place, n - 1)[None], axis=0)
    time = jnp.take_along_axis(lifetimes, qubit, axis=0)[0]
    return jnp.where(empty, 1, time)


def _lowest(word: Array) -> Array:
    """The lowest bit that is set."""
    return word & (~word + 1)


def _eliminate(rows: UInt32[Array, "r w s"]) -> UInt32[Array, "2 w s"]:
    """The last two rows, reduced by all before them; s samples side by side.

    In stretches, at each of which the rows that are done are left behind.
    """
    stretch = max(16, len(rows) // 5)
    while len(rows) > 2:
        count = min(stretch, len(rows) - 2)

        def take(i: Array, rows: Array) -> Array:
            row = rows[i]
            one = row != 0
            pivot = jnp.where(one & (jnp.cumsum(one, axis=0) == 1), _lowest(row), 0)
            has = jnp.any((rows & pivot[None]) != 0, axis=1)
            after = jnp.arange(len(rows))[:, None] > i
            return rows ^ jnp.where((has & after)[:, None], row[None], 0)

        rows = lax.fori_loop(0, count, take, rows)[count:]
    return rows
