"""Distances of all pairs, a tile a program, and their gradients, from tiles again: device code."""

import triton
import triton.language as tl

from physnet_kernels.nearest_centroid._triton_polar import less_than_one
from physnet_kernels.pairwise_distance import _triton_geometry as geometry


@triton.jit
def distance_kernel(
    v,
    w,
    v_length,
    w_length,
    s_,
    out,
    N: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """out (N, M)."""
    across: tl.constexpr = (M + COLUMNS - 1) // COLUMNS
    row = tl.program_id(0) // across * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) % across * COLUMNS + tl.arange(0, COLUMNS)
    here, there = row < N, column < M
    s = tl.load(s_)
    a, b = tl.load(v_length + row, here, 0.0), tl.load(w_length + column, there, 0.0)
    x, y = geometry.rows(v, row, here, D, WIDE), geometry.rows(w, column, there, D, WIDE)
    cosine = geometry.cosine(x, y, a, b)
    closer, half = a[:, None] - b[None, :], 0.5 * (1 - cosine)
    if geometry.narrow(cosine, a, b):
        closer, half, _, _ = geometry.careful(v, w, row, column, here, there, a, b, D)
    apart = geometry.separation(closer, half, a[:, None], b[None, :], s) / s
    mask = here[:, None] & there[None, :]
    tl.store(out + row.to(tl.int64)[:, None] * M + column[None, :], apart, mask)


@triton.jit
def gradient_kernel(
    v,
    w,
    v_length,
    w_length,
    s_,
    cotangent,
    out,
    radial,
    N: tl.constexpr,
    M: tl.constexpr,
    D: tl.constexpr,
    WIDE: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    ROW_STRIDE: tl.constexpr,
    COLUMN_STRIDE: tl.constexpr,
):
    r"""out (N, D), zeros before, and radial (N), its part along n.

    That is the sum over j of g_ij times the gradient of d_ij in v_i,

        (2 P n_i - sinh r sinh q / (s a b) w_across) / sinh D,
        P = sinh(r - q) + 2 cosh r sinh q sin^2(theta / 2),

    with n = v / a and the part of w across v. Where the tile holds no small angle that part comes
    out of one product with the weights; else it is formed for each pair.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = row < N
    s = tl.load(s_)
    a = tl.load(v_length + row, here, 0.0)
    x = geometry.rows(v, row, here, D, WIDE)
    below = (1 / geometry.or_one(a))[:, None]
    total = tl.zeros((ROWS, WIDE), tl.float32)
    along = tl.zeros((ROWS,), tl.float32)  # times n
    back = tl.zeros((ROWS,), tl.float32)  # times v
    for start in range(0, M, COLUMNS):
        column = start + tl.arange(0, COLUMNS)
        there = column < M
        b = tl.load(w_length + column, there, 0.0)
        y = geometry.rows(w, column, there, D, WIDE)
        at = row.to(tl.int64)[:, None] * ROW_STRIDE + column.to(tl.int64)[None, :] * COLUMN_STRIDE
        g = tl.load(cotangent + at, here[:, None] & there[None, :], 0.0)
        cosine = geometry.cosine(x, y, a, b)
        if geometry.narrow(cosine, a, b):
            closer, half, first, second = geometry.careful(w, v, column, row, there, here, b, a, D)
            closer, half = -tl.trans(closer), tl.trans(half)
            straight, turn = _weights(closer, half, a[:, None], b[None, :], s)
            along += tl.sum(g * straight, 1)
            weight = tl.trans(g * turn)
            for part in range(0, D, 4):
                p = geometry.some(w, column, there, part, D)[:, None, :]
                q = geometry.some(v, row, here, part, D)[None, :, :]
                p = geometry._less(geometry._less(p, first, q), second, q)
                feature = part + tl.arange(0, 4)[None, :]
                tl.atomic_add(
                    out + row.to(tl.int64)[:, None] * D + feature,
                    tl.sum(weight[:, :, None] * p, 0),
                    here[:, None] & (feature < D),
                )
        else:
            closer, half = a[:, None] - b[None, :], 0.5 * (1 - cosine)
            straight, turn = _weights(closer, half, a[:, None], b[None, :], s)
            turn = g * turn
            along += tl.sum(g * straight, 1)
            back += tl.sum(turn * cosine * (b[None, :] * below), 1)
            total = tl.dot(turn, y, total, input_precision="tf32x3")
    total += x * (along[:, None] * below - back[:, None])
    feature = tl.arange(0, WIDE)[None, :]
    mask = here[:, None] & (feature < D)
    tl.atomic_add(out + row.to(tl.int64)[:, None] * D + feature, total, mask)
    tl.store(radial + row, along, here)


@triton.jit
def _weights(closer, half, a, b, s):
    """What stands before n and before the part of w across v; 0 where D is 0."""
    apart = geometry.separation(closer, half, a, b, s)
    r, q, rho = 2 * s * a, 2 * s * b, 2 * s * closer
    size = tl.abs(rho)
    straight = less_than_one(2 * size) * tl.exp(size - apart)
    straight = tl.where(rho < 0, -straight, straight)
    # exp(r + q - D) sin^2(theta / 2) in two factors, neither of which overflows
    lift = tl.exp(tl.minimum(0.5 * (r + q - apart), 40.0))
    sine = lift * tl.sqrt(half)
    straight += sine * sine * (2 - less_than_one(2 * r)) * less_than_one(2 * q)
    below = 1 / geometry.or_one(less_than_one(2 * apart))
    rate = tl.where(a > 0, less_than_one(2 * r) / geometry.or_one(a), 4 * s)
    rate *= tl.where(b > 0, less_than_one(2 * q) / geometry.or_one(b), 4 * s)
    turn = -rate * (lift * lift) * below / (2 * s)
    moved = apart > 0
    return tl.where(moved, 2 * straight * below, 0.0), tl.where(moved, turn, 0.0)
