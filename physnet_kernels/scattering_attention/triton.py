"""Attention over lists of blocks in Triton, through jax-triton: Ampere and later.

Shapes as in `_types`. One program takes a tile of queries (forward, dq) or of keys (dk and dv) over
the list of its block, in the order of the list, and pays for the mask only where a step says so.
"""

import math
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
) -> tuple[jax.Array, jax.Array]:
    """Softmax attention over the pairs that the lists visit and the labels let pass.

    Args:
        query: (B, 128 P, N, D), finite, of one of DTYPES, D one of HEAD_DIMS.
        key, value: (B, 128 Q, K, D), likewise.
        lists, labels, rule: see `_types`.
        tile: by default one for this device.

    Returns:
        Output (B, 128 P, N, D) in the dtype of the query, 0 for a query without a pair, and lse
        (B, N, 128 P) float32, -inf without a pair.
    """
    batch, length, heads, _ = query.shape
    lse = jax.ShapeDtypeStruct((batch, heads, length), jnp.float32)
    tile = tile or _tile("forward", query)
    return _call(
        _triton_forward.forward_kernel,
        (query, key, value, lists.steps, lists.count, lists.order),
        lists,
        labels,
        rule,
        tile,
        programs=batch * heads * (length // tile.rows),
        out_shape=(_like(query), lse),
    )


def backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    d_output: jax.Array,
    lse: jax.Array,
    shift: jax.Array,
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
        d_output: (B, 128 P, N, D), of the dtype of query, finite.
        lse: (B, N, 128 P) float32, +inf where there is nothing to descend.
        shift: sum dO O - dlse (B, N, 128 P) float32, finite.
        query_tile, key_tile: by default those for this device.
    """
    batch, length, heads, _ = query.shape
    _, key_length, key_heads, _ = key.shape
    tensors = (query, key, value, d_output, lse * math.log2(math.e), shift)
    query_tile = query_tile or _tile("query", query)
    key_tile = key_tile or _tile("key", query)
    (d_query,) = _call(
        _triton_backward.query_kernel,
        (*tensors, lists.steps, lists.count, lists.order),
        lists,
        labels,
        rule,
        query_tile,
        programs=batch * heads * (length // query_tile.rows),
        out_shape=(_like(query),),
    )
    d_key, d_value = _call(
        _triton_backward.key_kernel,
        (*tensors, lists.key_steps, lists.key_count, lists.key_order),
        lists,
        labels,
        rule,
        key_tile,
        programs=batch * key_heads * (key_length // key_tile.columns),
        out_shape=(_like(key), _like(value)),
    )
    return d_query, d_key, d_value


def _like(array: jax.Array) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _call(kernel, arrays, lists, labels, rule, tile, *, programs, out_shape) -> Any:
    import jax_triton  # refuses to be imported where there is no GPU

    query, key = arrays[:2]
    steps = arrays[-3]
    blocks = labels.spoil.reshape(*labels.spoil.shape[:2], -1, BLOCK)
    spoiled = jnp.any(blocks != 0, axis=-1).astype(jnp.int32)  # NaN is not 0
    there = labels.query_position  # stands in for labels that are not there; never read
    outputs = jax_triton.triton_call(
        *arrays,
        *(there if label is None else label for label in labels),
        spoiled,
        query.shape[1] // BLOCK,
        key.shape[1] // BLOCK,
        steps.shape[3],
        kernel=kernel,
        out_shape=out_shape,
        grid=programs,
        num_warps=tile.warps,
        num_stages=tile.stages,
        **constants(lists, labels, rule),
        PRECISION="ieee",
        D=query.shape[3],
        HEADS=query.shape[2],
        KEY_HEADS=key.shape[2],
        ROWS=tile.rows,
        COLUMNS=tile.columns,
    )
    return tuple(_varying(output, query) for output in outputs)


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
