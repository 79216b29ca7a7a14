"""Recovery rates and thresholds of erasure, by Monte Carlo."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from physnet import _checks
from physnet.holography.codes._decoders import Decoder, check_options, tolerances
from physnet.holography.codes._tiling import Code

_WORDS = 2**20  # of one batch of samples: what a cache holds
_GRID = 4096  # cells of (0, 1) for a crossing
_RESAMPLES = 200


class Threshold(NamedTuple):
    """Where the curves of each code and the next cross, (pairs,).

    Attributes:
        probability: Of erasure, at the crossing.
        error: Its standard error.
        gain: The area by which the larger code is better below the crossing, over the standard
            error of that area: above about 3 there is a crossing; less is what chance may bring.
    """

    probability: Float[Array, " pairs"]
    error: Float[Array, " pairs"]
    gain: Float[Array, " pairs"]


def erasure_tolerance(
    code: Code,
    *,
    key: Array,
    samples: int,
    decoder: Decoder = "optimal",
    logical: int = 0,
) -> Float[Array, " samples"]:
    """The largest erasure probability that a logical qubit survives, sample by sample.

    Each physical qubit draws a number uniform in (0, 1), and is lost at the probabilities above
    it. Fewer lost qubits are never harder for either decoder, so one number says at which
    probabilities this sample is recovered: their distribution is the whole curve of recovery,
    rate(p) = P(tolerance >= p).

    Args:
        code: From `happy_code`; static.
        key: A PRNG key; the same draws for both decoders.
        samples: How many, static.
        decoder: "optimal" (elimination over GF(2), about n^3 / 64 word operations a sample) or
            "greedy" (about n a ring).
        logical: Which logical qubit; 0 is the centre's.

    Returns:
        float32 tolerances, (samples,).

    Raises:
        TypeError, ValueError: Another decoder or logical qubit; samples < 1.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.holography import codes
        >>> code = codes.happy_code("single-qubit", 2)
        >>> found = erasure_tolerance(code, key=jax.random.key(0), samples=500)
        >>> print(bool(jnp.abs(jnp.median(found) - 0.5) < 0.02))
        True
    """
    samples, key = _checks.positive_int("samples", samples), _checks.key("key", key)
    logical = check_options(code, decoder, logical)
    return _draw(code, key, samples, decoder, logical)


@functools.partial(jax.jit, static_argnums=(0, 2, 3, 4))
def _draw(code: Code, key: Array, samples: int, decoder: Decoder, logical: int) -> Array:
    """In batches; sample i draws from fold_in(key, i), whatever the batch and the decoder."""
    n = code.physical
    words = n if decoder == "greedy" else (n - code.logical + 2) * (n // 16 + 1)
    batch = min(samples, max(8, min(256, _WORDS // words)))

    def one_batch(which: Array) -> Array:
        draw = jax.vmap(
            lambda i: jax.random.uniform(jax.random.fold_in(key, i), (n,), jnp.float32),
            out_axes=1,
        )
        return tolerances(code, draw(which), decoder=decoder, logical=logical)

    which = jnp.arange(-(-samples // batch) * batch, dtype=jnp.uint32).reshape(-1, batch)
    return lax.map(one_batch, which).reshape(-1)[:samples]


def erasure_recovery(
    code: Code,
    probability: float | Float[Array, "*p"],
    *,
    key: Array,
    samples: int,
    decoder: Decoder = "optimal",
    logical: int = 0,
    return_error: bool = False,
) -> Float[Array, "*p"] | tuple[Float[Array, "*p"], Float[Array, "*p"]]:
    """The share of erasures of this probability that a logical qubit survives.

    Each physical qubit is lost on its own; what is lost is known. The logical qubit is recovered
    with no help from the others, which may hold anything.

    Args:
        code: From `happy_code`; static.
        probability: Of the loss of a physical qubit; a number or an array of them, all of which
            share the samples: their rates fall exactly, and their errors are correlated.
        key, samples, decoder, logical: As for `erasure_tolerance`.
        return_error: Also return the standard error sqrt(r (1 - r) / samples), of a rate r with one
            success and one failure more than were seen: never 0.

    Returns:
        The rate, of the shape of `probability`, or (rate, error); float32.

    Raises:
        TypeError, ValueError: A probability that is known to lie outside [0, 1]; otherwise as
            `erasure_tolerance`.

    Example:
        >>> import jax
        >>> from physnet.holography import codes
        >>> code = codes.happy_code("pentagon-hexagon", 2)
        >>> rate = erasure_recovery(code, 0.1, key=jax.random.key(0), samples=500)
        >>> print(bool(rate > 0.98))
        True
    """
    known = _checks.known("probability", probability)
    if known is not None and not np.all((known >= 0) & (known <= 1)):
        raise ValueError(f"probability must lie in [0, 1], got {probability!r}")
    options = {"key": key, "samples": samples, "decoder": decoder, "logical": logical}
    found = erasure_tolerance(code, **options)
    p = jnp.asarray(probability, jnp.float32)
    stands = found[None] >= p.reshape(-1, 1)
    rate = jnp.mean(stands, axis=1, dtype=jnp.float32).reshape(p.shape)
    rate = jnp.where(jnp.isnan(p), jnp.nan, rate)
    if not return_error:
        return rate
    seen = (rate * samples + 1) / (samples + 2)
    return rate, jnp.sqrt(seen * (1 - seen) / samples)


def erasure_threshold(
    codes: Sequence[Code],
    *,
    key: Array,
    samples: int,
    decoder: Decoder = "optimal",
    logical: int = 0,
) -> Threshold:
    """The erasure probability below which larger codes are better, by crossings of their curves.

    For neighbours in the sequence, the p at which the integral from 0 to p of rate_larger -
    rate_smaller is largest: where the difference changes its sign from + to -. As each rate is
    the distribution of one tolerance a sample, the integral is a difference of means of
    min(tolerance, p), and has no noise of differences at single p. Crossings that come to rest as
    codes grow are a threshold; where a larger code gains nothing at any p there is none.

    Args:
        codes: Two or more of a family, by size; of "pentagon-hexagon", codes that end alike.
        key, samples, decoder, logical: As for `erasure_tolerance`, for each code.

    Returns:
        Threshold: a crossing for each pair of neighbours, its standard error over 200 bootstrap
        resamples, and how sure it is that there is one (0 where the smaller code is better at
        every p).

    Raises:
        ValueError: Fewer than two codes; samples < 2. Otherwise as `erasure_tolerance`.

    Example:
        >>> import jax
        >>> from physnet.holography import codes
        >>> family = [codes.happy_code("single-qubit", layers) for layers in (1, 2)]
        >>> found = erasure_threshold(family, key=jax.random.key(0), samples=1000)
        >>> print(bool(abs(found.probability[0] - 0.5) < 0.05))
        True
    """
    key = _checks.key("key", key)
    if len(codes) < 2:
        raise ValueError(f"codes must be at least two, got {len(codes)}")
    samples = _checks.positive_int("samples", samples, minimum=2)  # one has no error
    draws, resampling = jax.random.split(key)
    found = [
        erasure_tolerance(code, key=k, samples=samples, decoder=decoder, logical=logical)
        for code, k in zip(codes, jax.random.split(draws, len(codes)), strict=True)
    ]
    return Threshold(*_crossings(jnp.stack(found), resampling))


@jax.jit
def _crossings(found: Array, key: Array) -> tuple[Array, Array, Array]:
    samples = found.shape[1]
    cells = jnp.clip(found * _GRID, 0, _GRID - 1).astype(jnp.int32)

    def crossing(cells: Array) -> Array:
        ends = jax.vmap(lambda c: jnp.zeros(_GRID, jnp.float32).at[c].add(1))(cells)
        rates = 1 - jnp.cumsum(ends, axis=1) / samples
        gain = jnp.cumsum(rates[1:] - rates[:-1], axis=1)
        gain = jnp.pad(gain, ((0, 0), (1, 0)))  # none at 0
        return jnp.argmax(gain, axis=1).astype(jnp.float32) / _GRID

    def again(key: Array) -> Array:
        draws = jax.random.randint(key, cells.shape, 0, samples)
        return crossing(jnp.take_along_axis(cells, draws, axis=1))

    at = crossing(cells)
    resampled = lax.map(again, jax.random.split(key, _RESAMPLES))
    small, large = (jnp.minimum(codes, at[:, None]) for codes in (found[:-1], found[1:]))
    area = jnp.mean(large, axis=1) - jnp.mean(small, axis=1)
    error = jnp.sqrt((jnp.var(small, axis=1) + jnp.var(large, axis=1)) / samples)
    gain = jnp.where(error > 0, area / jnp.where(error > 0, error, 1), 0)
    return at, jnp.std(resampled, axis=0, ddof=1), gain
