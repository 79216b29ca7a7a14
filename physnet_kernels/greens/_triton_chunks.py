"""Runs of chunks in memory, one column a chunk and one row a number: device code."""

import triton
import triton.language as tl


@triton.jit
def store_last(runs, chunk, x0, x1, x2, x3, T: tl.constexpr, CHUNKS: tl.constexpr):
    """The last of T threads' four numbers, into column `chunk` of runs (4, CHUNKS)."""
    end = tl.arange(0, T) == T - 1
    at = runs + chunk + tl.zeros((T,), tl.int32)
    tl.store(at, x0, mask=end)
    tl.store(at + CHUNKS, x1, mask=end)
    tl.store(at + 2 * CHUNKS, x2, mask=end)
    tl.store(at + 3 * CHUNKS, x3, mask=end)


@triton.jit
def columns_in_front(
    runs, chunk, CHUNKS: tl.constexpr, PADDED: tl.constexpr, REVERSE: tl.constexpr
):
    """The PADDED columns in front of that of `chunk`, the nearest last, and which there are."""
    place = tl.arange(0, PADDED)
    if REVERSE:
        other = chunk + PADDED - place
        there = other < CHUNKS
    else:
        other = chunk - PADDED + place
        there = other >= 0
    return runs + other, there


@triton.jit
def load_rows4(at, there, CHUNKS: tl.constexpr):
    """Four rows of runs (4, CHUNKS) at columns that start `at`; zero where there is none."""
    x0 = tl.load(at, mask=there, other=0.0)
    x1 = tl.load(at + CHUNKS, mask=there, other=0.0)
    x2 = tl.load(at + 2 * CHUNKS, mask=there, other=0.0)
    x3 = tl.load(at + 3 * CHUNKS, mask=there, other=0.0)
    return x0, x1, x2, x3
