"""The nearest centroids by jax-triton: raw functions of float32 arrays, for CUDA devices.

Nothing here has derivatives or a batching rule.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from physnet_kernels.nearest_centroid import _operands

MOST = 16  # neighbours a token
COLUMNS = 64  # centroids of a tile


class Ways(NamedTuple):
    """How the kernels are cut up; results do not depend on it, times do."""

    lanes: int = 8  # lists a token has: 4, 8 or 16, of groups of 16, 8 or 4 centroids
    kept: int = 4  # groups of a list: 1, 2 or 4
    rows: int = 128  # tokens of a program that proposes, halved for vectors longer than 128
    warps: int = 8
    stages: int = 3
    pairs: int = 16  # that a warp compares at once, for vectors of 64 coordinates at most
    swept: int = 16  # tokens of a program that sweeps
    sweep_warps: int = 1


def nearest(
    tokens: jax.Array, centroids: jax.Array, scale: jax.Array, *, top_k: int, **ways: Any
) -> tuple[jax.Array, jax.Array]:
    """The nearest centroids of each token, all compared.

    Args:
        tokens: v (n, d), tangent vectors at the origin of hyperbolic space.
        centroids: (E, d), likewise.
        scale: r / |v| of the radius r in units of the curvature: 2 sqrt(c), a scalar.
        top_k: 1..min(E, MOST).
        ways: Fields of `Ways`.

    Returns:
        index (n, top_k) int32, the nearest first, and certified (n) bool: whether a bound on the
        rounding of a product excluded all centroids that were not compared. Where the bound
        overflows none was excluded. A token that is not finite has some index and no proof.
    """
    if not tokens.shape[0]:
        return jnp.zeros((0, top_k), jnp.int32), jnp.zeros(0, bool)
    cut = Ways(**ways)
    short, token_tail, token_length = _operands.tokens(tokens, scale)
    table, tail, length, finite = _operands.centroids(centroids, scale, COLUMNS, cut.lanes)
    products = (short, token_tail, table, tail)
    best, others = propose(products, cut)
    points = (tokens, token_length, centroids, length)
    scale = scale[None]
    decided = decide(points, best, others, scale, finite[None].astype(jnp.int32), top_k, cut)
    index = sweep(points, products, scale, decided, cut)
    index, certified = (_varying(_varying(x, tokens), centroids) for x in (index, decided[1]))
    return index, certified != 0


def propose(products: Any, cut: Ways) -> list[jax.Array]:
    """best (n, lanes, kept) and others (n, lanes), as the kernel says."""
    from physnet_kernels.nearest_centroid import _triton_propose as device

    (n, wide), tiles = products[0].shape, products[2].shape[0] // COLUMNS
    rows = cut.rows if wide <= 128 else cut.rows // 2
    return _call(
        device.propose_kernel,
        products,
        -(-n // rows),
        [(n, cut.lanes, cut.kept), (n, cut.lanes)],
        num_warps=cut.warps,
        num_stages=cut.stages if wide <= 64 else 2,
        N=n,
        TILES=tiles,
        D=wide,
        TAIL=_operands.TAIL,
        ROWS=rows,
        COLUMNS=COLUMNS,
        LANES=cut.lanes,
        KEPT=cut.kept,
        BITS=_bits(tiles),
    )


def decide(
    points: Any, best: Any, others: Any, scale: Any, finite: Any, top_k: int, cut: Ways
) -> list[jax.Array]:
    """index, certified, the tokens that are left for the sweep (n) and how many these are (1)."""
    from physnet_kernels.nearest_centroid import _triton_decide as device

    shapes = _shapes(points, top_k, cut)
    n, wide, group = points[0].shape[0], shapes["WIDE"], shapes["GROUP"]
    rows = max(1, cut.pairs * 64 // max(64, wide) // group)
    whole = lambda *shape: jax.ShapeDtypeStruct(shape, jnp.int32)  # noqa: E731
    return _call(
        device.decide_kernel,
        (*points, best, others, scale, finite),
        -(-n // rows),
        [whole(n, top_k), whole(n), whole(n), whole(1)],
        zeroed_outputs=(3,),
        num_warps=1,
        num_stages=1,
        N=n,
        ROWS=rows,
        KEPT=cut.kept,
        BITS=_bits(-(-points[2].shape[0] // COLUMNS)),
        **shapes,
    )


def sweep(points: Any, products: Any, scale: Any, decided: Any, cut: Ways) -> jax.Array:
    """index, with the tokens that queue compared with all that may be nearer."""
    from physnet_kernels.nearest_centroid import _triton_sweep as device

    index, certified, queue, waiting = decided
    operands = (*points, *products, scale, certified, queue, waiting, index)
    (swept,) = _call(
        device.sweep_kernel,
        operands,
        -(-index.shape[0] // cut.swept),
        [jax.ShapeDtypeStruct(index.shape, index.dtype)],
        input_output_aliases={len(operands) - 1: 0},
        num_warps=cut.sweep_warps,
        num_stages=2,
        TILES=products[2].shape[0] // COLUMNS,
        SHORT=products[0].shape[1],
        TAIL=_operands.TAIL,
        ROWS=cut.swept,
        COLUMNS=COLUMNS,
        **_shapes(points, index.shape[1], cut),
    )
    return swept


def _shapes(points: Any, top_k: int, cut: Ways) -> dict[str, Any]:
    """What the kernels that compare points share."""
    experts, d = points[2].shape
    return {
        "E": experts,
        "D": d,
        "WIDE": _operands.width(d),
        "LANES": cut.lanes,
        "GROUP": COLUMNS // cut.lanes,
        "TOP": top_k,
        "WIDTH": 1 << (top_k - 1).bit_length(),
        "ROUNDING": _operands.rounding(d),
    }


def _bits(tiles: int) -> int:
    return max(1, (tiles - 1).bit_length())


def _varying(output: jax.Array, like: jax.Array) -> jax.Array:
    """In a shard_map, where jax-triton's results vary over no axis: over those of `like`.

    Writing nothing of `like` into the output says so, and compiles to nothing.
    """
    nothing = jnp.ravel(like)[:0].astype(output.dtype).reshape(0, *output.shape[1:])
    return jax.lax.dynamic_update_slice(output, nothing, (0,) * output.ndim)


def _call(kernel: Any, operands: Any, programs: int, out: Any, **options: Any) -> list[jax.Array]:
    import jax_triton

    out = [jax.ShapeDtypeStruct(o, jnp.float32) if isinstance(o, tuple) else o for o in out]
    return jax_triton.triton_call(
        *operands, kernel=kernel, out_shape=out, grid=(programs,), **options
    )
