"""What the product of tokens and centroids multiplies: a short float format, and a proven bound.

Klein's form of the distance, for radii r of a token and q of a centroid and their directions u, w:

    1 - cosh D / cosh r = tanh(r) u . sinh(q) w - 2 sinh^2(q / 2)

The vectors k = tanh(r) u and s = sinh(q) w are rounded to k', s'. By Cauchy and Schwarz

    k . s <= k' . s' + |k - k'| |s| + |k'| |s - s'|,

and the product forms this bound itself, from columns that follow those of the vectors. No score
that comes out is smaller than the exact one.
"""

import jax
import jax.numpy as jnp
import numpy as np

TAIL = 16  # columns behind the vectors: the least that a product of tiles takes
LOWEST = -1e30  # the score of what fills the last tile
_BF16 = 2.0**-7  # what rounding up adds at most, relatively


def tokens(v: jax.Array, scale: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """k' (n, D) and its tail (n, TAIL), bfloat16, and |v| (n).

    Args:
        v: (n, d), tangent vectors at the origin.
        scale: r / |v|.
    """
    length, unit = _polar(v)
    k = jnp.tanh(scale * length) * unit
    short, lost = _rounded(k)
    size, one = _norm(k), jnp.ones_like(length)
    tail = [one, one, one, _up(lost + rounding(v.shape[1]) * size), _up(_norm(short))]
    return _wide(short.astype(jnp.bfloat16)), _tail(tail), length[:, 0]


def centroids(
    v: jax.Array, scale: jax.Array, columns: int, lanes: int
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """s' (E', D) and its tail (E', TAIL), |v| (E), and whether all of it is finite.

    E' is E filled up to whole tiles of so many columns, of `lanes` groups each. A group are
    neighbours in v; in the table they stand as one of the four threads that share a row of a
    product holds its scores: in columns 2l, 2l + 1, 2l + 8, ..., l < 4, of a part of the tile.
    """
    length, unit = _polar(v)
    q = scale * length
    s = jnp.sinh(q) * unit
    short, lost = _rounded(s)
    bias = -2 * jnp.square(jnp.sinh(q / 2)) * (1 - rounding(v.shape[1]))
    high, middle, low = _three(bias)
    tail = _tail([high, middle, low, _up(_norm(s)), _up(lost)])
    table = _wide(short.astype(jnp.bfloat16))
    finite = jnp.isfinite(table).all() & jnp.isfinite(tail).all()
    missing = -v.shape[0] % columns
    empty = jnp.zeros((missing, TAIL), jnp.bfloat16).at[:, 0].set(LOWEST)
    table = jnp.pad(table, ((0, missing), (0, 0)))
    tail = jnp.concatenate([tail, empty])

    def by_lanes(x):
        x = x.reshape(-1, 4, columns // (2 * lanes), 2, x.shape[1])
        return x.swapaxes(1, 2).reshape(-1, x.shape[-1])

    return by_lanes(table), by_lanes(tail), length[:, 0], finite


def rounding(d: int) -> float:
    """A bound on the relative rounding of a score by float32: of its factors and of the sum."""
    return float(np.finfo(np.float32).eps) * (32 + 2 * d)


def width(d: int) -> int:
    """Coordinates of a tile: a power of two."""
    return max(16, 1 << (d - 1).bit_length())


def _polar(v: jax.Array) -> tuple[jax.Array, jax.Array]:
    length = _norm(v)
    return length, v / jnp.where(length > 0, length, jnp.ones_like(length))


def _norm(x: jax.Array) -> jax.Array:
    return jnp.linalg.norm(x, axis=-1, keepdims=True)


def _rounded(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """x in the short format, held in float32, and the length of what is lost."""
    short = _short(x)
    return short, _norm(x - short)


def _short(x: jax.Array) -> jax.Array:
    return jax.lax.reduce_precision(x, exponent_bits=8, mantissa_bits=7)


def _three(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """x as a sum of three short numbers."""
    high = _short(x)
    middle = _short(x - high)
    return high, middle, _short(x - high - middle)


def _up(x: jax.Array) -> jax.Array:
    """A short number that is not less."""
    return _short(x * (1 + _BF16))


def _tail(columns: list[jax.Array]) -> jax.Array:
    tail = jnp.concatenate(columns, -1).astype(jnp.bfloat16)
    return jnp.pad(tail, ((0, 0), (0, TAIL - len(columns))))


def _wide(x: jax.Array) -> jax.Array:
    return jnp.pad(x, ((0, 0), (0, width(x.shape[1]) - x.shape[1])))
