"""The continued fraction g_i = 1 / (z - a_i - w_{i-1} g_{i-1}), with derivatives of all orders."""

import jax
import jax.numpy as jnp
from jax import lax

from physnet.greens._planes import Planes, multiply, reciprocal, scale, square
from physnet.greens._recurrence import recurrence


@jax.custom_jvp
def riccati(onsite: jax.Array, weight: jax.Array, energy: Planes, initial: Planes) -> Planes:
    """Green's functions of the growing half line.

    Args:
        onsite: a (n, *b).
        weight: w_{i-1} (n, *b).
        energy: z (1, *b), Im z > 0.
        initial: g_{-1} (1, *b), used as far as w_{-1} is not 0.

    Returns:
        g (n, *batch), the batch broadcast; Im g <= 0.
    """
    return _sequential(onsite, weight, energy, initial)


@riccati.defjvp
def _riccati_jvp(primals, tangents):
    _, weight, _, initial = primals
    d_onsite, d_weight, d_energy, d_initial = tangents
    g = riccati(*primals)
    # dg_i = g_i^2 (da_i - dz + dw g_{i-1} + w dg_{i-1})
    squared = square(g)
    before = Planes(
        *(jnp.concatenate([_expand(i, p), p[:-1]]) for i, p in zip(initial, g, strict=True))
    )
    direct = scale(d_weight, before)
    direct = Planes(direct.real + d_onsite - d_energy.real, direct.imag - d_energy.imag)
    entry = scale(weight[:1], d_initial)
    direct = Planes(*(p.at[:1].add(first) for p, first in zip(direct, entry, strict=True)))
    return g, recurrence(scale(weight, squared), multiply(squared, direct))


def _expand(first: jax.Array, like: jax.Array) -> jax.Array:
    return jnp.broadcast_to(first, (1, *like.shape[1:]))


@jax.jit
def _sequential(onsite: jax.Array, weight: jax.Array, energy: Planes, initial: Planes) -> Planes:
    z = Planes(energy.real[0], energy.imag[0])

    def step(g, xs):
        a, w = xs
        g = reciprocal(Planes(z.real - a - w * g.real, z.imag - w * g.imag))
        return g, g

    # A sum of one step's operands has the type of the carry: shape, varying axes in shard_map.
    like = jnp.zeros_like(onsite[0] + weight[0] + z.real + z.imag)
    return lax.scan(step, Planes(*(like + p[0] for p in initial)), (onsite, weight))[1]
