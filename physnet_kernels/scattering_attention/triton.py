"""Attention over lists of blocks in Triton, through jax-triton: Ampere and later.

Shapes as in `_types`. One program takes a tile of queries (forward, dq) or of keys (dk and dv) over
the list of its block, in the order of the list, and pays for the mask only where a step says so.

The kernels take for granted that all is finite. Where it is not, a second, careful launch forms the
results again; else that one does nothing.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from physnet_kernels.scattering_attention import _triton_backward, _triton_forward
from physnet_kernels.scattering_attention._types import BLOCK, Labels, Lists, Rule

HEAD_DIMS = (16, 32, 64, 128, 256)
DTYPES = ("bfloat16", "float16", "float32")


class Tile(NamedTuple):
    """How a kernel cuts its blocks, and what it runs on."""

    rows: int  # queries, a divisor of 128
    columns: int  # keys, likewise
    warps: int
    stages: int


def forward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    lists: Lists,
    labels: Labels,
    *,
    rule: Rule,
    tile: Tile | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Softmax attention over the pairs that the lists visit and the labels let pass.

    Args:
        query: (B, 128 P, N, D), of one of DTYPES, D one of HEAD_DIMS.
        key, value: (B, 128 Q, K, D), likewise.
        lists, labels, rule: see `_types`.
        tile: by default one for this device.

    Returns:
        Output (B, 128 P, N, D) in the dtype of the query, 0 for a query without a pair; lse
        (B, N, 128 P) float32, -inf without a pair; and (B, K) int32, not 0 where something of a key
        head or of its queries is not finite. A query that is not, or that sees a key or value that
        is not, gets NaN; no other one does.
    """
    batch, length, heads, _ = query.shape
    key_heads = key.shape[2]
    tile = tile or _tile("forward", query)
    shape = (batch, heads, length // tile.rows)
    call = _calls(
        _triton_forward.forward_kernel,
        (query, key, value, lists.steps, lists.count, lists.order),
        labels,
        constants(lists, labels, rule),
        tile,
        programs=math.prod(shape),
        out_shape=(
            _like(query),
            jax.ShapeDtypeStruct((batch, heads, length), jnp.float32),
            jax.ShapeDtypeStruct(shape, jnp.int32),
        ),
    )
    results = call()
    again = jnp.any(results[2].reshape(batch, key_heads, -1) != 0, axis=-1).astype(jnp.int32)
    output, lse, _ = call(again, results)
    return _varying(output, query), _varying(lse, query), _varying(again, query)


def backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    d_output: jax.Array,
    lse: jax.Array,
    shift: jax.Array,
    again: jax.Array,
    lists: Lists,
    labels: Labels,
    *,
    rule: Rule,
    query_tile: Tile | None = None,
    key_tile: Tile | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Gradients of query, key and value, in their shapes and dtypes.

    Args:
        query, key, value, lists, labels, rule: as in `forward`.
        d_output: (B, 128 P, N, D), of the dtype of query.
        lse: (B, N, 128 P) float32, +inf where there is nothing to descend. Rows with NaN, or where
            `shift` is not finite, get NaN and give nothing to keys and values.
        shift: sum dO O - dlse (B, N, 128 P) float32.
        again: the last result of `forward`. What is not finite has no gradient.
        query_tile, key_tile: by default those for this device.
    """
    batch, length, heads, _ = query.shape
    _, key_length, key_heads, _ = key.shape
    lost = jnp.isnan(lse) | ~jnp.isfinite(shift)
    lost = jnp.any(lost.reshape(batch, key_heads, -1), axis=-1)
    again = again | lost.astype(jnp.int32)
    tensors = (query, key, value, d_output, lse * math.log2(math.e), shift)
    query_tile = query_tile or _tile("query", query)
    key_tile = key_tile or _tile("key", query)
    of_query = _calls(
        _triton_backward.query_kernel,
        (*tensors, lists.steps, lists.count, lists.order),
        labels,
        constants(lists, labels, rule),
        query_tile,
        programs=batch * heads * (length // query_tile.rows),
        out_shape=(_like(query),),
    )
    of_keys = _calls(
        _triton_backward.key_kernel,
        (*tensors, lists.key_steps, lists.key_count, lists.key_order),
        labels,
        constants(lists, labels, rule),
        key_tile,
        programs=batch * key_heads * (key_length // key_tile.columns),
        out_shape=(_like(key), _like(value)),
    )
    (d_query,), (d_key, d_value) = (call(again, call()) for call in (of_query, of_keys))
    return _varying(d_query, query), _varying(d_key, query), _varying(d_value, query)


def _like(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _calls(kernel, arrays, labels, settings, tile, *, programs, out_shape) -> Callable[..., Any]:
    """call(): results of the kernel. call(again, results): its careful form over these."""
    import jax_triton  # refuses to be imported where there is no GPU

    query, key = arrays[:2]
    steps = arrays[-3]
    there = labels.query_position  # stands in for what is not there; never read
    operands = (*arrays, *(there if label is None else label for label in labels))
    run = functools.partial(
        jax_triton.triton_call,
        kernel=kernel,
        out_shape=out_shape,
        grid=programs,
        num_warps=tile.warps,
        **settings,
        PRECISION="ieee",
        D=query.shape[3],
        HEADS=query.shape[2],
        KEY_HEADS=key.shape[2],
        ROWS=tile.rows,
        COLUMNS=tile.columns,
    )

    def call(again=None, results=None):
        careful = again is not None
        first, count = len(operands) + 1, len(out_shape)
        return run(
            *operands,
            again if careful else there,
            *(results if careful else (there,) * count),
            query.shape[1] // BLOCK,
            key.shape[1] // BLOCK,
            steps.shape[3],
            num_stages=1 if careful else tile.stages,  # it needs memory for what it cleans
            input_output_aliases={first + i: i for i in range(count)} if careful else None,
            CAREFUL=careful,
        )

    return call


def _varying(output: jax.Array, like: jax.Array) -> jax.Array:
    """In a shard_map, where jax-triton's results vary over no axis: over those of `like`.

    Writing nothing of `like` into the output says so, and compiles to nothing.
    """
    nothing = jnp.ravel(like)[:0].astype(output.dtype).reshape(0, *output.shape[1:])
    return jax.lax.dynamic_update_slice(output, nothing, (0,) * output.ndim)


def constants(lists: Lists, labels: Labels, rule: Rule) -> dict[str, Any]:
    """What the kernels are compiled for."""
    score = None if rule.band == "near" else labels.query_score  # the band is for every score
    return {
        "SCALE": rule.scale,
        "BAND": rule.band,
        "WINDOW": 0 if rule.band == "all" else rule.window,
        "IS_CAUSAL": rule.is_causal,
        "SEGMENTS": labels.query_segment is not None,
        "SCORES": score is not None,
        "OWN_LISTS": lists.steps.shape[1] > 1,
        "OWN_SCORES": score is not None and score.shape[1] > 1,
    }


def _tile(kernel: str, query: jax.Array) -> Tile:
    head_dim = max(query.shape[3], 64)
    if query.dtype == jnp.float32:
        if head_dim == 256:
            return Tile(16, 16, 4, 1)
        return Tile(32, 32, 8, 1) if kernel == "key" else Tile(64, 32, 8, 1)
    capability = jax.devices("gpu")[0].compute_capability
    return (_HOPPER if capability == "9.0" else _PORTABLE)[kernel, head_dim]


# Found by measurement on an H100.
_HOPPER = {
    ("forward", 64): Tile(64, 64, 4, 3),
    ("forward", 128): Tile(128, 128, 8, 3),
    ("forward", 256): Tile(128, 64, 8, 2),
    ("query", 64): Tile(64, 64, 4, 3),
    ("query", 128): Tile(128, 64, 8, 3),
    ("query", 256): Tile(128, 32, 8, 2),
    ("key", 64): Tile(64, 64, 4, 3),
    ("key", 128): Tile(64, 128, 8, 3),
    ("key", 256): Tile(64, 64, 8, 2),
}

# At most 99 KiB of shared memory and no spilled registers from compute capability 8.0 on.
_PORTABLE = {
    ("forward", 64): Tile(128, 64, 4, 2),
    ("forward", 128): Tile(128, 64, 8, 2),
    ("forward", 256): Tile(64, 32, 8, 2),
    ("query", 64): Tile(64, 64, 4, 2),
    ("query", 128): Tile(64, 64, 8, 1),
    ("query", 256): Tile(64, 32, 8, 1),
    ("key", 64): Tile(32, 64, 4, 2),
    ("key", 128): Tile(64, 64, 8, 1),
    ("key", 256): Tile(32, 32, 8, 1),
}
