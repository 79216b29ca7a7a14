"""The distance in polar coordinates, without cancellation near and without overflow far out.

    sinh^2(D / 2) = sinh^2((r - r') / 2) + sinh r sinh r' sin^2(theta / 2),    r = 2 s |v|

for tangent vectors v, v' at the origin and s = sqrt(c); D = s d.
"""

import jax
import jax.numpy as jnp

from physnet.hyperbolic import _exact
from physnet.hyperbolic import _functions as fn

_CAP = 80.0  # of exponents: exp(80) is finite in float32


@jax.custom_jvp
def separation(v: jax.Array, w: jax.Array, s: jax.Array) -> jax.Array:
    """D of tangent vectors v and w; the last axis, of length 1, is kept."""
    a, b = fn.norm(v), fn.norm(w)
    r, q, rho = 2 * s * a, 2 * s * b, _radial(v, w, a, b, s)
    mean = 0.5 * (r + q)
    # In units of exp(mean): sinh(rho / 2), sqrt(sinh r sinh q) sin(theta / 2) and sinh(D / 2).
    radial = 0.5 * jnp.exp(-jnp.minimum(r, q)) * -jnp.expm1(-jnp.abs(rho))
    across = 0.5 * fn.root(jnp.expm1(-2 * r) * jnp.expm1(-2 * q)) * half_sine(v, w, a, b)
    size = fn.norm(jnp.concatenate(jnp.broadcast_arrays(radial, across), -1))
    sinh = jnp.exp(jnp.minimum(mean, _CAP)) * size
    near = sinh < 1
    size = jnp.where(near, jnp.ones_like(size), size)
    far = mean + jnp.log(size) + jnp.log1p(fn.root(1 + jnp.square(jnp.exp(-mean) / size)))
    return 2 * jnp.where(near, jnp.arcsinh(sinh), far)


def _radial(v: jax.Array, w: jax.Array, a: jax.Array, b: jax.Array, s: jax.Array) -> jax.Array:
    """2 s (|v| - |w|), to the accuracy of v - w."""
    return 2 * s * fn.dot(fn.unit(v + w, a + b), v - w)


def half_sine(v: jax.Array, w: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """sin(theta / 2) for the angle between v and w of lengths a and b, also when it is tiny."""
    n, m = fn.unit(v, a), fn.unit(w, b)
    cosine = fn.dot(n, m)
    sharp = cosine > 0
    across, along, _ = _exact.nearly_perpendicular(v, w)
    size = fn.norm(across)
    size = size * fn.root(1 - jnp.square(along / jnp.where(size > 0, size, jnp.ones_like(size))))
    sine = size / jnp.where(a > 0, a, jnp.ones_like(a))
    below = jnp.sqrt(2 * (1 + jnp.where(sharp, cosine, jnp.zeros_like(cosine))))
    same = jnp.all(v == w, -1, keepdims=True)
    return jnp.where(sharp, jnp.where(same, 0 * sine, sine / below), 0.5 * fn.norm(n - m))


@separation.defjvp
def _separation_jvp(primals, tangents):
    v, w, s = primals
    dv, dw, ds = tangents
    distance = separation(v, w, s)
    grad_v, grad_w = _gradients(v, w, s, distance)
    ds = ds / s
    return distance, fn.dot(grad_v, dv + ds * v) + fn.dot(grad_w, dw + ds * w)


def _gradients(v: jax.Array, w: jax.Array, s: jax.Array, distance: jax.Array):
    """Of D in v and w; 0 where D is 0."""
    sine = half_sine(v, w, fn.norm(v), fn.norm(w))
    return _gradient(v, w, s, sine, distance), _gradient(w, v, s, sine, distance)


def _gradient(v, w, s, sine, distance):
    apart = distance > 0
    d = jnp.where(apart, distance, jnp.ones_like(distance))
    radial, across = directions(v, w, s, sine, d)
    r = 2 * s * fn.norm(v)
    sinhc = fn.sinh_quotient(r * r, jnp.minimum(r, _CAP))
    gradient = 2 * s * (radial + sinhc * across) / jnp.expm1(-2 * d)
    return jnp.where(apart, gradient, jnp.zeros_like(gradient))


def directions(v, w, s, sine, distance):
    """The parts along and across n = v / |v| of the unit vector at v towards w, times
    1 - exp(-2D) and so smooth at D = 0:

        -(sinh(r - q) + 2 cosh r sinh q sin^2(theta / 2)) n + sinh q e    over sinh D

    for radii r of v and q of w, with e the part of w / |w| across n. At v = 0 all is across.
    """
    a, b = fn.norm(v), fn.norm(w)
    r, q, rho = 2 * s * a, 2 * s * b, _radial(v, w, a, b, s)
    n, size = fn.unit(v, a), jnp.abs(rho)
    apart = size > 0
    slope = jnp.expm1(-2 * size) / jnp.where(apart, size, jnp.ones_like(size))
    slope = jnp.where(apart, slope, jnp.full_like(size, -2))
    straight = rho * slope * jnp.exp(size - distance)
    lift = jnp.exp(0.5 * jnp.minimum(r + q - distance, _CAP))
    bent = jnp.square(lift * sine) * (1 + jnp.exp(-2 * r)) * jnp.expm1(-2 * q)
    off = b > 0
    at_origin = jnp.where(off, jnp.zeros_like(b), 2 * s * fn.dot(w, n))  # |w| has no derivative
    along = straight + bent + (1 + jnp.exp(-2 * r)) * at_origin
    rate = jnp.where(off, -jnp.expm1(-2 * q) / jnp.where(off, b, jnp.ones_like(b)), 4 * s)
    rate = jnp.exp(jnp.minimum(q - distance, _CAP)) * rate
    across, left, _ = _exact.nearly_perpendicular(w, v)
    return along * n, rate * across - rate * left * n
