"""Softmax attention over the blocks that a mask keeps."""

from typing import Literal, overload

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from physnet import _checks, _dispatch
from physnet.attention import _arguments, _layout
from physnet.attention._dense import dense, pair_mask
from physnet.attention._loops import Rule
from physnet.attention._over_blocks import attend, dense_pays, facts, kernel_pays


@overload
def block_sparse_attention(
    query: Float[Array, "*b T N H"],
    key: Float[Array, "*b S K H"],
    value: Float[Array, "*b S K H"],
    blocks: Bool[Array, "*m P Q"],
    *,
    is_causal: bool = True,
    block_size: int | None = None,
    scale: float | None = None,
    return_lse: Literal[False] = False,
    implementation: _dispatch.Implementation | None = None,
) -> Float[Array, "*b T N H"]: ...


@overload
def block_sparse_attention(
    query: Float[Array, "*b T N H"],
    key: Float[Array, "*b S K H"],
    value: Float[Array, "*b S K H"],
    blocks: Bool[Array, "*m P Q"],
    *,
    is_causal: bool = True,
    block_size: int | None = None,
    scale: float | None = None,
    return_lse: Literal[True],
    implementation: _dispatch.Implementation | None = None,
) -> tuple[Float[Array, "*b T N H"], Float[Array, "*b T N"]]: ...


def block_sparse_attention(
    query: Float[Array, "*b T N H"],
    key: Float[Array, "*b S K H"],
    value: Float[Array, "*b S K H"],
    blocks: Bool[Array, "*m P Q"],
    *,
    is_causal: bool = True,
    block_size: int | None = None,
    scale: float | None = None,
    return_lse: bool = False,
    implementation: _dispatch.Implementation | None = None,
) -> Float[Array, "*b T N H"] | tuple[Float[Array, "*b T N H"], Float[Array, "*b T N"]]:
    r"""Exact softmax attention over the pairs of tokens whose blocks are kept.

        pair (i, j):  blocks[i // b, j // b]  and  j <= i

    Shapes as in `scattering_attention`; P and Q blocks of b queries and keys.

    Args:
        query: (B, T, N, H), real floating.
        key, value: (B, S, K, H), of the dtype of query.
        blocks: (P, Q), (B, P, Q) or (B, N, P, Q) booleans, B left out where query has none: the
            blocks to compute. A block that is not kept is not computed, forward or backward (heads
            that share a key head visit what any of them keeps, and mask).
        is_causal: Whether later keys are left out; needs S = T. Static.
        block_size: b, with P = ceil(T / b) and a short last block; by default T / P. Static.
        scale: 1 / sqrt(H) if not given. Static.
        return_lse: Also return log sum exp over the pairs of each query.
        implementation: None for the fastest one.

    Returns:
        (B, T, N, H) of the dtype of query, 0 for a query without a pair; with `return_lse` a pair
        with (B, T, N), -inf without a pair. NaN as in `scattering_attention`.

    Raises:
        ValueError: Shapes that do not fit, a causal mask with S other than T.
        TypeError: Arrays that are not real floating, differ in dtype, or a mask not boolean.
        NotImplementedError: A named implementation that there is not.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> value = jnp.array([1.0, 2.0, 4.0, 8.0]).reshape(4, 1, 1)
        >>> query = jnp.zeros_like(value)
        >>> blocks = jnp.array([[False, False], [True, False]])
        >>> jax.jit(block_sparse_attention)(query, query, value, blocks).ravel().tolist()
        [0.0, 0.0, 1.5, 1.5]
    """
    x, unbatched = _arguments.tensors(query, key, value)
    time, span = x.query.shape[1], x.key.shape[1]
    if is_causal and time != span:
        raise ValueError(f"key must have {time} tokens like query where is_causal, got {span}")
    blocks = _checks.boolean("blocks", blocks)
    size = _size(block_size, time, span, blocks)
    name = _dispatch.choose(
        "attention.block_sparse_attention", implementation, pays=kernel_pays(x), **facts(x, size)
    )
    kept = _kept(blocks, x, size, unbatched)
    factor = _arguments.scale_of(scale, x.query.shape[-1])
    positions = _arguments.positions(None, None, x, needed=False)
    pairs = _arguments.Pairs(None, positions, None)
    if name == "xla" and dense_pays(x):
        mask = jnp.repeat(jnp.repeat(kept, size, axis=2)[:, :, :time], size, axis=3)[..., :span]
        mask = mask & pair_mask(pairs, local_window=0, is_causal=is_causal)
        output, lse = dense(x, mask, factor)
    else:
        plan = _plan(x, kept, size) if name == "xla" else _kernel_plan(x, kept, size)
        rule = Rule("all", 0, is_causal, factor)
        output, lse = attend(name, (rule,), size, x, pairs, (plan,))
    if unbatched:
        output, lse = output[0], lse[0]
    return (output, lse) if return_lse else output


def _size(block_size: int | None, time: int, span: int, blocks: jax.Array) -> int:
    if blocks.ndim < 2 or 0 in blocks.shape[-2:]:
        raise ValueError(f"blocks must have shape (..., P, Q), got {blocks.shape}")
    rows, columns = blocks.shape[-2:]
    if block_size is None:
        if time % rows or span % columns or time // rows != span // columns:
            raise ValueError(
                f"blocks must divide {time} queries and {span} keys into equal blocks where "
                f"block_size is not given, got {rows} by {columns}"
            )
        return time // rows
    size = _checks.positive_int("block_size", block_size)
    want = (-(-time // size), -(-span // size))
    if (rows, columns) != want:
        raise ValueError(
            f"blocks must be {want[0]} by {want[1]} for {time} queries and {span} keys in blocks "
            f"of {size}, got {rows} by {columns}"
        )
    return size


def _kept(blocks: jax.Array, x: _arguments.Tensors, size: int, unbatched: bool) -> jax.Array:
    """(B, 1 or N, P, Q)."""
    batch, _, heads, _ = x.query.shape
    lead = blocks.shape[:-2]
    full = (1, *lead) if unbatched else lead
    if full in ((), (1,)):
        full = (1, 1)
    elif len(full) == 1:
        full = (*full, 1)
    if len(full) != 2 or full[0] not in (1, batch) or full[1] not in (1, heads):
        allowed = "(), (N,)" if unbatched else "(), (B,), (B, N)"
        raise ValueError(
            f"blocks must have one of the leading axes {allowed} with B = {batch}, N = {heads}, "
            f"got {blocks.shape}"
        )
    kept = blocks.reshape(*full, *blocks.shape[-2:])
    return jnp.broadcast_to(kept, (batch, *kept.shape[1:]))


def _kernel_plan(x: _arguments.Tensors, kept: jax.Array, size: int) -> _layout.Plan:
    """Tokens as they come, the mask in the kernels' own blocks."""
    times = size // 128
    kept = jnp.repeat(jnp.repeat(kept, times, axis=2), times, axis=3)
    rows, columns = (-(-a.shape[1] // 128) for a in (x.query, x.key))
    return _layout.Plan(None, None, kept[:, :, :rows, :columns])


def _plan(x: _arguments.Tensors, kept: jax.Array, size: int) -> _layout.Plan:
    batch, time, heads, _ = x.query.shape
    span, key_heads = x.key.shape[1:3]
    if kept.shape[1] == 1:
        per_row = jnp.moveaxis(kept, 1, 2)  # (B, P, 1, Q)
    else:
        per_row = kept.reshape(batch * key_heads, heads // key_heads, *kept.shape[2:])
        per_row = jnp.moveaxis(per_row, 1, 2)

    def in_sequence(count, length):
        slots = jnp.minimum(jnp.arange(count * size, dtype=jnp.int32), length)
        return jnp.broadcast_to(slots[None], (per_row.shape[0], count * size))

    rows, columns = kept.shape[2:]
    return _layout.Plan(in_sequence(rows, time), in_sequence(columns, span), per_row)
