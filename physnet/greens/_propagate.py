"""Linear solves with a tridiagonal chain: the causal elimination and the two-sided resolvent."""

import functools
from typing import Any, Literal, NamedTuple, overload

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Inexact

from physnet import _checks, _dispatch, _varying
from physnet.greens import _sequence
from physnet.greens import _wave_kernels as wave_kernels
from physnet.greens._chain import (
    Chain,
    astype,
    chain,
    choose,
    real_dtype,
    state_planes,
    to_user,
    zero_state,
)
from physnet.greens._planes import (
    Planes,
    column,
    conjugate,
    join,
    multiply,
    reverse,
    split,
)
from physnet.greens._recurrence import affine
from physnet.greens._riccati import riccati
from physnet.greens._waves import waves


class PropagateState(NamedTuple):
    """What the sites behind the last one need: gL and y of that site."""

    green: jax.Array  # (...)
    amplitude: jax.Array  # (..., d)


@overload
def propagate(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    energy: ArrayLike,
    source: Inexact[Array, "*#e n d"],
    *,
    initial: PropagateState | None = None,
    return_state: Literal[False] = False,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Complex[Array, "*f n d"]: ...


@overload
def propagate(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    energy: ArrayLike,
    source: Inexact[Array, "*#e n d"],
    *,
    initial: PropagateState | None = None,
    return_state: Literal[True],
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> tuple[Complex[Array, "*f n d"], PropagateState]: ...


@overload
def propagate(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    energy: ArrayLike,
    source: Inexact[Array, "*#e n d"],
    *,
    initial: PropagateState | None = None,
    return_green: Literal[True],
    return_state: bool = False,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> tuple[Any, ...]: ...


def propagate(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    energy: ArrayLike,
    source: Inexact[Array, "*#e n d"],
    *,
    initial: PropagateState | None = None,
    return_green: bool = False,
    return_state: bool = False,
    axis_name: str | None = None,
    implementation: _dispatch.Implementation | None = None,
) -> Any:
    r"""Causal resolvent mixer: waves from the sources, seen at the end of the chain so far.

        y_i = gL_i (x_i + conj(b_{i-1}) y_{i-1}) = sum_{j <= i} [(z - H_{0..i})^{-1}]_ij x_j

    with gL of `left`: the forward elimination of (z - H) psi = x. Site i depends on the sites 0..i
    of onsite, hopping and source alone. O(n) time and memory, derivatives of all orders included.

    Inside `shard_map` with `axis_name`, the devices of that axis hold the chain in contiguous
    pieces, as in `left`; d + 1 more complex numbers a chain and piece cross devices.

    Args:
        onsite: a (..., n), real.
        hopping: b (..., n-1), real or complex; (..., n) when `initial` or `axis_name` is given,
            b_{-1} first, as in `left`.
        energy: z (...), complex, Im z > 0, as in `diagonal`.
        source: x (..., n, d), real or complex; its batch axes broadcast with the others.
        initial: State behind an earlier piece of the chain; zeros mean there is none.
        return_green: Also return gL (..., n), which the elimination needs in any case.
        return_state: Also return the state behind the last site (of the whole chain).
        axis_name: The mesh axis that the sites are split over.
        implementation: None for the fastest one.

    Returns:
        y (..., n, d), complex, of the precision of onsite, hopping and source; with `return_green`
        or `return_state` a tuple of y, gL and the state, as asked for. A NaN or an infinity at
        site i makes the sites from i on NaN.

    Raises:
        ValueError, TypeError: As `diagonal`; also where source has other than n sites.

    Example:
        >>> import jax.numpy as jnp
        >>> y = propagate(jnp.zeros(2), jnp.ones(1), 1 + 1j, jnp.array([[1.0], [0.0]]))
        >>> [f"{x:.2f}" for x in y[:, 0]]
        ['0.50-0.50j', '-0.20-0.40j']
    """
    linked = initial is not None or axis_name is not None
    c, x = _with_source(onsite, hopping, energy, source, initial, linked=linked)
    chosen = choose("greens.propagate", implementation, c)
    if initial is None:
        green = zero_state(c)
        amplitude = None
    else:
        green = state_planes("initial.green", initial.green, c)
        amplitude = _checks.inexact("initial.amplitude", initial.amplitude)
        amplitude = _aligned(amplitude[..., None, :], c)
    y, green = _propagate(c, x, green, amplitude, chosen, axis_name)
    extra = (green,) if return_green else ()
    if return_state:
        state = PropagateState(green[..., -1], y[..., -1, :])
        if axis_name is not None:
            state = PropagateState(*(_sequence.last(part, axis_name) for part in state))
        extra += (state,)
    return (y, *extra) if extra else y


def solve(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    energy: ArrayLike,
    source: Inexact[Array, "*#e n d"],
) -> Complex[Array, "*f n d"]:
    r"""The two-sided resolvent on sources: psi = (z - H)^{-1} x, in O(n).

        y_i = gL_i (x_i + conj(b_{i-1}) y_{i-1}),   psi_i = y_i + gL_i b_i psi_{i+1}

    Args:
        onsite, hopping, energy: As in `diagonal`.
        source: x (..., n, d), real or complex; its batch axes broadcast with the others.

    Returns:
        psi (..., n, d), complex.

    Raises:
        ValueError, TypeError: As `propagate`.

    Example:
        >>> import jax.numpy as jnp
        >>> psi = solve(jnp.zeros(2), jnp.ones(1), 1 + 1j, jnp.array([[1.0], [0.0]]))
        >>> [f"{x:.2f}" for x in psi[:, 0]]  # (z, 1) / (z^2 - 1)
        ['0.20-0.60j', '-0.20-0.40j']
    """
    c, x = _with_source(onsite, hopping, energy, source, None, linked=False)
    return _solve(c, x, choose("greens.propagate", None, c))


def _with_source(onsite, hopping, energy, source, initial, *, linked) -> tuple[Chain, Array]:
    onsite = _checks.at_least_1d("onsite", _checks.real("onsite", onsite))
    hopping = _checks.inexact("hopping", hopping)
    source = _checks.inexact("source", source)
    if source.ndim < 2 or source.shape[-2] != onsite.shape[-1]:
        raise ValueError(
            f"source must have shape (..., n={onsite.shape[-1]}, d), got {source.shape}"
        )
    shapes = {"source": source.shape[:-2]}
    if initial is not None:
        amplitude = jnp.shape(initial.amplitude)
        if not amplitude or amplitude[-1] != source.shape[-1]:
            raise ValueError(
                f"initial.amplitude must have d={source.shape[-1]} channels on its last axis, "
                f"got shape {amplitude}"
            )
        shapes |= {"initial.green": jnp.shape(initial.green), "initial.amplitude": amplitude[:-1]}
    dtype = real_dtype(onsite, hopping, source)
    batch = _checks.broadcast(**shapes)
    c = chain(onsite, hopping, energy, linked=linked, dtype=dtype, batch=batch)
    return c, _aligned(source, c)


def _aligned(source: Array, c: Chain) -> Array:
    """Sources (..., n, d) with the batch axes of the chain, those missing of size 1."""
    missing = len(c.batch) + 2 - source.ndim
    return astype(source, c.onsite.dtype).reshape((1,) * missing + source.shape)


@functools.partial(jax.jit, static_argnames=("implementation", "axis_name"))
def _propagate(
    c: Chain,
    x: Array,
    green: Planes,
    amplitude: Array | None,
    implementation: _dispatch.Implementation,
    axis_name: str | None,
) -> tuple[Array, Array]:
    if axis_name is None:
        return _piece(c, x, green, amplitude, implementation)
    c, x, green, amplitude = _sequence.pieces((c, x, green, amplitude), axis_name)
    green = _sequence.entry(c.onsite, c.weight, c.energy, green, implementation, axis_name)

    def run(source: Array, amplitude: Array) -> tuple[Array, Array]:
        return _piece(c, source, green, amplitude, implementation)

    return _sequence.waves(run, x, amplitude, axis_name)


def _piece(
    c: Chain,
    x: Array,
    green: Planes,
    amplitude: Array | None,
    implementation: _dispatch.Implementation,
) -> tuple[Array, Array]:
    if implementation != "xla":
        g, y = _by_kernels(c, x, green, amplitude, implementation)
        return jnp.broadcast_to(y, (*c.batch, *y.shape[-2:])), g
    g, y = _waves(c, x, green, amplitude)
    return _to_user(y, c), to_user(g, c)


@functools.partial(jax.jit, static_argnames="implementation")
def _solve(c: Chain, x: Array, implementation: _dispatch.Implementation) -> Array:
    if implementation != "xla":
        c, x = _varying.alike((c, x))
    # conj(b_{i-1}) -> b_i; what the roll puts behind the last site meets no site there.
    after = conjugate(Planes(*(jnp.roll(p, -1, 0) for p in c.link)))
    if implementation != "xla":
        g, y = _by_kernels(c, x, zero_state(c), None, implementation)
        y = jnp.broadcast_to(y, (*c.batch, *y.shape[-2:]))
        return wave_kernels.back(g * jnp.moveaxis(join(after), 0, -1), y, implementation)
    g, y = _waves(c, x, zero_state(c), None)
    factor = column(multiply(g, after))
    return _to_user(reverse(affine(reverse(factor), reverse(y))), c)


def _by_kernels(
    c: Chain,
    x: Array,
    green: Planes,
    amplitude: Array | None,
    implementation: _dispatch.Implementation,
) -> tuple[Array, Array]:
    """gL (*batch, n) and the waves (*b, n, d)."""
    c, x, green, amplitude = _varying.alike((c, x, green, amplitude))
    g = to_user(riccati(c.onsite, c.weight, c.energy, green, implementation), c)
    if amplitude is None:
        amplitude = jnp.zeros((*(1,) * len(c.batch), 1, x.shape[-1]), g.dtype)
    link = jnp.moveaxis(join(c.link), 0, -1)
    start = lax.complex(*split(amplitude[..., 0, :]))
    return g, wave_kernels.waves(g, link, x, start, implementation)


def _waves(c: Chain, x: Array, green: Planes, amplitude: Array | None) -> tuple[Planes, Planes]:
    onsite = jnp.broadcast_to(c.onsite, (c.onsite.shape[0], *c.batch))
    start = column(green) if amplitude is None else split(_sites_first(amplitude))
    return waves(onsite, c.link, c.energy, _sites_first(x), green, start)


def _sites_first(source: Array) -> Array | Planes:
    """Sources (*b, n, d) as (n, d, *b), planes if they are complex."""
    parts = split(source) if jnp.iscomplexobj(source) else source
    return jax.tree.map(lambda p: jnp.moveaxis(p, (-2, -1), (0, 1)), parts)


def _to_user(y: Planes, c: Chain) -> Array:
    array = join(Planes(*(jnp.moveaxis(p, (0, 1), (-2, -1)) for p in y)))
    return jnp.broadcast_to(array, (*c.batch, *array.shape[-2:]))
