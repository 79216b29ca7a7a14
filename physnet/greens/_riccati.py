"""The continued fraction g_i = 1 / (z - a_i - w_{i-1} g_{i-1}), with derivatives of all orders."""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax

from physnet import _dispatch
from physnet.greens import _kernels
from physnet.greens._chunks import by_platform, fold, unfold
from physnet.greens._planes import Planes, add, multiply, reciprocal, scale, square
from physnet.greens._recurrence import affine


def _riccati(
    onsite: jax.Array,
    weight: jax.Array,
    energy: Planes,
    initial: Planes,
    implementation: _dispatch.Implementation,
) -> Planes:
    """Green's functions of the growing half line.

    Args:
        onsite: a (n, *b).
        weight: w_{i-1} (n, *b).
        energy: z (1, *b), Im z > 0.
        initial: g_{-1} (1, *b), used as far as w_{-1} is not 0.
        implementation: A name.

    Returns:
        g (n, *batch), the batch broadcast; Im g <= 0.
    """
    if implementation != "xla":
        return _kernels.fraction(implementation, onsite, weight, energy, initial)
    shape = jnp.broadcast_shapes(onsite.shape, weight.shape, energy.real.shape)
    few = few_lanes(math.prod(shape[1:]))
    return by_platform(_run, shape[0], onsite, weight, energy, initial, cpu_chunks=few)


def few_lanes(lanes: int) -> bool:
    """Whether a CPU gains by chunks of a long chain.

    XLA makes one native loop of a single lane; from 64 lanes on a step's vectors are long enough.
    """
    return 1 < lanes < 64


riccati = jax.custom_jvp(_riccati, nondiff_argnums=(4,))


@riccati.defjvp
def _riccati_jvp(implementation, primals, tangents):
    _, weight, _, initial = primals
    d_onsite, d_weight, d_energy, d_initial = tangents
    g = riccati(*primals, implementation)
    # dg_i = g_i^2 (da_i - dz + dw g_{i-1} + w dg_{i-1})
    squared = square(g)
    before = Planes(
        *(jnp.concatenate([_expand(i, p), p[:-1]]) for i, p in zip(initial, g, strict=True))
    )
    direct = scale(d_weight, before)
    direct = Planes(direct.real + d_onsite - d_energy.real, direct.imag - d_energy.imag)
    entry = scale(weight[:1], d_initial)
    direct = Planes(*(p.at[:1].add(first) for p, first in zip(direct, entry, strict=True)))
    return g, affine(
        scale(weight, squared), multiply(squared, direct), implementation=implementation
    )


def _expand(first: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.broadcast_to(first, (1, *like.shape[1:]))


@functools.partial(jax.jit, static_argnums=0)
def _run(length: int, onsite, weight, energy: Planes, initial: Planes) -> Planes:
    # A sum of one step's operands has the type of the carry: shape, varying axes in shard_map.
    like = jnp.zeros_like(onsite[0] + weight[0] + energy.real[0] + energy.imag[0])
    initial = Planes(*(like + p[0] for p in initial))
    z = Planes(energy.real[0], energy.imag[0])
    if not length:
        return _replay(onsite, weight, z, initial)
    a, w = fold(onsite, length), fold(weight, length)
    z = Planes(z.real[None], z.imag[None])
    g = _replay(a, w, z, _entries(a, w, z, initial))
    return Planes(*(unfold(p, onsite.shape[0]) for p in g))


def _replay(a: jax.Array, w: jax.Array, z: Planes, g: Planes) -> Planes:
    """The continued fraction over the leading axis, from g in front of it."""

    def step(g, site):
        a, w = site
        g = reciprocal(Planes(z.real - a - w * g.real, z.imag - w * g.imag))
        return g, g

    return lax.scan(step, g, (a, w))[1]


def _entries(a: jax.Array, w: jax.Array, z: Planes, initial: Planes) -> Planes:
    r"""g in front of each chunk, (chunks, *batch).

    With an absorbing lead of self-energy -i k, k = sqrt(w), in front, a chunk alone has its end's
    Green's function g, its first site's f and t = G_{end,first} G_{first,end}, all tame however
    sharp the levels of the closed chunk. What really lies in front differs from the lead by
    d = w g_before + i k, and Dyson's equation puts it in its place: g + t d / (1 - f d).
    """
    k = jnp.sqrt(w[0])
    like = jnp.zeros_like(initial.real[None] + k)
    g = reciprocal(Planes(z.real - a[0] + like, z.imag + k + like))

    def grow(chunk, site):
        g, f, t = chunk
        a, w = site
        g = reciprocal(Planes(z.real - a - w * g.real, z.imag - w * g.imag))
        path = scale(w, multiply(t, g))
        return (g, add(f, path), multiply(path, g)), None

    chunks = lax.scan(grow, (g, g, square(g)), (a[1:], w[1:]))[0]

    def enter(before, chunk):
        (g, f, t), w, k = chunk
        d = Planes(w * before.real, w * before.imag + k)
        fd = multiply(f, d)
        back = multiply(multiply(t, d), reciprocal(Planes(1 - fd.real, -fd.imag)))
        return add(g, back), before

    return lax.scan(enter, initial, (chunks, w[0], k))[1]
