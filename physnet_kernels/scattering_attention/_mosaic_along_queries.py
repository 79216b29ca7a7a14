"""The gradient of queries on Hopper: a kernel along the lists of the query blocks.

It forms the weights again from the log-sum-exp and sums in registers: a gradient is written once.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from physnet_kernels.scattering_attention import _mosaic_common as common
from physnet_kernels.scattering_attention._types import BLOCK, Labels, Lists, Rule


def d_query(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    d_output: jax.Array,
    lse: jax.Array,
    shift: jax.Array,
    spoilt: jax.Array,
    lists: Lists,
    labels: Labels,
    *,
    rule: Rule,
) -> jax.Array:
    """Cotangent of query; the arguments are those of `backward`, of its marks the key blocks.

    Rows where `lse` is NaN get NaN.
    """
    batch, slots, heads, width = query.shape
    key_heads = key.shape[2]
    block_kv, k_stages, v_stages = {64: (128, 2, 2), 128: (128, 2, 2), 256: (64, 2, 1)}[width]
    dtype = query.dtype
    near, far = common.sides(rule, labels)
    copied = far if width < 256 else common.Side(None, None, None)  # as shared memory allows
    operands = {"q": query, "k": key, "v": value, "do": d_output}
    operands |= {"lse": lse * common.LOG2E, "shift": shift}
    operands |= common.operands_of(labels, near, far)
    operands |= common.table(lists.order, lists.count, lists.steps, jnp.any(spoilt, axis=1))
    results = {"dq": jax.ShapeDtypeStruct(query.shape, dtype)}
    scratch = {
        "q_smem": common.tile((2, common.HALF, width), dtype),
        "do_smem": common.tile((2, common.HALF, width), dtype),
        "k_smem": common.tile((k_stages, block_kv, width), dtype),
        "v_smem": common.tile((v_stages, block_kv, width), dtype),
        "q_ready": plgpu.Barrier(num_arrivals=2, num_barriers=2),
        "k_ready": plgpu.Barrier(num_arrivals=1 + copied.number(), num_barriers=k_stages),
        "v_ready": plgpu.Barrier(num_barriers=v_stages),
        "k_free": plgpu.Barrier(num_arrivals=2, num_barriers=k_stages),
        "v_free": plgpu.Barrier(num_arrivals=2, num_barriers=v_stages),
        "cleaned": plgpu.Barrier(num_arrivals=2),
    } | common.label_buffers(copied, k_stages, block_kv)
    shape = (common.HALF, block_kv)

    def attention_d_query(r, b, head, rank):
        wg = lax.axis_index("wg")
        row = common.share(head, heads, lists.steps.shape[1])
        key_head = common.share(head, heads, key_heads)
        steps = common.Steps(r["table"].at[b, row, rank], BLOCK // block_kv)
        block, count = r["order"][b, row, rank], steps.count()

        @pl.when(wg < 2)
        def _compute():
            plgpu.set_max_registers(232, action="increase")
            mine = pl.ds(block * BLOCK + wg * common.HALF, common.HALF)
            q_smem, do_smem = r["q_smem"].at[wg], r["do_smem"].at[wg]
            for name, smem in (("q", q_smem), ("do", do_smem)):
                source = r[name].at[b, mine, head]
                plgpu.copy_gmem_to_smem(source, smem, r["q_ready"].at[wg])
            base = common.load(r["lse"].at[b, head, mine], common.ROWS)
            offset = common.load(r["shift"].at[b, head, mine], common.ROWS)
            ours = common.read_labels(r, "query", b, head, heads, mine, common.ROWS)
            threshold = common.threshold_of(r, b, head, heads)

            def masked(t, at, x):
                if copied is far:
                    theirs = common.buffered_labels(r, at)
                else:
                    where = (steps.tokens(t), common.COLUMNS)
                    theirs = common.read_labels(r, "key", b, head, heads, *where)
                spread = (lambda q: common.across(q, shape), lambda k: common.down(k, shape))
                mask = common.pairs(rule, ours, theirs, threshold, spread)
                return jnp.where(mask, x, -jnp.inf)

            def clean(t, at, v_at):
                """A weight of zero times NaN is NaN: spoilt keys and values must be zeros."""

                @pl.when(wg * common.HALF < block_kv)
                def _():
                    rows = pl.ds(wg * common.HALF, common.HALF)
                    for smem in (r["k_smem"].at[at, rows], r["v_smem"].at[v_at, rows]):
                        bad = common.bad_rows(smem[...].astype(jnp.float32))
                        common.zero_rows(smem, bad > 0)

                common.meet(r["cleaned"])

            def product(acc_ref, at):
                plgpu.wgmma(acc_ref, q_smem, r["k_smem"].at[at].transpose((1, 0)))

            def step(t, carry, last=False):
                acc, x = carry
                at, v_at = (common.slot(t, n) for n in (k_stages, v_stages))
                x = x * (rule.scale * common.LOG2E)
                x = lax.cond(steps.masked(t), lambda x: masked(t, at, x), lambda x: x, x)
                p = jnp.exp2(x - common.across(base, shape))
                plgpu.barrier_wait(r["v_ready"].at[v_at])
                pl.when(steps.spoilt(t))(lambda: clean(t, at, v_at))

                def weights(acc_ref):
                    plgpu.wgmma(acc_ref, do_smem, r["v_smem"].at[v_at].transpose((1, 0)))
                    return acc_ref[...]

                dp = pl.run_scoped(weights, common.ACC(shape, jnp.float32))
                plgpu.barrier_arrive(r["v_free"].at[v_at])
                ds = (p * (dp - common.across(offset, shape))).astype(dtype)
                if last:

                    def add(acc_ref):
                        plgpu.wgmma(acc_ref, ds, r["k_smem"].at[at])

                    acc = pl.run_state(add)(common.ACC.init(acc))
                else:
                    # The next logits keep the tensor cores busy with the same wait.
                    after = common.slot(t + 1, k_stages)
                    plgpu.barrier_wait(r["k_ready"].at[after])

                    def add_and_go_on(refs):
                        acc_ref, x_ref = refs
                        plgpu.wgmma(acc_ref, ds, r["k_smem"].at[at])
                        product(x_ref, after)

                    acc, x = pl.run_state(add_and_go_on)(
                        (common.ACC.init(acc), common.ACC.init(common.zeros(shape)))
                    )
                plgpu.barrier_arrive(r["k_free"].at[at])
                return acc, x

            def some(acc):
                plgpu.barrier_wait(r["k_ready"].at[0])

                def logits(acc_ref):
                    product(acc_ref, 0)
                    return acc_ref[...]

                x = pl.run_scoped(logits, common.ACC(shape, jnp.float32))
                carry = lax.fori_loop(0, count - 1, step, (acc, x))
                return step(count - 1, carry, last=True)[0]

            plgpu.barrier_wait(r["q_ready"].at[wg])
            none = common.zeros((common.HALF, width))
            acc = lax.cond(count > 0, some, lambda acc: acc, none)
            nothing = common.across(base == jnp.inf, acc.shape)  # also where the query is spoilt
            total = acc * rule.scale + common.across(base - base, acc.shape)  # NaN of lost rows
            q_smem[...] = jnp.where(nothing, 0.0, total).astype(dtype)
            plgpu.commit_smem()
            plgpu.copy_smem_to_gmem(q_smem, r["dq"].at[b, mine, head])
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

        @pl.when(wg == 2)
        def _copy():
            plgpu.set_max_registers(40, action="decrease")

            @pl.loop(0, count)
            def _(t):
                tokens = steps.tokens(t)
                at, v_at = (common.slot(t, n) for n in (k_stages, v_stages))
                pl.when(t >= k_stages)(lambda: plgpu.barrier_wait(r["k_free"].at[at]))
                source, ready = r["k"].at[b, tokens, key_head], r["k_ready"].at[at]
                plgpu.copy_gmem_to_smem(source, r["k_smem"].at[at], ready)
                if copied is far:
                    common.copy_labels(r, "key", b, head, heads, tokens, at, ready)
                pl.when(t >= v_stages)(lambda: plgpu.barrier_wait(r["v_free"].at[v_at]))
                source, ready = r["v"].at[b, tokens, key_head], r["v_ready"].at[v_at]
                plgpu.copy_gmem_to_smem(source, r["v_smem"].at[v_at], ready)

    grid = batch, heads, slots // BLOCK
    return common.run(attention_d_query, operands, results, scratch, grid)[0]
