"""Boundary to bulk by K_Delta and back by its adjoint, on the dyadic lattice, by FFT."""

import functools
import math
from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet.holography import _lattice, _semigroup
from physnet.holography._kernel import bulk_to_boundary, bulk_to_boundary_fourier, dimensions

Edge: TypeAlias = Literal["zero", "reflect"]
Method: TypeAlias = Literal["fft", "semigroup"]

_LARGEST = 5.0  # delta that is provided for where only an array says what it is


def to_bulk(
    field: Float[Array, "*b n d"],
    levels: int,
    *,
    delta: ArrayLike = 1.0,
    edge: Edge = "zero",
    method: Method = "fft",
) -> list[Float[Array, "*b _ d"]]:
    r"""Bulk field of a boundary field, at the slots of the dyadic lattice.

        phi_l(m) = sum_i K_Delta(z_l, s_m - i) field_i,    z_l = 2^l / 2,  s_m = 2^l (m + 1/2) - 1/2

    The sums are exact: no window, no truncated tail.

    Args:
        field: (..., N, d), at the sites i = 0 .. N - 1.
        levels: Number of levels, at most `all_levels(N)`. Static.
        delta: Scaling dimension Delta > 1/2, one number, as in `bulk_to_boundary`. As an array,
            with reflecting edges, at most 5.
        edge: What lies beyond the sites: "zero", nothing; "reflect", mirror images at -1/2 and N -
            1/2, again and again, which keep a constant field constant up to the lattice's ripple.
        method: "fft", O(N log^2 N); "semigroup", O(N), for delta = 1.0, reflecting edges and N a
            multiple of 2^(levels - 1): P_{z + w} = P_z * P_w, each level from one half as deep on
            a grid half as fine, tails by exponentials: right to 2e-5 of the field. Below some ten
            thousand sites FFTs are faster, and they compile in less time.

    Returns:
        A list of (..., ceil(N / 2^l), d), in the dtype of the field (float32 at least).

    Raises:
        ValueError: field without sites, levels, delta, edge or method out of range.
        TypeError: field is not real floating-point.

    Example:
        >>> import jax.numpy as jnp
        >>> bulk = to_bulk(jnp.ones((8, 1)), 3, edge="reflect", method="semigroup")
        >>> [phi.shape for phi in bulk], f"{bulk[2].mean():.4f}"
        ([(8, 1), (4, 1), (2, 1)], '1.0000')
    """
    field = _field(field)
    n = field.shape[-2]
    sizes = _lattice.level_sizes(n, levels)
    delta = _options(n, levels, delta, edge, method)
    line = jnp.moveaxis(field, -2, -1)
    if method == "semigroup":
        bulk = _semigroup.to_bulk(line, levels)
    else:
        bulk = _compiled(_apply, delta)(line, delta, sizes, edge)
    return [jnp.moveaxis(phi, -1, -2) for phi in bulk]


def to_boundary(
    levels: Sequence[Float[Array, "*b _ d"]],
    n: int,
    *,
    delta: ArrayLike = 1.0,
    edge: Edge = "zero",
    method: Method = "fft",
) -> Float[Array, "*b n d"]:
    r"""Boundary field of a bulk field: its integral with K_Delta over the hyperbolic measure.

        field_i = sum_{l,m} K_Delta(z_l, s_m - i) phi_l(m) v  ~  integral K phi sqrt(g) dz dx

    with sqrt(g) = z^{-(d+1)}, d = 1. A slot's cell is 2 z wide and z log 2 high, so that all have
    the same volume v = 2 log 2. It is the adjoint of `to_bulk`: <phi, to_bulk(f)> = <to_boundary
    (phi), f> with v in the first product; it is not the inverse.

    Args:
        levels: phi, a list of (..., ceil(N / 2^l), d) for l = 0, 1, ...
        n: Number N of sites. Static.
        delta, edge, method: As in `to_bulk`.

    Returns:
        (..., N, d).

    Raises:
        ValueError, TypeError: As `to_bulk`; levels of other sizes.

    Example:
        >>> import jax.numpy as jnp
        >>> f, phi = jnp.arange(6.0)[:, None], [jnp.ones((6, 1)), jnp.ones((3, 1))]
        >>> one = sum(jnp.vdot(p, q) for p, q in zip(phi, to_bulk(f, 2)))
        >>> other = jnp.vdot(to_boundary(phi, 6), f)
        >>> bool(abs(2 * jnp.log(2.0) * one - other) < 1e-4)
        True
    """
    levels = _checks.sequence("levels", levels)
    lines = [jnp.moveaxis(_field(phi, "levels"), -2, -1) for phi in levels]
    n = _checks.positive_int("n", n)
    sizes = _lattice.level_sizes(n, len(lines))
    if tuple(phi.shape[-1] for phi in lines) != sizes:
        found = [phi.shape for phi in levels]
        raise ValueError(f"levels must have {sizes} slots on the second last axis, got {found}")
    if len({phi.shape[:-1] for phi in lines}) > 1:
        found = [phi.shape for phi in levels]
        raise ValueError(f"levels must have the same batch axes and channels, got {found}")
    dtype = jnp.result_type(*lines)
    lines = [phi.astype(dtype) for phi in lines]
    delta = _options(n, len(lines), delta, edge, method)
    if method == "semigroup":
        forward = lambda line: _semigroup.to_bulk(line, len(lines))  # noqa: E731
        like = jax.ShapeDtypeStruct((*lines[0].shape[:-1], n), lines[0].dtype)
        (line,) = jax.linear_transpose(forward, like)(lines)
    else:
        line = _compiled(_adjoint, delta)(lines, delta, n, edge)
    return jnp.moveaxis(line, -1, -2) * _lattice.CELL


def _apply(line: Array, delta: Any, sizes: tuple[int, ...], edge: Edge) -> list[Array]:
    n = line.shape[-1]
    length = _length(n, edge)
    if edge == "reflect":
        line = jnp.concatenate([line, line[..., ::-1]], -1)
    spectrum = jnp.fft.rfft(line, length)
    found = []
    for level, size in enumerate(sizes):
        response = _response(level, n, length, delta, edge, line.dtype)
        response = response.reshape((1,) * (line.ndim - 1) + response.shape)
        all_sites = jnp.fft.irfft(spectrum * response, length)
        found.append(all_sites[..., :: 2**level][..., :size])
    return found


def _adjoint(lines: list[Array], delta: Any, n: int, edge: Edge) -> Array:
    length, terms = _length(n, edge), []
    for level, phi in enumerate(lines):
        response = jnp.conj(_response(level, n, length, delta, edge, phi.dtype))
        response = response.reshape((1,) * (phi.ndim - 1) + response.shape)
        spread = jnp.zeros((*phi.shape, 2**level), phi.dtype).at[..., 0].set(phi)
        spread = spread.reshape(*phi.shape[:-1], math.prod(spread.shape[phi.ndim - 1 :]))[
            ..., :n
        ]  # a slot's first site stands for it
        terms.append(jnp.fft.rfft(spread, length) * response)
    line = jnp.fft.irfft(functools.reduce(jnp.add, terms), length)
    return line[..., :n] + line[..., n:][..., ::-1] if edge == "reflect" else line[..., :n]


def _response(level: int, n: int, length: int, delta: Any, edge: Edge, dtype: Any) -> Array:
    """Discrete Fourier transform of the kernel of a level, from a slot's first site to the slot."""
    z, shift = _lattice.depth(level), _lattice.offset(level)
    if edge == "zero":
        lag = np.arange(length)
        lag = np.where(lag < n, lag, lag - length) + shift
        kernel = bulk_to_boundary(jnp.asarray(z, dtype), jnp.asarray(lag, dtype), delta=delta)
        return jnp.fft.rfft(kernel)
    # Of a kernel sampled at the sites: Poisson's sum over the aliases k + 2 pi m, up to where the
    # Matern function of this order is below rounding: it falls as e^{-x^2 / 4 nu}, then as e^{-x}.
    nu = (float(delta) if isinstance(delta, float | int) else _LARGEST) - 0.5
    cut = 18.0 if dtype == jnp.float32 else 36.0
    aliases = 1 + int(np.ceil((cut + 2 * np.sqrt(cut * nu)) / (2 * np.pi * z)))
    alias = 2 * np.pi * np.arange(-aliases, aliases)[:, None]
    k = alias + 2 * np.pi * np.arange(n + 1)[None] / length
    terms = bulk_to_boundary_fourier(jnp.asarray(k, dtype), z, delta=delta)
    parts = (jnp.asarray(f(k * shift), dtype) for f in (np.cos, np.sin))
    return lax.complex(*(jnp.sum(terms * part, 0) for part in parts))


@functools.cache
def _jitted(function: Any, static: tuple[int, ...]) -> Any:
    return jax.jit(function, static_argnums=static)


def _compiled(function: Any, delta: Any) -> Any:
    return _jitted(function, (1, 2, 3) if isinstance(delta, float | int) else (2, 3))


def _length(n: int, edge: Edge) -> int:
    return 2 * n if edge == "reflect" else 2 ** (2 * n - 1).bit_length()


def _field(field: Any, name: str = "field") -> Array:
    field = _checks.real(name, field)
    if jnp.finfo(field.dtype).bits < 32:
        field = field.astype(jnp.float32)
    if field.ndim < 2 or field.shape[-2] < 1:
        raise ValueError(f"{name} must have shape (..., N >= 1, d), got {field.shape}")
    return field


def _options(n: int, levels: int, delta: Any, edge: str, method: str) -> Any:
    _checks.one_of("edge", edge, ("zero", "reflect"))
    _checks.one_of("method", method, ("fft", "semigroup"))
    dimensions(delta, 1)
    if jnp.ndim(delta):
        raise ValueError(f"delta must be one number, got shape {jnp.shape(delta)}")
    known = _checks.concrete(delta)
    if known is not None and not known < 1e6:
        raise ValueError(f"delta must be below 1e6, got {delta!r}")
    served = known is not None and known == 1 and edge == "reflect" and n % 2 ** (levels - 1) == 0
    if method == "semigroup" and not served:
        raise ValueError(
            'method "semigroup" needs delta = 1.0, edge = "reflect" and N a multiple of '
            f"2^(levels - 1), got {delta!r}, {edge!r}, N = {n} and levels = {levels}"
        )
    return delta
