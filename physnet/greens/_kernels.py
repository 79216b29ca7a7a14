"""Kernels that an implementation offers, on planes with the sites in front.

Raw kernels have no derivatives: the rules that call them own those. `vmap` makes more lanes, and
within `shard_map` the results vary as the arguments do.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_batching import custom_vmap

from physnet import _dispatch, _varying
from physnet.greens._planes import Planes


def fraction(
    implementation: _dispatch.Implementation,
    onsite: jax.Array,
    weight: jax.Array,
    energy: Planes,
    initial: Planes,
) -> Planes:
    """g_i = 1 / (z - a_i - w_i g_{i-1}); shapes as `riccati` has them."""
    green = _raw(implementation, "fraction")(
        *map(_sites_last, (onsite, weight)), _of_lane(energy), _of_lane(initial)
    )
    return _sites_first(green)


def two_sided(
    implementation: _dispatch.Implementation,
    onsite: jax.Array,
    weight: jax.Array,
    energy: Planes,
) -> tuple[Planes, Planes, Planes]:
    """G_ii, gL_{i-1} and gR_{i+1}; shapes as `half_lines` has them."""
    kernel = _raw(implementation, "two_sided")
    green, left, right = kernel(*map(_sites_last, (onsite, weight)), _of_lane(energy))
    green = jnp.moveaxis(green, -1, 0)
    return Planes(green.real, green.imag), _sites_first(left), _sites_first(right)


def affine(
    implementation: _dispatch.Implementation, factor: Planes, source: Planes, *, reverse: bool
) -> Planes:
    """y_i = A_i y_{i-1} + s_i, or from behind; shapes (n, *b)."""
    kernel = _raw(implementation, "affine", reverse=reverse)
    return _sites_first(kernel(*(tuple(map(_sites_last, x)) for x in (factor, source))))


def affine_pair(
    implementation: _dispatch.Implementation,
    factors: tuple[Planes, Planes],
    sources: tuple[Planes, Planes],
    *,
    reverse: tuple[bool, bool],
) -> tuple[Planes, Planes]:
    """Two recurrences at once."""
    kernel = _raw(implementation, "affine_pair", reverse=reverse)
    one, two = kernel(
        *(tuple(tuple(map(_sites_last, x)) for x in pair) for pair in (factors, sources))
    )
    return _sites_first(one), _sites_first(two)


def waves(
    implementation: _dispatch.Implementation,
    link: jax.Array,
    green: jax.Array | None,
    source: jax.Array,
    start: jax.Array | None,
    *,
    reverse: bool = False,
) -> jax.Array:
    """y_i = g_i (x_i + l_i y_{i-1}) of complex l, g (*b, n), x (*b, n, d) and y_{-1} (*b, d)."""
    return _raw(implementation, "waves", reverse=reverse)(link, green, source, start)


def waves_transpose(
    implementation: _dispatch.Implementation,
    link: jax.Array,
    green: jax.Array,
    cotangent: jax.Array,
    waves: jax.Array,
    start: jax.Array,
    *,
    is_complex: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Cotangents of y (*b, n, d), of x, and (*b, n) of l and log g, of waves from sources x."""
    kernel = _raw(implementation, "waves_transpose", is_complex=is_complex)
    return kernel(link, green, cotangent, waves, start)


@functools.cache
def _raw(implementation: _dispatch.Implementation, name: str, **options: Any) -> Callable:
    """The kernel of this name: batch axes in front, of equal rank, sizes of 1 broadcast."""
    function = getattr(_dispatch.load("greens", implementation), name)

    def run(*operands):
        axes = tuple(_varying.axes(operands))
        results = function(*operands, **options)
        return jax.tree.map(lambda x: lax.pcast(x, axes, to="varying"), results)

    batched = custom_vmap(run)

    @batched.def_vmap
    def _more_lanes(size, mapped, *operands):
        operands = jax.tree.map(lambda x, m: x if m else x[None], operands, tuple(mapped))
        results = batched(*operands)
        return results, jax.tree.map(lambda _: True, results)

    return batched


def _sites_last(x: jax.Array) -> jax.Array:
    return jnp.moveaxis(x, 0, -1)


def _sites_first(x: tuple[jax.Array, jax.Array]) -> Planes:
    return Planes(*(jnp.moveaxis(p, -1, 0) for p in x))


def _of_lane(x: Planes) -> tuple[jax.Array, jax.Array]:
    """What has a single site, without its axis."""
    return x.real[0], x.imag[0]
