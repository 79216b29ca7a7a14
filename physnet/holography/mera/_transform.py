"""A signal to its scales and back."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from physnet import _checks
from physnet.holography.mera._levels import (
    Boundary,
    Bulk,
    Level,
    blocks,
    check,
    dimension,
    layers_of,
    signal_of,
    sizes,
    times,
    unblock,
)


def encode(
    levels: tuple[Level, ...], signal: Float[Array, "*b n d"], *, boundary: Boundary = "open"
) -> Bulk:
    r"""Coarse-grain a signal: each level makes one site of two.

    On each level disentanglers U rotate pairs of neighbours, the last layer of them across the
    blocks {2i, 2i+1} (a layer before it within them, and so on in turn); then the isometry W takes
    each block to one site, and what it leaves out is the level's detail:

        pair <- U^T pair,     [site', detail] = W^T block

    This is the entanglement renormalisation of a linear field: spaces of sites add, where in a
    quantum chain they multiply. Daubechies wavelets of four coefficients are the case of one
    feature and one layer. W and U have orthonormal columns, so a MERA with complements (k = 2d) is
    an isometry: |signal|^2 = |top|^2 + sum |details|^2. O(N d^2).

    Args:
        levels: As `init` or `principal` gives them.
        signal: (..., N, d), any N >= 1: a zero site is added where a level has an odd number.
        boundary: "open" leaves the two outermost sites out of the layers that straddle blocks;
            "periodic" has one disentangler between the last site and the first.

    Returns:
        The top (..., ceil(N / 2^L), d') and each level's details, in the dtype of the signal.

    Raises:
        ValueError: Levels that do not fit on one another or on the signal.
        TypeError: A signal that is not real floating.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.holography import mera
        >>> levels = mera.init(jax.random.key(0), 3, levels=2, start="random")
        >>> x = jax.random.normal(jax.random.key(1), (5, 3))
        >>> bulk = jax.jit(encode)(levels, x)
        >>> bulk.top.shape, [detail.shape for detail in bulk.details]
        ((2, 3), [(3, 3), (2, 3)])
        >>> back = jax.jit(decode, static_argnames="sites")(levels, bulk, sites=5)
        >>> print(f"{jnp.abs(back - x).max() < 1e-5}")
        True

    References:
        Vidal, "Entanglement renormalization", Phys. Rev. Lett. 99 (2007), 220405.
        Evenbly and White, "Entanglement renormalization and wavelets", Phys. Rev. Lett. 116
        (2016), 140403.
    """
    levels = check(levels, boundary)
    x = signal_of("signal", signal, dimension(levels[0]))
    narrow = x.dtype
    x = x.astype(np.promote_types(narrow, np.float32))
    details = []
    for level in levels:
        x = _even(x)
        for matrix, straddles in layers_of(level):
            x = _on_pairs(x, matrix, straddles, boundary)
        x = times(blocks(x), level.isometry)
        x, detail = x[..., : level.up], x[..., level.up :]
        details.append(detail.astype(narrow))
    return Bulk(x.astype(narrow), tuple(details))


def decode(
    levels: tuple[Level, ...],
    bulk: Bulk,
    *,
    sites: int | None = None,
    boundary: Boundary = "open",
) -> Float[Array, "*b n d"]:
    r"""The adjoint of `encode`: from the scales back to a signal.

    With all complements it inverts `encode`. From fewer columns, or with details left out, it gives
    the projection on what was kept, whose error is the norm of what was not:
    |x - decode|^2 = |x|^2 - |kept|^2 (at most that, where sites were added to odd numbers).

    Args:
        levels: As for `encode`.
        bulk: As from `encode`; None for a level's details stands for zeros.
        sites: N of the signal; None is 2^L times the sites of the top.
        boundary: As for `encode`.

    Returns:
        (..., N, d), in the dtype of the top.

    Raises:
        ValueError: Levels that do not fit, or a bulk of other sizes.
        TypeError: A top that is not real floating.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.holography import mera
        >>> levels = mera.init(jax.random.key(0), 1, levels=1)          # Haar wavelets
        >>> bulk = encode(levels, jnp.array([[1.0], [3], [5], [5]]))
        >>> coarse = mera.Bulk(bulk.top, (None,))
        >>> print(decode(levels, coarse)[:, 0].round(4))           # the mean of each pair
        [2. 2. 5. 5.]
    """
    levels = check(levels, boundary)
    _checks.instance("bulk", bulk, Bulk)
    x = signal_of("bulk.top", bulk.top, levels[-1].up)
    top = x.shape[-2]
    if sites is None:
        sites = top * 2 ** len(levels)
    counts = sizes(_checks.positive_int("sites", sites), len(levels))
    if counts[-1] != top or len(bulk.details) != len(levels):
        raise ValueError(
            f"bulk must have a top of {counts[-1]} sites and {len(levels)} details for {sites} "
            f"sites, got {top} and {len(bulk.details)}"
        )
    narrow = x.dtype
    x = x.astype(np.promote_types(narrow, np.float32))
    for index in reversed(range(len(levels))):
        level = levels[index]
        x = _with_detail(x, bulk.details[index], level, f"bulk.details[{index}]")
        x = unblock(times(x, level.isometry.mT))
        for matrix, straddles in reversed(layers_of(level)):
            x = _on_pairs(x, matrix.mT, straddles, boundary)
        x = x[..., : counts[index], :]
    return x.astype(narrow)


def _with_detail(x: jax.Array, detail: jax.Array | None, level: Level, name: str) -> jax.Array:
    shape = (*x.shape[:-1], level.isometry.shape[-1] - level.up)
    if detail is None:
        found = jnp.zeros_like(x, shape=shape)
    else:
        found = _checks.real(name, detail).astype(x.dtype)
        if found.shape != shape:
            raise ValueError(f"{name} must have shape {shape}, got {found.shape}")
    return jnp.concatenate([x, found], -1)


def _even(x: jax.Array) -> jax.Array:
    if x.shape[-2] % 2 == 0:
        return x
    return jnp.concatenate([x, jnp.zeros_like(x[..., :1, :])], -2)


def _on_pairs(x: jax.Array, matrix: jax.Array, straddles: bool, boundary: Boundary) -> jax.Array:
    """Rows of pairs {2i, 2i+1}, or of {2i+1, 2i+2}, times a matrix."""
    if not straddles:
        return unblock(times(blocks(x), matrix))
    if boundary == "periodic":
        moved = unblock(times(blocks(jnp.roll(x, -1, -2)), matrix))
        return jnp.roll(moved, 1, -2)
    if x.shape[-2] == 2:
        return x
    if matrix.ndim == 3:
        matrix = matrix[:-1]  # the last pair's has no pair here
    inner = unblock(times(blocks(x[..., 1:-1, :]), matrix))
    return jnp.concatenate([x[..., :1, :], inner, x[..., -1:, :]], -2)
