"""Attention over block lists on Hopper: two warpgroups compute, one copies.

The loop over keys follows the list of the query block. The compute warpgroups take turns: while one
has the tensor cores, the other forms its softmax (FlashAttention-3).
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from physnet_kernels.scattering_attention import _mosaic_common as common
from physnet_kernels.scattering_attention._types import BLOCK, Labels, Lists, Rule


def forward(
    query: jax.Array, key: jax.Array, value: jax.Array, lists: Lists, labels: Labels, *, rule: Rule
) -> tuple[jax.Array, jax.Array]:
    """Output (B, 128 P, N, D) and the log of the softmax's sum (B, N, 128 P), float32.

    Args:
        query: (B, 128 P, N, D), bfloat16 or float16, D 64, 128 or 256.
        key, value: (B, 128 Q, K, D).
        lists, labels: Which blocks and pairs.
        rule: Static.

    A query that is spoilt, or sees a key that is, gets NaN; no other one does.
    """
    batch, slots, heads, width = query.shape
    key_heads = key.shape[2]
    block_kv, stages = {64: (128, 2), 128: (128, 2), 256: (64, 2)}[width]
    dtype = query.dtype
    near, far = common.sides(rule, labels)
    operands = {"q": query, "k": key, "v": value} | common.operands_of(labels, near, far)
    spoilt = common.blocks_with_nan(labels.spoil)
    operands |= common.table(lists.order, lists.count, lists.steps, spoilt)
    operands |= {"bad": common.is_nan(labels.spoil), "query_spoil": labels.query_spoil}
    results = {
        "out": jax.ShapeDtypeStruct(query.shape, dtype),
        "lse": jax.ShapeDtypeStruct((batch, heads, slots), jnp.float32),
    }
    scratch = {
        "qo_smem": common.tile((2, common.HALF, width), dtype),
        "k_smem": common.tile((stages, block_kv, width), dtype),
        "v_smem": common.tile((stages, block_kv, width), dtype),
        "lse_smem": plgpu.SMEM((2, common.HALF), jnp.float32),
        "q_ready": plgpu.Barrier(num_barriers=2),
        "k_ready": plgpu.Barrier(num_arrivals=1 + far.number(), num_barriers=stages),
        "v_ready": plgpu.Barrier(num_barriers=stages),
        "k_free": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        "v_free": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        "turn": plgpu.Barrier(num_arrivals=2),
        "cleaned": plgpu.Barrier(num_arrivals=2),
    } | common.label_buffers(far, stages, block_kv)
    shape = (common.HALF, block_kv)
    # The largest weight is found before scaling, if the scale is positive.
    factor = rule.scale * common.LOG2E
    late = factor if factor > 0 else 1.0

    def attention_forward(r, b, head, rank):
        wg = lax.axis_index("wg")
        row = common.share(head, heads, lists.steps.shape[1])
        key_head = common.share(head, heads, key_heads)
        steps = common.Steps(r["table"].at[b, row, rank], BLOCK // block_kv)
        block, count = r["order"][b, row, rank], steps.count()

        def take_turns():
            common.meet(r["turn"])

        @pl.when(wg < 2)
        def _compute():
            plgpu.set_max_registers(232, action="increase")
            mine = pl.ds(block * BLOCK + wg * common.HALF, common.HALF)
            qo_smem, lse_smem = r["qo_smem"].at[wg], r["lse_smem"].at[wg]
            plgpu.copy_gmem_to_smem(r["q"].at[b, mine, head], qo_smem, r["q_ready"].at[wg])
            ours = common.read_labels(r, "query", b, head, heads, mine, common.ROWS)
            threshold = common.threshold_of(r, b, head, heads)

            def masked(t, at, x):
                theirs = common.buffered_labels(r, at)
                spread = (lambda q: common.across(q, shape), lambda k: common.down(k, shape))
                mask = common.pairs(rule, ours, theirs, threshold, spread)

                def spoil(x):
                    bad = common.load(r["bad"].at[b, key_head, steps.tokens(t)], common.COLUMNS)
                    return jnp.where(common.down(bad > 0, shape), jnp.nan, x)

                x = lax.cond(steps.spoilt(t), spoil, lambda x: x, x)
                return jnp.where(mask, x, -jnp.inf)

            def clean(t, at):
                """A weight of zero times NaN is NaN: spoilt values must be zeros."""

                @pl.when(wg * common.HALF < block_kv)
                def _():
                    rows = pl.ds(wg * common.HALF, common.HALF)
                    theirs = pl.ds(steps.tokens(t).start + wg * common.HALF, common.HALF)
                    bad = common.load(r["bad"].at[b, key_head, theirs], common.ROWS)
                    common.zero_rows(r["v_smem"].at[at, rows], bad > 0)

                common.meet(r["cleaned"])

            def step(t, carry):
                acc, top, total = carry
                at = common.slot(t, stages)
                needs_mask = steps.masked(t)

                def logits(acc_ref):
                    plgpu.wgmma(acc_ref, qo_smem, r["k_smem"].at[at].transpose((1, 0)))
                    take_turns()
                    return acc_ref[...]

                x = pl.run_scoped(logits, common.ACC(shape, jnp.float32))
                if factor <= 0:
                    x = x * factor
                x = lax.cond(needs_mask, lambda x: masked(t, at, x), lambda x: x, x)
                plgpu.barrier_arrive(r["k_free"].at[at])
                new = jnp.maximum(top, x.max(axis=1) * late)
                base = jnp.where(new == -jnp.inf, 0.0, new)
                decay = jnp.exp2(top - base)
                p = jnp.exp2(x * late - common.across(base, shape))
                acc = acc * common.across(decay, acc.shape)
                total = total * decay
                p16 = p.astype(dtype)
                total = total + p.sum(axis=1)
                acc, total, new, p16 = lax.optimization_barrier((acc, total, new, p16))
                plgpu.barrier_arrive(r["turn"])
                plgpu.barrier_wait(r["v_ready"].at[at])
                pl.when(steps.spoilt(t))(lambda: clean(t, at))
                plgpu.barrier_wait(r["turn"])

                def weigh(acc_ref):
                    plgpu.wgmma(acc_ref, p16, r["v_smem"].at[at])

                    @pl.when(t + 1 < count)
                    def _():
                        plgpu.barrier_wait(r["k_ready"].at[common.slot(t + 1, stages)])

                acc = pl.run_state(weigh)(common.ACC.init(acc))
                plgpu.barrier_arrive(r["v_free"].at[at])
                return acc, new, total

            plgpu.barrier_wait(r["q_ready"].at[wg])

            @pl.when(count > 0)
            def _():
                plgpu.barrier_wait(r["k_ready"].at[0])

            pl.when(wg == 1)(take_turns)
            start = (
                common.zeros((common.HALF, width)),
                common.row_full(common.HALF, -jnp.inf),
                common.row_full(common.HALF, 0.0),
            )
            acc, top, total = lax.fori_loop(0, count, step, start)
            pl.when(wg == 0)(take_turns)

            total = total + common.load(r["query_spoil"].at[b, head, mine], common.ROWS)
            inverse = 1 / jnp.where(total == 0.0, 1.0, total)
            qo_smem[...] = (acc * common.across(inverse, acc.shape)).astype(dtype)
            lse_smem[...] = (top + jnp.log2(total)) * math.log(2)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(qo_smem, r["out"].at[b, mine, head])
            plgpu.copy_smem_to_gmem(lse_smem, r["lse"].at[b, head, mine])
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

        @pl.when(wg == 2)
        def _copy():
            plgpu.set_max_registers(40, action="decrease")

            @pl.loop(0, count)
            def _(t):
                at, tokens = common.slot(t, stages), steps.tokens(t)
                reused = t >= stages
                pl.when(reused)(lambda: plgpu.barrier_wait(r["k_free"].at[at]))
                source, ready = r["k"].at[b, tokens, key_head], r["k_ready"].at[at]
                plgpu.copy_gmem_to_smem(source, r["k_smem"].at[at], ready)
                common.copy_labels(r, "key", b, head, heads, tokens, at, ready)
                pl.when(reused)(lambda: plgpu.barrier_wait(r["v_free"].at[at]))
                source, ready = r["v"].at[b, tokens, key_head], r["v_ready"].at[at]
                plgpu.copy_gmem_to_smem(source, r["v_smem"].at[at], ready)

    grid = batch, heads, slots // BLOCK
    output, lse = common.run(attention_forward, operands, results, scratch, grid)
    return output, lse
