"""Poisson kernel on the dyadic lattice in O(N): its semigroup in z, decimation, exponentials.

All edges reflect: a line of n cells goes on as its mirror image, again and again.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from physnet.holography import _lattice
from physnet.holography._exponentials import poisson_tail

_NEAR, _TERMS = 16, 32  # exact up to the first, exponentials beyond it
_CHUNK = 64  # cells at most
_AHEAD = 3  # a level is computed from a grid so many times twice as fine
# Half way between two cells the kernel two cells deep sums to 1 less this: it would add up.
_LACK = 2 * math.exp(-4 * math.pi)


@functools.partial(jax.jit, static_argnums=1)
def to_bulk(line: Float[Array, "*b n"], levels: int) -> list[Array]:
    """phi_l at the slots, l = 0 .. levels - 1, of the sites' values.

    Grid j has cells of 2^j sites and holds the field at depth 2^{j+1}, two of its cells: there sums
    over cells are integrals but for `_LACK`. The semigroup takes it two cells deeper, onto grid
    j + 1.
    """
    direct = min(levels, _AHEAD + 1)
    found = []
    for level in range(direct):
        found += convolve(line, _lattice.depth(level), (_lattice.offset(level), 2**level))
    if direct < levels:
        (grid,) = convolve(line, 4.0, (0.5, 2))
    for _ in range(direct, levels):
        slots, grid = convolve(grid, 2.0, ((2**_AHEAD - 1) / 2, 2**_AHEAD), (0.5, 2))
        slots, grid = (x / (1 - _LACK) for x in (slots, grid))
        found.append(slots)
    return found


def convolve(
    u: Float[Array, "*b n"], depth: float, *grids: tuple[float, int]
) -> list[Float[Array, "*b _"]]:
    """sum_i P_depth(m stride + offset - i) u_i over the line and its images, m < n / stride.

    For each grid (offset, stride), the widest first, in units of the cells, with 0 <= offset <
    stride. Chunks of cells go through matrices; one number a term and direction passes on between
    them.
    """
    n, dtype, cells = u.shape[-1], u.dtype, grids[0][1]
    while n % (2 * cells) == 0 and 2 * cells <= _CHUNK:
        cells *= 2
    count, cell = n // cells, np.arange(cells)
    rate, weight = poisson_tail(depth, float(_NEAR), _TERMS)
    array = lambda table: jnp.asarray(table, dtype)  # noqa: E731
    decay = lambda lag: np.exp(-np.multiply.outer(lag, rate))  # noqa: E731

    def times(x, table):
        return jnp.matmul(x, array(table), precision=lax.Precision.HIGHEST)

    # What a chunk sends beyond its right end, in order, and beyond its left end, from the right.
    blocks = u.reshape(*u.shape[:-1], count, cells)
    sent = [times(blocks, decay(cell[::-1])), times(blocks, decay(cell))[..., ::-1, :]]
    sent = jnp.moveaxis(jnp.stack(sent), -2, 0)  # (count, 2, ..., Q)

    def step(state, more):
        return state * array(decay(cells)).reshape((1,) * (state.ndim - 1) + (-1,)) + more, state

    last, states = lax.scan(step, sent[0], sent[1:])
    # What comes in over the edges, from all images: geometric sums over the period 2 n.
    wide = (1,) * u.ndim + (-1,)
    images = last[::-1] + last * array(decay(n)).reshape(wide)
    images = images * array(-1 / np.expm1(-2 * n * rate)).reshape(wide)
    faded = array(decay(np.arange(count) * cells)).reshape(count, *wide)
    states = jnp.concatenate([jnp.zeros_like(sent[:1]), states]) + faded * images[None]
    here = jnp.moveaxis(states, 0, -2)  # (2, ..., count, Q)

    around = np.arange(-_NEAR, cells + _NEAR)
    index = (np.arange(count)[:, None] * cells + around) % (2 * n)
    window = u[..., np.minimum(index, 2 * n - 1 - index)]
    found = []
    for offset, stride in grids:
        place = np.arange(offset, cells, stride)
        # A chunk's own cells, and the kernel itself up to `_NEAR` off, where exponentials fail.
        lag = np.abs(place[:, None] - around)
        far, exact = decay(lag) @ weight, depth / (np.pi * (depth**2 + lag**2))
        others = np.where((around >= 0) & (around < cells), 0.0, far)
        out = times(window, (np.where(lag < _NEAR, exact, far) - others).T)
        out += times(here[0], (weight * decay(place + 1)).T)
        out += times(here[1][..., ::-1, :], (weight * decay(cells - place)).T)
        found.append(out.reshape(*u.shape[:-1], n // stride))
    return found
