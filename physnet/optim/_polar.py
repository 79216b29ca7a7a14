"""Steps in tangent coordinates at the origin: closed forms of polar coordinates, far out too.

A point x = exp_0(v) of curvature -c has the direction u = v/|v| and the radius r = 2 sqrt(c)|v|,
its distance from the origin in units of 1/sqrt(c). A tangent vector at x is kept by its components
in an orthonormal frame: w in R^d is dr/sqrt(c) along u and sinh(r) du/sqrt(c) across it. So lengths
are Euclidean lengths of w, and nothing grows with r.

Let e = w/|w| make the angle a with u, l = sqrt(c)|w|, and t be the unit vector across u towards e.
On the hyperboloid exp_x(w) has the space part X = X_u u + X_t t, with A = cos^2(a/2) and
B = sin^2(a/2):

    X_u = A sinh(r + l) + B sinh(r - l),    X_t = sinh(l) sin(a)
    sinh^2(r'/2) = A sinh^2((r + l)/2) + B sinh^2((r - l)/2)

Nothing cancels where r is large. Parallel transport along the way leaves what is across the plane
(u, t) and turns that plane by minus the area of the triangle (0, x, exp_x w):

    tan(area/2) = T sin(a) / (1 + T cos(a)),    T = tanh(r/2) tanh(l/2)
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def norm(x: Float[Array, "*b d"]) -> Float[Array, "*b 1"]:
    """Euclidean length over the last axis, without squares that leave the range of floats."""
    # Its derivative cancels, and where a backward pass computes x again it may find no maximum.
    most = jax.lax.stop_gradient(jnp.max(jnp.abs(x), axis=-1, keepdims=True))
    scale = jnp.where((most > 0) & (most < jnp.inf), most, jnp.ones_like(most))
    return scale * jnp.sqrt(jnp.sum((x / scale) ** 2, axis=-1, keepdims=True))


def dot(x: Float[Array, "*b d"], y: Float[Array, "*b d"]) -> Float[Array, "*b 1"]:
    """Sum of products over the last axis, elementwise: no matrix unit rounds it."""
    return jnp.sum(x * y, axis=-1, keepdims=True)


def unit(x: Float[Array, "*b d"], length: Float[Array, "*b 1"]) -> Float[Array, "*b d"]:
    """x / length, and 0 where the length is."""
    return x / jnp.where(length == 0, jnp.ones_like(length), length)


def gradient(v: Float[Array, "*b d"], grad: Float[Array, "*b d"], root) -> Float[Array, "*b d"]:
    """The Riemannian gradient, in the frame, of what has the derivative `grad` by v.

    The metric is 2^2 along v and (2 sinh(r)/r)^2 across it; root = sqrt(c).
    """
    length = norm(v)
    u, r = unit(v, length), 2 * root * length
    bounded = jnp.where(r > 0, jnp.minimum(r, 80), jnp.ones_like(r))  # beyond: below 1e-32
    shrink = jnp.where(r > 0, bounded / jnp.sinh(bounded), jnp.ones_like(r))
    along = dot(grad, u) * u
    return (along + shrink * (grad - along)) / 2


def move(
    v: Float[Array, "*b d"],
    step: Float[Array, "*b d"],
    carried: Float[Array, "*b d"] | None,
    root: Float[Array, ""],
) -> tuple[Float[Array, "*b d"], Float[Array, "*b d"] | None]:
    """exp_x(step) as tangent coordinates, and `carried` transported there, both in the frame."""
    size, way = norm(v), norm(step)
    e = unit(step, way)
    u = jnp.where(size > 0, unit(v, size), e)
    r, l = 2 * root * size, root * way
    cos = dot(e, u)
    across = e - cos * u
    sin = norm(across)
    t = unit(across, sin)
    large = (1 + jnp.abs(cos)) / 2
    small = sin**2 / (4 * large)
    a, b = jnp.where(cos > 0, large, small), jnp.where(cos > 0, small, large)

    radius = _radius(a, b, (r + l) / 2, jnp.abs(r - l) / 2)
    nearer, apart = jnp.minimum(r, l), jnp.abs(r - l)
    forth = -a * jnp.expm1(-2 * (r + l))
    back = -b * jnp.exp(-2 * nearer) * jnp.expm1(-2 * apart)
    x_u = forth + jnp.where(r >= l, back, -back)
    x_t = -sin * jnp.exp(-r) * jnp.expm1(-2 * l)
    x = norm(jnp.concatenate([x_u, x_t], axis=-1))
    stays = (way == 0) | (x == 0)
    turned = jnp.where(x == 0, u, unit(x_u, x) * u + unit(x_t, x) * t)
    moved = jnp.where(stays, v, radius / (2 * root) * turned)
    if carried is None:
        return moved, None

    p, q = jnp.tanh(r / 2), jnp.tanh(l / 2)
    complement = 2 / (jnp.exp(r) + 1)  # 1 - tanh(r/2), without cancellation
    other = 2 / (jnp.exp(l) + 1)
    up = p * q * sin
    down = complement + other - complement * other + 2 * p * q * a  # 1 + T cos(a)
    total = up**2 + down**2
    safe = jnp.where(total == 0, jnp.ones_like(total), total)
    sin_area, versed = 2 * up * down / safe, 2 * up**2 / safe
    c_u, c_t = dot(carried, u), dot(carried, t)
    turned = (sin_area * c_t - versed * c_u) * u - (sin_area * c_u + versed * c_t) * t
    return moved, carried + turned


def _radius(a: jax.Array, b: jax.Array, more: jax.Array, less: jax.Array) -> jax.Array:
    """2 asinh sqrt(a sinh^2(more) + b sinh^2(less)) for more >= less >= 0, without overflow."""
    far = 20.0
    near = [jnp.sqrt(s) * jnp.sinh(jnp.minimum(h, far)) for s, h in ((a, more), (b, less))]
    direct = 2 * jnp.arcsinh(norm(jnp.concatenate(near, axis=-1)))
    parts = (
        -jnp.sqrt(a) * jnp.expm1(-2 * more),
        -jnp.sqrt(b) * jnp.exp(less - more) * jnp.expm1(-2 * less),
    )
    scaled = norm(jnp.concatenate(parts, axis=-1))
    tiny = jnp.finfo(scaled.dtype).tiny
    log = more + jnp.log(jnp.maximum(scaled, tiny))  # of 2 sinh(r'/2)
    close = 2 * jnp.arcsinh(jnp.exp(jnp.minimum(log, far)) / 2)
    return jnp.where(more <= far, direct, jnp.where(log <= far, close, 2 * log))
