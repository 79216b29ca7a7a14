"""Recursions along chains by jax-triton: raw functions of float32 arrays, for CUDA devices.

Batch axes lead, those of all arguments of equal rank; sizes of 1 broadcast without being written
out. A complex argument is complex64 or a pair of its parts. Nothing here has derivatives or a
batching rule.
"""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from physnet_kernels.greens._batch import Lanes, lanes

Pair = tuple[jax.Array, jax.Array]  # real and imaginary parts
Constants = dict[str, Any]  # of a kernel, known when it is compiled
COUNTERS = 32  # numbers in front of the flags, as in `_triton_look_back`


def fraction(onsite: jax.Array, weight: jax.Array, energy: Pair, start: Pair) -> Pair:
    """g_i = 1 / (z - a_i - w_i g_{i-1}).

    Args:
        onsite: a (*b, n).
        weight: w (*b, n), w_0 the bond to what lies in front.
        energy: z (*b).
        start: g_{-1} (*b).

    Returns:
        g (*batch, n).
    """
    from physnet_kernels.greens import _triton_fraction as device

    plan, (onsite, weight, energy, start) = lanes((onsite, 1), (weight, 1), (energy, 0), (start, 0))
    shape = (*plan.batch, onsite.shape[-1])
    if not plan.count:
        return _empty(shape)
    cut = _chunks(onsite.shape[-1], plan.count)
    where = _where(plan, "ONSITE", "WEIGHT", "ENERGY", "START")
    operands = onsite, weight, *energy, *start
    runs = _runs(device.reduce_kernel, operands, 8, 1, plan, cut, LANES=plan.count, **where)
    real, imag = _call(
        device.left_kernel,
        (*operands, runs),
        (plan.count * cut["CHUNKS"],),
        [_real(shape)] * 2,
        **_whole(cut),
        **where,
    )
    return real, imag


def two_sided(onsite: jax.Array, weight: jax.Array, energy: Pair) -> tuple[jax.Array, Pair, Pair]:
    """The diagonal of the resolvent, and the half lines that it is made of.

    Args:
        onsite: a (*b, n).
        weight: w (*b, n), w_i the bond between sites i - 1 and i; w_0 = 0.
        energy: z (*b).

    Returns:
        G_ii (*batch, n), complex; gL_{i-1} and gR_{i+1}, zero where there is no such site.
    """
    from physnet_kernels.greens import _triton_fraction as device

    plan, (onsite, weight, energy) = lanes((onsite, 1), (weight, 1), (energy, 0))
    shape = (*plan.batch, onsite.shape[-1])
    if not plan.count:
        return jnp.zeros(shape, jnp.complex64), _empty(shape), _empty(shape)
    cut = _chunks(onsite.shape[-1], plan.count)
    where = _where(plan, "ONSITE", "WEIGHT", "ENERGY") | {"LANES": plan.count}
    operands = onsite, weight, *energy
    none = jnp.zeros(1, jnp.float32)
    starting = (*operands, none, none)
    runs = _runs(device.reduce_kernel, starting, 8, 2, plan, cut, START=0, **where)
    green, left_real, left_imag, right_real, right_imag = _call(
        device.two_sided_kernel,
        (*operands, runs),
        (plan.count * cut["CHUNKS"],),
        [_complex(shape)] + [_real(shape)] * 4,
        **_whole(cut),
        **where,
    )
    return green, (left_real, left_imag), (right_real, right_imag)


def affine(factor: Pair, source: Pair, *, reverse: bool) -> Pair:
    """y_i = A_i y_{i-1} + s_i, or from behind y_i = A_i y_{i+1} + s_i; zero in front.

    Args:
        factor: A (*b, n); that of the site that the recursion starts with is not used.
        source: s (*b, n).
        reverse: Whether it starts with the last site.

    Returns:
        y (*batch, n).
    """
    from physnet_kernels.greens import _triton_affine as device

    plan, (factor, source) = lanes((factor, 1), (source, 1))
    shape = (*plan.batch, factor[0].shape[-1])
    if not plan.count:
        return _empty(shape)
    cut = _chunks(shape[-1], plan.count)
    where = _where(plan, "FACTOR", "SOURCE") | {"REVERSE": reverse}
    operands = *factor, *source
    runs = _runs(device.reduce_kernel, operands, 4, 1, plan, cut, **where)
    real, imag = _call(
        device.solve_kernel,
        (*operands, runs),
        (plan.count * cut["CHUNKS"],),
        [_real(shape)] * 2,
        **_whole(cut),
        **where,
    )
    return real, imag


def affine_pair(
    factors: tuple[Pair, Pair], sources: tuple[Pair, Pair], *, reverse: tuple[bool, bool]
) -> tuple[Pair, Pair]:
    """Two recurrences of the same batch at once; arguments as `affine` takes them, by twos."""
    from physnet_kernels.greens import _triton_affine as device

    plan, (factors, sources) = lanes((factors, 1), (sources, 1))
    shape = (*plan.batch, factors[0][0].shape[-1])
    if not plan.count:
        return _empty(shape), _empty(shape)
    cut = _chunks(shape[-1], plan.count)
    where = _where(plan, "FACTOR", "SOURCE") | {"LANES": plan.count}
    where |= {"REVERSE0": reverse[0], "REVERSE1": reverse[1]}
    operands = *factors[0], *sources[0], *factors[1], *sources[1]
    runs = _runs(device.reduce_pair_kernel, operands, 4, 2, plan, cut, **where)
    real0, imag0, real1, imag1 = _call(
        device.solve_pair_kernel,
        (*operands, runs),
        (plan.count * cut["CHUNKS"], 2),
        [_real(shape)] * 4,
        **_whole(cut),
        **where,
    )
    return (real0, imag0), (real1, imag1)


def waves(
    link: jax.Array,
    green: jax.Array | None,
    source: jax.Array,
    start: jax.Array | None,
    *,
    reverse: bool,
) -> jax.Array:
    """y_i = g_i (x_i + l_i y_{i-1}), or from behind y_i = g_i (x_i + l_i y_{i+1}).

    Args:
        link: l (*b, n), complex.
        green: g (*b, n), complex; None is 1.
        source: x (*b, n, d), real or complex.
        start: y in front of the first site (*b, d), complex; None is 0, and the link of the first
            site is not used.
        reverse: Whether the last site is the first.

    Returns:
        y (*batch, n, d), complex.
    """
    from physnet_kernels.greens import _triton_waves as device

    scaled, is_started = green is not None, start is not None
    plan, (link, green, source, start) = lanes(
        (link, 1), (green if scaled else link, 1), (source, 2), (start if is_started else link, 1)
    )
    shape = (*plan.batch, *source.shape[-2:])
    if not math.prod(shape):
        return jnp.zeros(shape, jnp.complex64)
    cut = _tiles(shape[-2], shape[-1], plan.count)
    return _by_tiles(
        device.waves_kernel,
        (link, green, source, start),
        plan,
        cut,
        [_complex(shape)],
        warps=_warps(cut, numbers=4),
        SCALED=scaled,
        PAIRS=jnp.iscomplexobj(source),
        REVERSE=reverse,
        STARTED=is_started,
        **_where(plan, "LINK", "GREEN", "SOURCE", "START"),
    )[0]


def waves_transpose(
    link: jax.Array,
    green: jax.Array,
    cotangent: jax.Array,
    waves: jax.Array,
    start: jax.Array,
    *,
    is_complex: bool,
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The transpose of y_i = g_i (x_i + l_i y_{i-1}) at y, without conjugation.

    Args:
        link: l (*b, n), complex.
        green: g (*b, n), complex.
        cotangent: u of y (*b, n, d), complex.
        waves: y (*b, n, d), complex.
        start: y_{-1} (*b, d), complex.
        is_complex: Whether x is; a real one has the real part of the cotangent alone.

    Returns:
        t_i = u_i + l_{i+1} g_{i+1} t_{i+1} (*batch, n, d); g t, the cotangent of x; and sums over
        the channels (*batch, n): g_i y_{i-1} t_i, the cotangent of l, and y_i t_i, that of log g.
    """
    from physnet_kernels.greens import _triton_waves_transpose as device

    plan, operands = lanes((link, 1), (green, 1), (cotangent, 2), (waves, 2), (start, 1))
    shape = (*plan.batch, *cotangent.shape[-2:])
    if not math.prod(shape):
        zero = jnp.zeros(shape, jnp.complex64)
        return zero, zero if is_complex else zero.real, zero.sum(-1), zero.sum(-1)
    cut = _tiles(shape[-2], shape[-1], plan.count)
    sums = _complex((*shape[:-1], cut["COLUMNS"]))
    total, d_source, d_link, d_log = _by_tiles(
        device.transpose_kernel,
        operands,
        plan,
        cut,
        [_complex(shape), _complex(shape) if is_complex else _real(shape), sums, sums],
        warps=_warps(cut, numbers=2),
        PAIRS=is_complex,
        **_where(plan, "LINK", "GREEN", "COTANGENT", "WAVES", "START"),
    )
    return total, d_source, d_link.sum(-1), d_log.sum(-1)


def _real(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def _complex(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.complex64)


def _empty(shape: tuple[int, ...]) -> Pair:
    zero = jnp.zeros(shape, jnp.float32)
    return zero, zero


def _where(plan: Lanes, *names: str) -> Constants:
    """Which rows of the operands a lane reads."""
    return {"D1": plan.inner[0], "D2": plan.inner[1]} | dict(zip(names, plan.has, strict=True))


def _power(size: int) -> int:
    """The least power of two that is not less."""
    return 1 << (size - 1).bit_length()


def _chunks(n: int, count: int) -> Constants:
    """Sites a thread, threads a program and programs a lane, for numbers of one channel."""
    sites, threads = 8, 128
    while threads > 32 and threads * sites >= 2 * n:
        threads //= 2
    while -(-n // (sites * threads)) > 1024:
        sites *= 2
    return {"N": n, "S": sites, "T": threads, "CHUNKS": -(-n // (sites * threads))}


def _whole(cut: Constants) -> Constants:
    return cut | {"PADDED": _power(cut["CHUNKS"])}


def _runs(
    kernel: Any,
    operands: Sequence[jax.Array],
    numbers: int,
    systems: int,
    plan: Lanes,
    cut: Constants,
    **constants: Any,
) -> jax.Array:
    """The runs of all chunks; a lane that is one chunk needs none."""
    if cut["CHUNKS"] == 1:
        return jnp.zeros(1, jnp.float32)
    out = [_real((systems, plan.count, numbers, cut["CHUNKS"]))]
    return _call(kernel, operands, (plan.count * cut["CHUNKS"], systems), out, **cut, **constants)[
        0
    ]


def _tiles(n: int, d: int, count: int) -> Constants:
    """How chains, those of a lane and a block of channels, are cut into tiles, and these grouped.

    Groups of a chain wait for one another, about 3 us each, while the device is busy with those of
    the other chains. Where there are few chains, tiles of fewer channels make more of them, and
    more sites a tile make fewer groups: a tile has 512 runs' channels in any case.
    """
    channels = min(_power(d), 64)
    while channels > 16 and count * -(-d // channels) < 8:
        channels //= 2
    sites = 16
    rows = min(512 // channels, _power(-(-n // sites)))
    tiles, columns = -(-n // (sites * rows)), -(-d // channels)
    return {
        "N": n,
        "D": d,
        "S": sites,
        "R": rows,
        "C": channels,
        "G": min(32, _power(tiles)),
        "TILES": tiles,
        "COLUMNS": columns,
        "CHAINS": count * columns,
    }


def _warps(cut: Constants, *, numbers: int) -> int:
    """Of a tile, so that a thread has so many numbers of its runs and channels."""
    return max(1, cut["R"] * cut["C"] // (32 * numbers))


def _by_tiles(
    kernel: Any,
    operands: Sequence[jax.Array],
    plan: Lanes,
    cut: Constants,
    out: Sequence[jax.ShapeDtypeStruct],
    warps: int,
    **constants: Any,
) -> list[jax.Array]:
    """A kernel whose programs pass on what they find, beside what it is for."""
    tiles = cut["CHAINS"] * cut["TILES"]
    passed = [
        jax.ShapeDtypeStruct((COUNTERS + tiles,), jnp.int32),
        _complex((tiles,)),
        _complex((plan.count, cut["TILES"], cut["D"])),
    ]
    results = _call(
        kernel, operands, (tiles,), passed + list(out), warps, zeroed=(0,), **cut, **constants
    )
    return results[len(passed) :]


def _call(
    kernel: Any,
    operands: Sequence[jax.Array],
    grid: Any,
    out: Sequence[jax.ShapeDtypeStruct],
    warps: int | None = None,
    zeroed: Sequence[int] = (),
    **constants: Any,
) -> list[jax.Array]:
    import jax_triton.triton_lib

    # jax_triton has no name for a pointer to complex numbers, which the kernels see as pairs. To
    # take them apart outside would be one more pass over memory for the largest arrays.
    names = jax_triton.triton_lib._JAX_TO_TRITON_TYPE_MAP
    names.setdefault(jnp.dtype("complex64"), "fp32")
    return jax_triton.triton_call(
        *operands,
        kernel=kernel,
        out_shape=list(out),
        grid=grid,
        num_warps=warps or constants["T"] // 32,
        zeroed_outputs=zeroed,
        **constants,
    )
