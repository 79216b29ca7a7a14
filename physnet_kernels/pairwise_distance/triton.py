"""Distances of all pairs by jax-triton: raw functions of float32 arrays, for CUDA devices.

Nothing here has derivatives or a batching rule.
"""

from typing import Any

import jax
import jax.numpy as jnp

from physnet_kernels.nearest_centroid import _operands
from physnet_kernels.nearest_centroid.triton import _call, _varying


def distances(u: jax.Array, v: jax.Array, s: jax.Array, *, tile: int = 64) -> jax.Array:
    """d (n, m) of tangent vectors u (n, d) and v (m, d), for s = sqrt(c), a scalar."""
    from physnet_kernels.pairwise_distance import _triton_tiles as device

    n, m = u.shape[0], v.shape[0]
    programs = -(-n // tile) * -(-m // tile)
    shapes = _shapes(u, v, tile)
    (d,) = _run(device.distance_kernel, (u, v), (s,), programs, [(n, m)], **shapes)
    return d


def gradient(
    u: jax.Array,
    v: jax.Array,
    s: jax.Array,
    cotangent: jax.Array,
    *,
    transposed: bool = False,
    tile: int = 32,
) -> tuple[jax.Array, jax.Array]:
    """The cotangent of u (n, d), from that of d (n, m), or (m, n) if transposed.

    Also its product with u (n), which its part across u does not round away.
    """
    from physnet_kernels.pairwise_distance import _triton_tiles as device

    strides = (1, u.shape[0]) if transposed else (v.shape[0], 1)
    slope, radial = _run(
        device.gradient_kernel,
        (u, v),
        (s, cotangent),
        -(-u.shape[0] // tile),
        [u.shape, u.shape[:1]],
        zeroed_outputs=(0,),
        ROW_STRIDE=strides[0],
        COLUMN_STRIDE=strides[1],
        **_shapes(u, v, tile),
    )
    return slope, radial * jnp.linalg.norm(u, axis=-1)


def _run(kernel: Any, points: Any, rest: Any, programs: int, out: Any, **options: Any) -> Any:
    lengths = [jnp.linalg.norm(x, axis=-1) for x in points]
    s, *rest = rest
    results = _call(
        kernel,
        (*points, *lengths, s[None], *rest),
        programs,
        out,
        num_warps=8,
        num_stages=1,
        enable_fp_fusion=False,  # the threads that share a pair must round its sums alike
        **options,
    )
    return [_varying(_varying(x, points[0]), points[1]) for x in results]


def _shapes(u: jax.Array, v: jax.Array, tile: int) -> dict[str, int]:
    return {
        "N": u.shape[0],
        "M": v.shape[0],
        "D": u.shape[1],
        "WIDE": _operands.width(u.shape[1]),
        "ROWS": tile,
        "COLUMNS": tile,
    }
