"""The nearest centroids by jax-triton: raw functions of float32 arrays, for CUDA devices.

Nothing here has derivatives or a batching rule.
"""

from typing import Any

import jax
import jax.numpy as jnp

from physnet_kernels.nearest_centroid import _operands

MOST = 16  # neighbours a token
LANES = 4  # that share a row of a product
COLUMNS = 64  # centroids of a tile: 16 a lane


def nearest(
    tokens: jax.Array, centroids: jax.Array, scale: jax.Array, *, top_k: int, **options: Any
) -> tuple[jax.Array, jax.Array]:
    """The nearest centroids of each token, all compared.

    Args:
        tokens: v (n, d), tangent vectors at the origin of hyperbolic space.
        centroids: (E, d), likewise.
        scale: r / |v| of the radius r in units of the curvature: 2 sqrt(c), a scalar.
        top_k: 1..min(E, MOST).
        options: As `propose` and `decide` take them.

    Returns:
        index (n, top_k) int32, the nearest first, and certified (n) bool: whether a bound on the
        rounding of the product proves it. The others were compared one by one with all centroids.
        A token that is not finite has some index and no proof.
    """
    if not tokens.shape[0]:
        return jnp.zeros((0, top_k), jnp.int32), jnp.zeros(0, bool)
    kept = options.pop("kept", 4)
    short, token_tail, token_length = _operands.tokens(tokens, scale)
    table, tail, length, finite = _operands.centroids(centroids, scale, COLUMNS, LANES)
    tiles = table.shape[0] // COLUMNS
    bits = max(1, (tiles - 1).bit_length())
    best, others = _propose(short, token_tail, table, tail, tiles, kept, bits, **options)
    operands = (tokens, token_length, centroids, length, best, others, scale[None], finite[None])
    found = _decide(operands, top_k, kept, bits, **options)
    index, certified = (_varying(_varying(x, tokens), centroids) for x in found)
    return index, certified


def _propose(short, token_tail, table, tail, tiles, kept, bits, rows=None, warps=8, stages=3, **_):
    from physnet_kernels.nearest_centroid import _triton_propose as device

    n, wide = short.shape
    rows = rows or (128 if wide <= 128 else 64)
    stages = stages if wide <= 64 else 2
    return _call(
        device.propose_kernel,
        (short, token_tail, table, tail),
        -(-n // rows),
        [(n, LANES, kept), (n, LANES)],
        num_warps=warps,
        num_stages=stages,
        N=n,
        TILES=tiles,
        D=wide,
        TAIL=_operands.TAIL,
        ROWS=rows,
        COLUMNS=COLUMNS,
        KEPT=kept,
        BITS=bits,
    )


def _decide(operands, top_k, kept, bits, some=2, group_warps=1, **_):
    from physnet_kernels.nearest_centroid import _triton_decide as device

    (n, d), experts = operands[0].shape, operands[2].shape[0]
    index, certified = _call(
        device.decide_kernel,
        (*operands[:-1], operands[-1].astype(jnp.int32)),
        -(-n // some),
        [jax.ShapeDtypeStruct((n, top_k), jnp.int32), jax.ShapeDtypeStruct((n,), jnp.int32)],
        num_warps=group_warps,
        num_stages=1,
        N=n,
        E=experts,
        D=d,
        ROWS=some,
        LANES=LANES,
        KEPT=kept,
        BITS=bits,
        TOP=top_k,
        ROUNDING=_operands.rounding(d),
    )
    return index, certified != 0


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
