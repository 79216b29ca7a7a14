"""Diagonal of the resolvent of a tridiagonal Hermitian matrix, and its causal half-line form."""

import functools
from typing import Literal, overload

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Inexact

from physnet import _dispatch
from physnet.greens import _sequence
from physnet.greens._chain import Chain, chain, choose, state_planes, to_user, zero_state
from physnet.greens._half_lines import half_lines
from physnet.greens._planes import Planes
from physnet.greens._riccati import riccati


def diagonal(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    energy: ArrayLike,
    *,
    implementation: _dispatch.Implementation | None = None,
) -> Complex[Array, "*d n"]:
    r"""Diagonal of (z - H)^{-1}: how each site answers at energy z, the whole chain seen.

    H[i, i] = a_i, H[i, i+1] = b_i, H[i+1, i] = conj(b_i), w_i = |b_i|^2, and

        gL_i = 1 / (z - a_i - w_{i-1} gL_{i-1}),   gR_i = 1 / (z - a_i - w_i gR_{i+1}),
        G_ii = 1 / (z - a_i - w_{i-1} gL_{i-1} - w_i gR_{i+1}).

    O(n) time and memory; forward mode, reverse mode and higher orders likewise. Im G_ii <= 0 to
    the last bit. Every site depends on every other: use `left` where the order of sites is causal.

    Args:
        onsite: a (..., n), real; float16 and bfloat16 are computed in float32.
        hopping: b (..., n-1), real or complex.
        energy: z (...), complex, Im z > 0: a number or an array of batch shape. It takes the
            precision of onsite and hopping and never raises it.
        implementation: None for the fastest one.

    Returns:
        G_ii (..., n), complex, of the precision of onsite and hopping. A NaN in a chain makes the
        whole chain NaN, and so does an infinity.

    Raises:
        ValueError: Shapes do not fit, n = 0, or Im z <= 0 where it is known. A traced energy is not
            checked: Im z < 0 gives conj(G(conj z)), Im z = 0 is NaN or infinite on the spectrum.
        TypeError: onsite is not real, or hopping not of floating dtype.

    Example:
        >>> import jax.numpy as jnp
        >>> g = diagonal(jnp.zeros(3), jnp.ones(2), 1j)
        >>> [f"{x:.4f}" for x in g.imag]
        ['-0.6667', '-0.3333', '-0.6667']

    References:
        Haydock, Heine & Kelly, J. Phys. C 5 (1972) 2845.
    """
    c = chain(onsite, hopping, energy)
    return _diagonal(c, choose("greens.diagonal", implementation, c))


@overload
def left(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    energy: ArrayLike,
    *,
    initial: Complex[Array, "*#d"] | None = None,
    return_state: Literal[False] = False,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Complex[Array, "*e n"]: ...


@overload
def left(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    energy: ArrayLike,
    *,
    initial: Complex[Array, "*#d"] | None = None,
    return_state: Literal[True],
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> tuple[Complex[Array, "*e n"], Complex[Array, "*e"]]: ...


def left(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    energy: ArrayLike,
    *,
    initial: Complex[Array, "*#d"] | None = None,
    return_state: bool = False,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Complex[Array, "*e n"] | tuple[Complex[Array, "*e n"], Complex[Array, "*e"]]:
    r"""Causal Green's function: site i as the end of the chain that ends with it.

        gL_i = 1 / (z - a_i - |b_{i-1}|^2 gL_{i-1}) = [(z - H_{0..i})^{-1}]_ii

    It depends on the sites 0..i alone: later ones do not change a bit of it. The state is gL of the
    last site, so a chain can be continued piece by piece, down to a site at a time.

    Inside `shard_map` with `axis_name`, the devices of that axis hold the chain in contiguous
    pieces of n sites each. Three complex numbers a chain and piece cross devices: what a piece does
    to the Green's function in front of it. Equal to one device up to rounding, gradients too.

    Args:
        onsite: a (..., n), real.
        hopping: b (..., n-1), real or complex; (..., n) when `initial` or `axis_name` is given,
            b_{-1} first: the bond between the site in front of the piece and site 0. In front of
            the whole chain it does nothing without `initial`.
        energy: z (...), complex, Im z > 0, as in `diagonal`.
        initial: gL of the site in front of site 0, of batch shape. Zero means there is none.
        return_state: Also return gL of the last site (of the whole chain), to go on from.
        axis_name: The mesh axis that the sites are split over.
        implementation: None for the fastest one.

    Returns:
        gL (..., n), complex, Im gL <= 0; with `return_state` the pair (gL, state). A NaN or an
        infinity at site i makes the sites from i on NaN.

    Raises:
        ValueError, TypeError: As `diagonal`.

    Example:
        >>> import jax.numpy as jnp
        >>> onsite, hopping = jnp.array([0.0, 1.0, -1.0]), jnp.ones(2)
        >>> g, state = left(onsite[:2], hopping[:1], 1j, return_state=True)
        >>> later = left(onsite[2:], hopping[1:], 1j, initial=state)
        >>> print(f"{later[0]:.4f}", f"{left(onsite, hopping, 1j)[2]:.4f}")
        0.3529-0.4118j 0.3529-0.4118j
    """
    if initial is None:
        c = chain(onsite, hopping, energy, linked=axis_name is not None)
        start = zero_state(c)
    else:
        c = chain(onsite, hopping, energy, linked=True, batch=jnp.shape(initial))
        start = state_planes("initial", initial, c)
    g = _left(c, start, choose("greens.left", implementation, c), axis_name)
    if not return_state:
        return g
    return g, g[..., -1] if axis_name is None else _sequence.last(g[..., -1], axis_name)


def ldos(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    energy: ArrayLike,
) -> Float[Array, "*d n"]:
    r"""Local density of states -Im G_ii(z) / pi, broadened by Im z; never negative.

    Args:
        onsite, hopping, energy: As in `diagonal`.

    Returns:
        (..., n), real, states per unit of energy and site. Its integral over Re z is 1.

    Raises:
        ValueError, TypeError: As `diagonal`.

    Example:
        >>> import jax.numpy as jnp
        >>> print(f"{ldos(jnp.zeros(1), jnp.zeros(0), 1j)[0] * jnp.pi:.4f}")
        1.0000
    """
    c = chain(onsite, hopping, energy)
    return -_diagonal(c, choose("greens.diagonal", None, c)).imag / jnp.pi


@functools.partial(jax.jit, static_argnames="implementation")
def _diagonal(c: Chain, implementation: _dispatch.Implementation) -> Array:
    return to_user(two_sided(c, implementation), c)


@functools.partial(jax.jit, static_argnames=("implementation", "axis_name"))
def _left(
    c: Chain, start: Planes, implementation: _dispatch.Implementation, axis_name: str | None
) -> Array:
    if axis_name is not None:
        c, start = _sequence.pieces((c, start), axis_name)
        start = _sequence.entry(c.onsite, c.weight, c.energy, start, implementation, axis_name)
    return to_user(riccati(c.onsite, c.weight, c.energy, start, implementation), c)


def two_sided(c: Chain, implementation: _dispatch.Implementation) -> Planes:
    """G_ii (n, *batch) of a chain, as planes."""
    return half_lines(c.onsite, c.weight, c.energy, implementation)[0]
