"""Tokens that are not finite: device code.

A weight of zero times NaN is NaN, so that one such token spoils whole tiles. The kernels take for
granted that there is none; where there was one, they run again in a careful form.
"""

import triton
import triton.language as tl


@triton.jit
def doubt(x):
    """(rows, columns) -> a number for each row: not 0 where an entry is NaN or infinite."""
    return tl.sum(x.to(tl.float32) * 0.0, axis=1)


@triton.jit
def without(x, rows):
    """`x` with zeros for these rows."""
    return tl.where(rows[:, None], tl.zeros_like(x), x)


@triton.jit
def quiet(query, lse, shift):
    """Queries that are not finite; others whose result or cotangent is not; lse, shift without.

    With an lse of inf all weights of a row are 0: it has no gradient and gives none.
    """
    odd = doubt(query) != 0.0
    lost = ((lse != lse) | (shift * 0.0 != 0.0)) & (odd == 0)
    none = odd | lost
    return odd, lost, tl.where(none, float("inf"), lse), tl.where(none, 0.0, shift)
