"""Chains cut over the devices of a mesh axis: what lies in front of each device's piece.

With an absorbing lead of self-energy -i k in front of it, a piece has the Green's functions e at
its last site, f at its first, and t = G_{last,first} G_{first,last} from one to the other and back.
What really lies in front, a half line of Green's function g behind a bond b, differs from the lead
by d = |b|^2 g + i k, and Dyson's equation puts it in its place:

    g at the last site = e + t d / (1 - f d).

So e, f and t of a chain, and its bond, are all that crosses devices: what lies in front of each
piece follows from them, one after another. Waves are linear in the one that enters.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from physnet import _dispatch, _varying
from physnet.greens._planes import Planes, add, multiply, reciprocal, scale, square
from physnet.greens._riccati import riccati

_Composite = tuple[Planes, Planes, Planes]  # e, f, t


def entry(
    onsite: jax.Array,
    weight: jax.Array,
    energy: Planes,
    initial: Planes,
    implementation: _dispatch.Implementation,
    axis_name: str,
) -> Planes:
    """Green's function of the site in front of this device's piece.

    Args:
        onsite: a (n, *b) of this piece.
        weight: w_{i-1} (n, *b), that of the bond to the device in front included.
        energy: z (1, *b), Im z > 0.
        initial: g in front of the whole chain (1, *b), the same on all devices.
        implementation: A name.
        axis_name: The axis of the mesh.

    Returns:
        g_{-1} (1, *batch), the batch broadcast.
    """
    own = _composite(onsite, weight, energy, implementation)
    first = weight[:1]
    parts, bonds = lax.all_gather((own, first), axis_name)
    start = Planes(*(x + jnp.zeros_like(own[0].real) for x in initial))
    start = _varying.alike(start, parts, bonds)

    def pass_by(before: Planes, piece: tuple[_Composite, jax.Array]) -> tuple[Planes, Planes]:
        (e, f, t), w = piece
        d = Planes(w * before.real, w * before.imag + _lead(w))
        fd = multiply(f, d)
        back = multiply(multiply(t, d), reciprocal(Planes(1 - fd.real, -fd.imag)))
        return add(e, back), before

    entries = lax.scan(pass_by, start, (parts, bonds))[1]
    return mine(entries, axis_name)


def mine(everyones: Planes, axis_name: str) -> Planes:
    """The entry of this device's number along axis 0."""
    index = lax.axis_index(axis_name)
    return Planes(*(lax.dynamic_index_in_dim(x, index, 0, keepdims=False) for x in everyones))


def last(x: jax.Array, axis_name: str) -> jax.Array:
    """What the last device of the axis has, on all of them; of planes, as XLA wants sums."""
    here = lax.axis_index(axis_name) == lax.axis_size(axis_name) - 1

    def one(part: jax.Array) -> jax.Array:
        return lax.psum(jnp.where(here, part, jnp.zeros_like(part)), axis_name)

    return lax.complex(one(x.real), one(x.imag))


def waves(
    run: Callable[[Any, Any], tuple[jax.Array, jax.Array]],
    source: jax.Array,
    amplitude: jax.Array | None,
    axis_name: str,
) -> tuple[jax.Array, jax.Array]:
    """The waves of this device's piece.

    One more channel, without sources, carries a wave of 1 from the entry on: what the others make
    of the wave that really enters, which the pieces tell one another last.

    Args:
        run: (source (*b, n, c), amplitude (*b, 1, c)) -> waves (*batch, n, c) and gL.
        source: x (*b, n, d) of this piece.
        amplitude: The wave in front of the whole chain (*b, 1, d); None is none.
        axis_name: The axis of the mesh.

    Returns:
        y (*batch, n, d) and gL.
    """
    rank, channels = source.ndim, source.shape[-1]
    wider = jnp.pad(source, ((0, 0),) * (rank - 1) + ((0, 1),))
    unit = (jnp.arange(channels + 1) == channels).astype(source.real.dtype)
    unit = lax.complex(unit, jnp.zeros_like(unit)).reshape((1,) * (rank - 1) + (-1,))
    y, green = run(wider, unit)
    y, path = y[..., :channels], y[..., channels:]
    planes = lax.all_gather((path[..., -1:, :].real, path[..., -1:, :].imag), axis_name)
    ends = lax.all_gather((y[..., -1:, :].real, y[..., -1:, :].imag), axis_name)
    start = jnp.zeros_like(y[..., -1:, :])
    start = _varying.alike(start if amplitude is None else start + amplitude, ends)

    def pass_by(before: jax.Array, piece: tuple[jax.Array, jax.Array]):
        factor, end = piece
        return factor * before + end, before

    entries = lax.scan(pass_by, start, (lax.complex(*planes), lax.complex(*ends)))[1]
    entering = lax.dynamic_index_in_dim(entries, lax.axis_index(axis_name), 0, keepdims=False)
    return y + path * entering, green


def pieces(tree: Any, axis_name: str) -> Any:
    """The arrays, varying over the axis and all that one of them varies over."""
    return _varying.alike(tree, lax.axis_index(axis_name))


def _lead(weight: jax.Array) -> jax.Array:
    """k = sqrt(w); the entries do not depend on it, nor do their derivatives."""
    return lax.stop_gradient(jnp.sqrt(weight))


def _composite(
    onsite: jax.Array, weight: jax.Array, energy: Planes, implementation: _dispatch.Implementation
) -> _Composite:
    """e, f and t of a piece behind its lead, (1, *batch) each."""
    k = _lead(weight[:1])
    # -i k as w g of the lead, with a weight of 1
    lead = Planes(jnp.zeros_like(k + energy.real), -k + jnp.zeros_like(energy.real))
    linked = jnp.concatenate([jnp.ones_like(weight[:1]), weight[1:]])
    g = riccati(onsite, linked, energy, lead, implementation)
    # the first site from behind: its part of the chain to the right, and the lead
    behind = Planes(*map(jnp.zeros_like, lead))
    if len(onsite) > 1:
        after = jnp.concatenate([weight[1:], jnp.zeros_like(weight[:1])])[1:]
        right = riccati(onsite[1:][::-1], after[::-1], energy, behind, implementation)
        behind = scale(weight[1:2], Planes(right.real[-1:], right.imag[-1:]))
    f = reciprocal(Planes(energy.real - onsite[:1] - behind.real, energy.imag + k - behind.imag))
    # t = f_0^2 prod w_i g_i^2: no part of the product is larger than Green's functions are
    head = Planes(g.real[:1], g.imag[:1])
    t = square(head)
    if len(onsite) > 1:
        rest = Planes(g.real[1:], g.imag[1:])
        path = scale(weight[1:], square(rest))
        t = multiply(t, _product(path))
    return Planes(g.real[-1:], g.imag[-1:]), f, t


def _product(x: Planes) -> Planes:
    """Over the sites, (1, *b), by halves."""
    while len(x.real) > 1:
        half = len(x.real) // 2
        one, other, rest = (
            Planes(*(p[part] for p in x))
            for part in (slice(half), slice(half, 2 * half), slice(2 * half, None))
        )
        x = Planes(*map(jnp.concatenate, zip(multiply(one, other), rest, strict=True)))
    return x
