"""Attention over block lists on Hopper: two warpgroups compute, one copies.

The loop over keys follows the list of the query block. The compute warpgroups take turns: while one
has the tensor cores, the other forms its softmax (FlashAttention-3).

That every key and value is finite is taken for granted, and looked at by the warpgroup that copies,
while it waits: a pass over the tensors before would cost their time in memory. Where it was wrong,
a second, careful kernel forms the outputs again; else that one does nothing.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from physnet_kernels.scattering_attention import _mosaic_common as common
from physnet_kernels.scattering_attention._mosaic_look import Look
from physnet_kernels.scattering_attention._types import BLOCK, Labels, Lists, Marks, Rule

STAGES = 2


def forward(
    query: jax.Array, key: jax.Array, value: jax.Array, lists: Lists, labels: Labels, *, rule: Rule
) -> tuple[jax.Array, jax.Array, Marks]:
    """Output (B, 128 P, N, D), the log of the softmax's sum (B, N, 128 P) float32, and marks.

    Args:
        query: (B, 128 P, N, D), bfloat16 or float16, D 64, 128 or 256.
        key, value: (B, 128 Q, K, D).
        lists, labels: Which blocks and pairs.
        rule: Static.

    A query that is not finite, or sees a key or value that is not, gets NaN; no other one does.
    """
    batch, slots, heads, _ = query.shape
    blocks, key_heads = key.shape[1] // BLOCK, key.shape[2]
    rows = jax.ShapeDtypeStruct((batch, heads, slots), jnp.float32)
    results = {"out": jax.ShapeDtypeStruct(query.shape, query.dtype), "lse": rows, "bad": rows}
    looked = jax.ShapeDtypeStruct((batch, key_heads, blocks, common.HALF), jnp.float32)
    tensors = {"q": query, "k": key, "v": value}
    body = functools.partial(_run, tensors, lists, labels, rule)
    output, lse, bad, looked = body(results | {"looked": looked})
    marks = Marks(bad > 0, jnp.any(jnp.isnan(looked), axis=-1))
    wrong = jnp.any(marks.key_blocks, axis=-1).astype(jnp.int32)
    output, lse, bad = body({}, {"out": output, "lse": lse, "bad": bad}, wrong)
    return output, lse, marks


def _run(
    tensors: dict[str, jax.Array],
    lists: Lists,
    labels: Labels,
    rule: Rule,
    results: dict[str, jax.ShapeDtypeStruct],
    again: dict[str, jax.Array] | None = None,
    wrong: jax.Array | None = None,
) -> tuple[jax.Array, ...]:
    """The kernel, or with `again` its careful form for key heads (B, K) that are `wrong`."""
    careful = wrong is not None
    query, key = tensors["q"], tensors["k"]
    batch, slots, heads, width = query.shape
    key_heads, dtype = key.shape[2], query.dtype
    block_kv = {64: 128, 128: 128, 256: 64}[width]
    near, far = common.sides(rule, labels)
    operands = tensors | common.operands_of(labels, near, far)
    operands |= common.table(lists.order, lists.count, lists.steps)
    if careful:
        operands["wrong"] = wrong
    scratch = {
        "qo_smem": common.tile((2, common.HALF, width), dtype),
        "k_smem": common.tile((STAGES, block_kv, width), dtype),
        "v_smem": common.tile((STAGES, block_kv, width), dtype),
        "lse_smem": plgpu.SMEM((2, common.HALF), jnp.float32),
        "bad_smem": plgpu.SMEM((2, common.HALF), jnp.float32),
        "q_ready": plgpu.Barrier(num_barriers=2),
        "k_ready": plgpu.Barrier(num_arrivals=1 + far.number(), num_barriers=STAGES),
        "v_ready": plgpu.Barrier(num_barriers=STAGES),
        "k_free": plgpu.Barrier(num_arrivals=2, num_barriers=STAGES),
        "v_free": plgpu.Barrier(num_arrivals=2, num_barriers=STAGES),
        "turn": plgpu.Barrier(num_arrivals=2),
    } | common.label_buffers(far, STAGES, block_kv)
    if careful:
        scratch["spoil_smem"] = plgpu.SMEM((2, block_kv), jnp.float32)
    else:
        scratch["looked_smem"] = plgpu.SMEM((common.HALF,), jnp.float32)
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
            if not careful:
                common.meet(r["turn"])

        def compute():
            mine = pl.ds(block * BLOCK + wg * common.HALF, common.HALF)
            qo_smem, lse_smem, bad_smem = (
                r[f"{name}_smem"].at[wg] for name in ("qo", "lse", "bad")
            )
            plgpu.copy_gmem_to_smem(r["q"].at[b, mine, head], qo_smem, r["q_ready"].at[wg])
            ours = common.read_labels(r, "query", b, head, heads, mine, common.ROWS)
            threshold = common.threshold_of(r, b, head, heads)

            def masked(at, x, spoil):
                theirs = common.buffered_labels(r, at)
                spread = (lambda q: common.across(q, shape), lambda k: common.down(k, shape))
                mask = common.pairs(rule, ours, theirs, threshold, spread)
                if spoil is not None:
                    x = jnp.where(common.down(spoil > 0, shape), jnp.nan, x)
                return jnp.where(mask, x, -jnp.inf)

            def cleaned(t, at):
                """Which keys are spoilt; a weight of zero times NaN is NaN: zeros for values."""
                spoil_smem = r["spoil_smem"].at[lax.rem(t, jnp.int32(2))]

                @pl.when(wg * common.HALF < block_kv)
                def _():
                    rows = pl.ds(wg * common.HALF, common.HALF)
                    values = r["v_smem"].at[at, rows]
                    bad = common.bad_rows(values[...].astype(jnp.float32))
                    common.zero_rows(values, bad > 0)
                    keys = r["k_smem"].at[at, rows][...].astype(jnp.float32)
                    spoil_smem.at[rows][...] = bad + common.bad_rows(keys)
                    plgpu.commit_smem()

                common.meet(r["turn"])
                return common.load(spoil_smem, common.COLUMNS)

            def step(t, carry):
                acc, top, total = carry
                at = common.slot(t, STAGES)
                needs_mask = steps.masked(t)

                def logits(acc_ref):
                    plgpu.wgmma(acc_ref, qo_smem, r["k_smem"].at[at].transpose((1, 0)))
                    take_turns()
                    return acc_ref[...]

                x = pl.run_scoped(logits, common.ACC(shape, jnp.float32))
                if factor <= 0:
                    x = x * factor
                if careful:
                    plgpu.barrier_wait(r["v_ready"].at[at])
                    x = masked(at, x, cleaned(t, at))
                else:
                    x = lax.cond(needs_mask, lambda x: masked(at, x, None), lambda x: x, x)
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
                if not careful:
                    plgpu.barrier_arrive(r["turn"])
                    plgpu.barrier_wait(r["v_ready"].at[at])
                    plgpu.barrier_wait(r["turn"])

                def weigh(acc_ref):
                    plgpu.wgmma(acc_ref, p16, r["v_smem"].at[at])

                    @pl.when(t + 1 < count)
                    def _():
                        plgpu.barrier_wait(r["k_ready"].at[common.slot(t + 1, STAGES)])

                acc = pl.run_state(weigh)(common.ACC.init(acc))
                plgpu.barrier_arrive(r["v_free"].at[at])
                return acc, new, total

            plgpu.barrier_wait(r["q_ready"].at[wg])
            bad = common.bad_rows(qo_smem[...].astype(jnp.float32))

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

            total = jnp.where(bad > 0, jnp.nan, total)
            inverse = 1 / jnp.where(total == 0.0, 1.0, total)
            qo_smem[...] = (acc * common.across(inverse, acc.shape)).astype(dtype)
            lse_smem[...] = (top + jnp.log2(total)) * math.log(2)
            bad_smem[...] = bad
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(qo_smem, r["out"].at[b, mine, head])
            plgpu.copy_smem_to_gmem(lse_smem, r["lse"].at[b, head, mine])
            plgpu.copy_smem_to_gmem(bad_smem, r["bad"].at[b, head, mine])
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

        def copy():
            look = None if careful else Look(r, b, head, rank, heads // key_heads)
            ahead = STAGES - 1  # copies that nothing waits for: first, and in a row

            @pl.loop(0, count)
            def _(t):
                at, tokens = common.slot(t, STAGES), steps.tokens(t)
                reused = t >= STAGES
                pl.when(reused)(lambda: plgpu.barrier_wait(r["k_free"].at[at]))
                source, ready = r["k"].at[b, tokens, key_head], r["k_ready"].at[at]
                plgpu.copy_gmem_to_smem(source, r["k_smem"].at[at], ready)
                common.copy_labels(r, "key", b, head, heads, tokens, at, ready)
                pl.when(reused)(lambda: plgpu.barrier_wait(r["v_free"].at[at]))
                source, ready = r["v"].at[b, tokens, key_head], r["v_ready"].at[at]
                plgpu.copy_gmem_to_smem(source, r["v_smem"].at[at], ready)
                if look:
                    look.at(t - ahead)

            if look:
                look.finish(jnp.maximum(count - ahead, 0))
            else:

                @pl.loop(jnp.maximum(count - STAGES, 0), count)
                def _(t):  # leave no signal behind
                    for name in ("k_free", "v_free"):
                        plgpu.barrier_wait(r[name].at[common.slot(t, STAGES)])

                plgpu.commit_smem()  # its warps meet before registers are asked for again

        def work():
            @pl.when(wg < 2)
            def _():
                plgpu.set_max_registers(232, action="increase")
                compute()

            @pl.when(wg == 2)
            def _():
                plgpu.set_max_registers(40, action="decrease")
                copy()

        if careful:
            pl.when(r["wrong"][b, key_head] > 0)(work)
        else:
            work()

    grid = batch, heads, slots // BLOCK
    return common.run(
        attention_forward, operands, results, scratch, grid, again, one_a_core=careful
    )
