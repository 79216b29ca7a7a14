"""The gradients of keys and values on Hopper: a kernel along the lists of the key blocks.

It forms the weights again, transposed, and sums over the query heads of a key head in registers.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from physnet_kernels.scattering_attention import _mosaic_common as common
from physnet_kernels.scattering_attention._types import BLOCK, Labels, Lists, Rule


def d_key_value(
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
) -> tuple[jax.Array, jax.Array]:
    """Cotangents of key and value; lse and shift as `backward` makes them, no NaN among them."""
    batch, slots, key_heads, width = key.shape
    heads = query.shape[2]
    group = heads // key_heads
    many = lists.key_steps.shape[1]
    # Two accumulators of 64 x 256 do not fit into a warpgroup's registers: there both warpgroups
    # take the same keys, and each sums half of the columns. Keys and values lie in halves too.
    split = width == 256
    block_q, stages = {64: (64, 3), 128: (64, 3), 256: (64, 2)}[width]
    columns = width // 2 if split else width
    dtype = query.dtype
    near, far = common.sides(rule, labels)
    operands = {
        "q": query,
        "k": key,
        "v": value,
        "do": d_output,
        "bad": common.is_nan(labels.spoil),
    }
    operands |= {"lse": lse * common.LOG2E, "shift": shift}
    operands |= common.operands_of(labels, near, far)
    order = lists.key_order
    if group > 1 and many > 1:  # heads of a group share the order of their key head
        total = lists.key_count.reshape(batch, key_heads, group, -1).sum(axis=2)
        order = jnp.repeat(jnp.argsort(-total, axis=-1).astype(jnp.int32), group, axis=1)
    spoilt = common.blocks_with_nan(labels.query_spoil)
    operands |= common.table(order, lists.key_count, lists.key_steps, spoilt)
    results = {n: jax.ShapeDtypeStruct(key.shape, dtype) for n in ("dk", "dv")}
    scratch = {
        "k_smem": common.tile((2, common.HALF, columns), dtype),
        "v_smem": common.tile((2, common.HALF, columns), dtype),
        "q_smem": common.tile((stages, block_q, width), dtype),
        "do_smem": common.tile((stages, block_q, width), dtype),
        "lse_smem": plgpu.SMEM((stages, block_q), jnp.float32),
        "shift_smem": plgpu.SMEM((stages, block_q), jnp.float32),
        "k_ready": plgpu.Barrier(num_arrivals=4 if split else 2, num_barriers=1 if split else 2),
        "q_ready": plgpu.Barrier(num_arrivals=2 + near.number(), num_barriers=stages),
        "do_ready": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        "q_free": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        "do_free": plgpu.Barrier(num_arrivals=2, num_barriers=stages),
        "met": plgpu.Barrier(num_arrivals=2),
    } | common.label_buffers(near, stages, block_q)
    shape = (common.HALF, block_q)

    def attention_d_key(r, b, key_head, rank):
        wg = lax.axis_index("wg")
        part = wg
        if split:
            part, rank = lax.rem(rank, jnp.int32(2)), lax.div(rank, jnp.int32(2))
        block = r["order"][b, common.share(key_head * group, heads, many), rank]

        def over_heads(visit, carry):
            """visit(head, steps, carry) for the query heads of the key head."""

            def of_head(g, carry):
                head = key_head * group + g
                row = r["table"].at[b, common.share(head, heads, many), rank]
                return visit(head, common.Steps(row, BLOCK // block_q), carry)

            return of_head(0, carry) if group == 1 else lax.fori_loop(0, group, of_head, carry)

        @pl.when(wg < 2)
        def _compute():
            plgpu.set_max_registers(232, action="increase")
            mine = pl.ds(block * BLOCK + part * common.HALF, common.HALF)
            ready = r["k_ready"].at[0 if split else wg]

            def half(index):
                return pl.ds(index * columns, columns) if split else slice(None)

            def in_halves(ref, index):
                return (
                    ref.at[b, mine, key_head, half(index)] if split else ref.at[b, mine, key_head]
                )

            def fetch(index, place):
                for n in ("k", "v"):
                    source = in_halves(r[n], index)
                    plgpu.copy_gmem_to_smem(source, r[f"{n}_smem"].at[place], ready)

            if split:

                @pl.when(wg == 0)
                def _():
                    fetch(0, 0)
                    fetch(1, 1)
            else:
                fetch(0, wg)

            def product(acc_ref, keys, queries):
                if not split:
                    plgpu.wgmma(acc_ref, keys.at[wg], queries.transpose((1, 0)))
                    return
                for i in range(2):
                    plgpu.wgmma(acc_ref, keys.at[i], queries.at[:, half(i)].transpose((1, 0)))

            first_head = key_head * group
            fixed = common.read_labels(r, "key", b, first_head, heads, mine, common.ROWS)

            def masked(at, head, base, x):
                theirs = common.buffered_labels(r, at)
                threshold = common.threshold_of(r, b, head, heads)
                ours = fixed
                if fixed.score is not None and group > 1 and far.score.shape[1] > 1:
                    score = common.load(r["key_score"].at[b, head, mine], common.ROWS)
                    ours = fixed._replace(score=score)
                spread = (lambda q: common.down(q, shape), lambda k: common.across(k, shape))
                mask = common.pairs(rule, theirs, ours, threshold, spread)
                mask = mask & common.down(base < jnp.inf, shape)  # not where the query is spoilt
                return jnp.where(mask, x, -jnp.inf)

            def clean(at):
                """A weight of zero times NaN is NaN: spoilt queries must be zeros."""

                @pl.when(wg == 0)
                def _():
                    bad = common.load(r["lse_smem"].at[at], common.ROWS) == jnp.inf
                    common.zero_rows(r["q_smem"].at[at], bad)
                    common.zero_rows(r["do_smem"].at[at], bad)

                common.meet(r["met"])

            def of_head(head, steps, carry):
                def step(t, carry):
                    dk, dv, done = carry
                    at = common.slot(done, stages)
                    q_smem, do_smem = r["q_smem"].at[at], r["do_smem"].at[at]
                    plgpu.barrier_wait(r["q_ready"].at[at])

                    def logits(acc_ref):
                        product(acc_ref, r["k_smem"], q_smem)
                        return acc_ref[...]

                    x = pl.run_scoped(logits, common.ACC(shape, jnp.float32))
                    x = x * (rule.scale * common.LOG2E)
                    base = common.load(r["lse_smem"].at[at], common.COLUMNS)
                    x = lax.cond(
                        steps.masked(t), lambda x: masked(at, head, base, x), lambda x: x, x
                    )
                    p = jnp.exp2(x - common.down(base, shape))
                    plgpu.barrier_wait(r["do_ready"].at[at])
                    pl.when(steps.spoilt(t))(lambda: clean(at))

                    def weights(refs):
                        dv_ref, dp_ref = refs
                        plgpu.wgmma(dv_ref, p.astype(dtype), do_smem.at[:, half(wg)])
                        product(dp_ref, r["v_smem"], do_smem)

                    dv, dp = pl.run_state(weights)(
                        (common.ACC.init(dv), common.ACC.init(common.zeros(shape)))
                    )
                    offset = common.load(r["shift_smem"].at[at], common.COLUMNS)
                    plgpu.barrier_arrive(r["do_free"].at[at])
                    ds = (p * (dp - common.down(offset, shape))).astype(dtype)

                    def add(acc_ref):
                        plgpu.wgmma(acc_ref, ds, q_smem.at[:, half(wg)])

                    dk = pl.run_state(add)(common.ACC.init(dk))
                    plgpu.barrier_arrive(r["q_free"].at[at])
                    return dk, dv, done + 1

                return lax.fori_loop(0, steps.count(), step, carry)

            plgpu.barrier_wait(ready)
            none = common.zeros((common.HALF, columns))
            dk, dv, _ = over_heads(of_head, (none, none, jnp.int32(0)))
            if split:  # the other warpgroup may still read the keys
                common.meet(r["met"])
            bad = common.load(r["bad"].at[b, key_head, mine], common.ROWS)
            nothing = common.across(bad > 0, dk.shape)
            for n, total in (("k", dk * rule.scale), ("v", dv)):
                smem = r[f"{n}_smem"].at[wg]
                smem[...] = jnp.where(nothing, 0.0, total).astype(dtype)
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(smem, in_halves(r[f"d{n}"], wg))
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

        @pl.when(wg == 2)
        def _copy():
            plgpu.set_max_registers(40, action="decrease")

            def of_head(head, steps, done):
                count = steps.count()

                @pl.loop(0, count)
                def _(t):
                    at, tokens = common.slot(done + t, stages), steps.tokens(t)
                    reused = done + t >= stages

                    def copy(n, source, ready):
                        plgpu.copy_gmem_to_smem(source, r[f"{n}_smem"].at[at], ready)

                    pl.when(reused)(lambda: plgpu.barrier_wait(r["q_free"].at[at]))
                    ready = r["q_ready"].at[at]
                    copy("q", r["q"].at[b, tokens, head], ready)
                    copy("lse", r["lse"].at[b, head, tokens], ready)
                    common.copy_labels(r, "query", b, head, heads, tokens, at, ready)
                    pl.when(reused)(lambda: plgpu.barrier_wait(r["do_free"].at[at]))
                    ready = r["do_ready"].at[at]
                    copy("do", r["do"].at[b, tokens, head], ready)
                    copy("shift", r["shift"].at[b, head, tokens], ready)

                return done + count

            over_heads(of_head, jnp.int32(0))

    grid = batch, key_heads, slots // BLOCK * (2 if split else 1)
    d_key, d_value = common.run(attention_d_key, operands, results, scratch, grid)
    return d_key, d_value
