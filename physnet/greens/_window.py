"""Density of states in an energy window, by exact contour quadrature."""

import functools
from typing import Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Inexact

from physnet import _checks, _dispatch
from physnet.greens import _sequence
from physnet.greens._chain import Chain, align, astype, chain, choose, real_dtype, zero_state
from physnet.greens._diagonal import two_sided
from physnet.greens._planes import Planes, split
from physnet.greens._riccati import riccati


@overload
def window(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    *,
    center: ArrayLike,
    radius: ArrayLike,
    order: int = 8,
    causal: bool = False,
    initial: Complex[Array, "*#d k"] | None = None,
    return_state: Literal[False] = False,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Float[Array, "*e n"]: ...


@overload
def window(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    *,
    center: ArrayLike,
    radius: ArrayLike,
    order: int = 8,
    causal: bool = False,
    initial: Complex[Array, "*#d k"] | None = None,
    return_state: Literal[True],
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> tuple[Float[Array, "*e n"], Complex[Array, "*e k"]]: ...


def window(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    *,
    center: ArrayLike,
    radius: ArrayLike,
    order: int = 8,
    causal: bool = False,
    initial: Complex[Array, "*#d k"] | None = None,
    return_state: bool = False,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Float[Array, "*e n"] | tuple[Float[Array, "*e n"], Complex[Array, "*e k"]]:
    r"""Share of a site's states whose energy lies in the window [c - r, c + r], in [0, 1].

        n_i = sum_m |psi_m(i)|^2 / (1 + ((E_m - c) / r)^K)
            = (2/K) Re sum_{k < K/2} (z_k - c) G_ii(z_k),    z_k = c + r exp(i pi (2k+1) / K)

    The K-point trapezoidal rule on the circle through the window's ends is this Butterworth window
    *exactly*: no quadrature error, and no energy nearer to the spectrum than r sin(pi/K). A higher
    order has steeper sides.

    Args:
        onsite: a (..., n), real.
        hopping: b (..., n-1), real or complex; (..., n) when `initial` or `axis_name` is given, as
            in `left`.
        center: c, a number or an array that broadcasts with the batch; real, same unit as onsite.
        radius: r > 0, likewise.
        order: K, even. Static.
        causal: Use the half-line Green's function of `left`, so that site i depends on the sites
            0..i alone. The sum then runs over the states of the chain that ends at i.
        initial: Causal only: the state that `return_state` gave, (..., K/2).
        return_state: Causal only: also return the state behind the last site.
        axis_name: Causal only: the mesh axis that the sites are split over, as in `left`.
        implementation: None for the fastest one.

    Returns:
        n_i (..., n), real, within [0, 1]: rounding is clipped, the gradient passes through.
        With `return_state` the pair (n_i, state).

    Raises:
        ValueError: An odd order, a radius <= 0 where it is known, a state or an axis without
            `causal`, shapes that do not fit. A traced radius is not checked: r < 0 gives the same
            window as |r| and r = 0 gives NaN where c is a level.
        TypeError: As `diagonal`.

    Example:
        >>> import jax.numpy as jnp
        >>> n = window(jnp.array([0.0, 2.0]), jnp.zeros(1), center=0.0, radius=1.0, order=8)
        >>> [f"{x:.6f}" for x in n]  # 1 / (1 + 2^8) at the second site
        ['1.000000', '0.003891']
    """
    half = _half_order(order)
    if (initial is not None or return_state) and not causal:
        raise ValueError(
            "initial and return_state need causal=True: a two-sided chain has no state"
        )
    if axis_name is not None and not causal:
        raise ValueError(f"axis_name needs causal=True, got {axis_name!r}")
    onsite = _checks.real("onsite", onsite)
    hopping = _checks.inexact("hopping", hopping)
    dtype = real_dtype(onsite, hopping)
    center = _real_argument("center", center, dtype)
    radius = _real_argument("radius", radius, dtype)
    batch = _checks.broadcast(
        onsite=onsite.shape[:-1],
        hopping=hopping.shape[:-1],
        center=center.shape,
        radius=radius.shape,
        initial=() if initial is None else jnp.shape(initial)[:-1],
    )
    linked = initial is not None or axis_name is not None
    c = chain(onsite, hopping, 1j, linked=linked, dtype=dtype, batch=batch)
    start = None if initial is None else _state(initial, batch, half, c)
    chosen = choose("greens.window", implementation, c)
    if axis_name is not None:
        c, center, radius, start = _sequence.pieces((c, center, radius, start), axis_name)
    share, state = _window(
        c,
        center,
        radius,
        start,
        order=2 * half,
        causal=causal,
        axis_name=axis_name,
        implementation=chosen,
    )
    return (share, state) if return_state else share


@functools.partial(jax.jit, static_argnames=("order", "causal", "axis_name", "implementation"))
def _window(
    c: Chain,
    center,
    radius,
    start,
    *,
    order: int,
    causal: bool,
    axis_name: str | None,
    implementation: _dispatch.Implementation,
) -> tuple[Array, Array]:
    half, batch, dtype = order // 2, c.batch, c.onsite.dtype
    angle = np.pi * (2 * np.arange(half) + 1) / order
    points = (1, half) + (1,) * len(batch)
    center, radius = (_points_first(x, len(batch)) for x in (center, radius))
    from_center = Planes(
        radius * np.cos(angle).astype(dtype).reshape(points),
        jnp.abs(radius) * np.sin(angle).astype(dtype).reshape(points),
    )
    c = Chain(
        onsite=c.onsite[:, None],
        link=Planes(*(p[:, None] for p in c.link)),
        energy=Planes(center + from_center.real, from_center.imag),
        batch=(half, *batch),
    )
    if causal:
        start = zero_state(c) if start is None else start
        if axis_name is not None:
            start = _sequence.entry(c.onsite, c.weight, c.energy, start, implementation, axis_name)
        g = riccati(c.onsite, c.weight, c.energy, start, implementation)
    else:
        g = two_sided(c, implementation)
    share = (2 / order) * (from_center.real * g.real - from_center.imag * g.imag).sum(1)
    share = jnp.moveaxis(share, 0, -1)
    share = jnp.broadcast_to(share, (*batch, share.shape[-1]))
    # Rounding may leave [0, 1] by an ulp: clip the value, not the gradient.
    share = share + lax.stop_gradient(jnp.clip(share, 0, 1) - share)
    state = jnp.moveaxis(lax.complex(g.real[-1], g.imag[-1]), 0, -1)
    if axis_name is not None:
        state = _sequence.last(state, axis_name)
    return share, jnp.broadcast_to(state, (*batch, half))


def _half_order(order: int) -> int:
    order = _checks.positive_int("order", order, minimum=2)
    if order % 2:
        raise ValueError(f"order must be even (odd ones are no window), got {order}")
    return order // 2


def _real_argument(name: str, value: ArrayLike, dtype: np.dtype):
    if np.iscomplexobj(value):
        raise TypeError(f"{name} must be real, got dtype {jnp.result_type(value)}")
    known = _checks.known(name, value)
    if name == "radius" and known is not None and not np.all(known > 0):
        raise ValueError(f"radius must be positive, got min {known.min()}")
    return _checks.array(name, value, dtype)


def _points_first(value: Array, rank: int) -> Array:
    return value.reshape((1,) * (2 + rank - value.ndim) + value.shape)


def _state(initial: Array, batch: tuple[int, ...], half: int, c: Chain) -> Planes:
    """A state (..., K/2) as planes (1, K/2, *b)."""
    if jnp.shape(initial)[-1:] != (half,):
        raise ValueError(
            f"initial must hold {half} Green's functions on its last axis (order / 2), "
            f"got shape {jnp.shape(initial)}"
        )
    initial = astype(_checks.inexact("initial", initial), c.onsite.dtype)
    return split(align(initial, len(batch))[None])
