"""The gradients of attention on Hopper along the lists of the key blocks.

A tile holds a block of keys and forms the weights again, transposed; the gradients of keys and
values add up in its registers. The gradient of queries is added to memory in float32, in no fixed
order: each warpgroup gives the columns that are its own, once both have handed over what their keys
say of a block of queries. Where query heads share keys, each has tiles of its own, which add to
memory, too: tiles of all of them together would not find the queries of that many heads in the L2
cache. Only where nothing may be summed in memory does a tile go through all of its heads.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from physnet_kernels.scattering_attention import _mosaic_common as common
from physnet_kernels.scattering_attention._types import BLOCK, Labels, Lists, Marks, Rule

BLOCK_Q = 64  # two accumulators of 64 x 128 leave registers for no more
STAGES = 2


def along_keys(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    d_output: jax.Array,
    lse: jax.Array,
    shift: jax.Array,
    marks: Marks,
    lists: Lists,
    labels: Labels,
    *,
    rule: Rule,
    with_query: bool,
) -> tuple[jax.Array, ...]:
    """Cotangents of key and value, and in float32 that of query over the scale `with_query`.

    The arguments are those of `backward`, no NaN in lse and shift; `marks.queries` are all that
    must count as zeros. `with_query` takes head dimensions 64 and 128.
    """
    batch, slots, key_heads, width = key.shape
    heads = query.shape[2]
    group = heads // key_heads
    many = lists.key_steps.shape[1]
    # Two accumulators of 64 x 256 do not fit into a warpgroup's registers: there both warpgroups
    # take the same keys, and each sums half of the columns. Keys and values lie in halves too.
    split = width == 256
    apart = with_query and group > 1  # a tile is about one query head
    columns = width // 2 if split else width
    dtype = query.dtype
    near, far = common.sides(rule, labels)
    scale = rule.scale or 1e-30  # it divides; so small, it makes zeros of all logits
    none_seen = -jnp.inf if scale > 0 else jnp.inf  # the product with q k where nothing is seen
    operands = {
        "q": query,
        "k": key,
        "v": value,
        "do": d_output,
        # Where the accumulators of the logits and of their gradient start.
        "lse": jnp.where(lse == jnp.inf, none_seen, -lse / scale),
        "shift": -shift,
        "spoilt": marks.key_blocks.astype(jnp.int32),
    }
    operands |= common.operands_of(labels, near, far)
    order = lists.key_order
    if group > 1 and many > 1 and not apart:  # heads of a group share the order of their key head
        total = lists.key_count.reshape(batch, key_heads, group, -1).sum(axis=2)
        order = jnp.repeat(jnp.argsort(-total, axis=-1).astype(jnp.int32), group, axis=1)
    spoilt = jnp.any(marks.queries.reshape(batch, heads, -1, BLOCK), axis=(1, 3))
    operands |= common.table(order, lists.key_count, lists.key_steps, spoilt)
    results = {}
    if not apart:
        results = {n: jax.ShapeDtypeStruct(key.shape, dtype) for n in ("dk", "dv")}
    half = width // 2
    scratch = {
        "k_smem": common.tile((2, common.HALF, columns), dtype, half),
        "v_smem": common.tile((2, common.HALF, columns), dtype, half),
        "q_smem": common.tile((STAGES, BLOCK_Q, width), dtype, half),
        "do_smem": common.tile((STAGES, BLOCK_Q, width), dtype, half),
        "lse_smem": plgpu.SMEM((STAGES, BLOCK_Q), jnp.float32),
        "shift_smem": plgpu.SMEM((STAGES, BLOCK_Q), jnp.float32),
        "bad_smem": plgpu.SMEM((2, common.HALF), jnp.float32),
        "k_ready": plgpu.Barrier(num_arrivals=4),
        "q_ready": plgpu.Barrier(num_arrivals=4 + near.number(), num_barriers=STAGES),
        "q_free": plgpu.Barrier(num_arrivals=2, num_barriers=STAGES),
        "met": plgpu.Barrier(num_arrivals=2),
    } | common.label_buffers(near, STAGES, BLOCK_Q)
    sums = {}
    if with_query:
        sums["dq"] = jnp.zeros(query.shape, jnp.float32)
        if apart:
            sums |= {n: jnp.zeros(key.shape, jnp.float32) for n in ("dk", "dv")}
        scratch["ds_smem"] = common.tile((2, 2, common.HALF, BLOCK_Q), dtype, half)
        scratch["dq_smem"] = common.tile((2, BLOCK_Q, half), jnp.float32)
        scratch["handed_over"] = plgpu.Barrier(num_arrivals=2)
    shape = (common.HALF, BLOCK_Q)

    def attention_along_keys(r, b, unit, rank):
        wg = lax.axis_index("wg")
        first, count = (unit, 1) if apart else (unit * group, group)  # query heads
        key_head = lax.div(unit, jnp.int32(group)) if apart else unit
        part_of_tile = wg
        if split:
            part_of_tile, rank = lax.rem(rank, jnp.int32(2)), lax.div(rank, jnp.int32(2))
        block = r["order"][b, common.share(first, heads, many), rank]

        def over_heads(visit, carry):
            """visit(head, steps, carry) for the query heads of the tile."""

            def of_head(g, carry):
                head = first + g
                row = r["table"].at[b, common.share(head, heads, many), rank]
                return visit(head, common.Steps(row, BLOCK // BLOCK_Q), carry)

            return of_head(0, carry) if count == 1 else lax.fori_loop(0, count, of_head, carry)

        def half_of(index):
            return pl.ds(index * half, half)

        def in_memory(name, part, index):
            """Keys of a half of the block, or half of the columns of the tile's keys."""
            rows = pl.ds(block * BLOCK + part * common.HALF, common.HALF)
            ref = r[name]
            return ref.at[b, rows, key_head, half_of(index)] if split else ref.at[b, rows, key_head]

        @pl.when(wg < 2)
        def _compute():
            plgpu.set_max_registers(240, action="increase")
            mine = pl.ds(block * BLOCK + part_of_tile * common.HALF, common.HALF)
            fixed = common.read_labels(r, "key", b, first, heads, mine, common.ROWS)

            def product(acc_ref, keys, queries):
                if not split:
                    plgpu.wgmma(acc_ref, keys.at[wg], queries.transpose((1, 0)))
                    return
                for i in range(2):
                    plgpu.wgmma(acc_ref, keys.at[i], queries.at[:, half_of(i)].transpose((1, 0)))

            def masked(at, head, x):
                theirs = common.buffered_labels(r, at)
                threshold = common.threshold_of(r, b, head, heads)
                ours = fixed
                if fixed.score is not None and count > 1 and far.score.shape[1] > 1:
                    score = common.load(r["key_score"].at[b, head, mine], common.ROWS)
                    ours = fixed._replace(score=score)
                spread = (lambda q: common.down(q, shape), lambda k: common.across(k, shape))
                mask = common.pairs(rule, theirs, ours, threshold, spread)
                whole = common.load(r["lse_smem"].at[at], common.COLUMNS) != none_seen
                return jnp.where(mask & common.down(whole, shape), x, none_seen)

            def clean(at):
                """A weight of zero times NaN is NaN: spoilt queries must be zeros."""

                @pl.when(wg == 0)
                def _():
                    bad = common.load(r["lse_smem"].at[at], common.ROWS) == none_seen
                    common.zero_rows(r["q_smem"].at[at], bad)
                    common.zero_rows(r["do_smem"].at[at], bad)

                common.meet(r["met"])

            def of_queries(dq_ref, place):
                for i in range(2):
                    ds = r["ds_smem"].at[place, i].transpose((1, 0))
                    plgpu.wgmma(dq_ref, ds, r["k_smem"].at[i].at[:, half_of(wg)])

            def add(part, name, start, head, columns):
                """Add 64 rows and half of the columns to a sum in memory."""
                smem = r["dq_smem"].at[wg]
                plgpu.wait_smem_to_gmem(0, wait_read_only=True)
                smem[...] = part
                plgpu.commit_smem()
                total = r[name].at[b, pl.ds(start, BLOCK_Q), head, half_of(columns)]
                plgpu.copy_smem_to_gmem(smem, total, reduction_op="add")

            def add_query(dq, head, start):
                add(dq, "dq", start, head, wg)

            def of_head(head, steps, carry):
                def step(t, carry):
                    dk, dv, done, before, code = carry
                    after = steps.code(t + 1)  # early: nothing waits for this load
                    at, place = common.slot(done, STAGES), common.slot(done, 2)
                    q_smem, do_smem = r["q_smem"].at[at], r["do_smem"].at[at]
                    plgpu.barrier_wait(r["q_ready"].at[at])
                    pl.when(common.is_spoilt(code))(lambda: clean(at))
                    first, offset = (
                        common.down(common.load(r[f"{n}_smem"].at[at], common.COLUMNS), shape)
                        for n in ("lse", "shift")
                    )

                    def products(refs):
                        x_ref, dp_ref = refs
                        product(x_ref, r["k_smem"], q_smem)
                        product(dp_ref, r["v_smem"], do_smem)

                    x, dp = pl.run_state(products)(
                        (common.ACC.init(first), common.ACC.init(offset))
                    )
                    x = lax.cond(
                        common.is_masked(code), lambda x: masked(at, head, x), lambda x: x, x
                    )
                    p = jnp.exp2(x * (scale * common.LOG2E))
                    ds = (p * dp).astype(dtype)
                    p = p.astype(dtype)
                    if with_query:

                        @pl.when(done > 0)  # the other one is done with what lies in this place
                        def _():
                            plgpu.barrier_wait(r["handed_over"])

                        r["ds_smem"].at[place, wg][...] = ds
                        plgpu.commit_smem()

                    def sums_of_step(refs):
                        dv_ref, dk_ref, *rest = refs
                        if with_query:  # of the step before: no waiting for the other one
                            of_queries(rest[0], 1 - place)
                        own = half_of(wg) if split else slice(None)
                        plgpu.wgmma(dv_ref, p, do_smem.at[:, own])
                        plgpu.wgmma(dk_ref, ds, q_smem.at[:, own])
                        if with_query:
                            dq = plgpu.wgmma_accumulator_load(rest[0], wait_n=2)
                            plgpu.barrier_arrive(r["handed_over"])
                            pl.when(done > 0)(lambda: add_query(dq, *before))

                    start = [dv, dk]
                    if with_query:
                        start.append(common.zeros((BLOCK_Q, half)))
                    start = tuple(map(common.ACC.init, start))
                    dv, dk = pl.run_state(sums_of_step)(start)[:2]
                    plgpu.barrier_arrive(r["q_free"].at[at])
                    return dk, dv, done + 1, (jnp.int32(head), steps.start(t, code)), after

                start = (*carry, steps.code(jnp.int32(0)))
                return tuple(lax.fori_loop(0, steps.count(), step, start)[:-1])

            plgpu.barrier_wait(r["k_ready"])

            bad_smem = r["bad_smem"]
            bad_smem.at[wg][...] = common.row_full(common.HALF, 0.0)
            plgpu.commit_smem()

            def bad_keys():
                bad = common.load(bad_smem.at[wg], common.ROWS)
                return bad + common.load(bad_smem.at[1 - wg], common.ROWS) if split else bad

            @pl.when(r["spoilt"][b, key_head, block] > 0)
            def _():
                """Zeros for spoilt keys; who sees one has no gradient to give."""
                own = [r[name].at[wg] for name in ("k_smem", "v_smem")]
                bad = [common.bad_rows(smem[...].astype(jnp.float32)) for smem in own]
                bad_smem.at[wg][...] = bad[0] + bad[1]
                plgpu.commit_smem()
                common.meet(r["met"])
                bad = bad_keys() > 0
                for smem in own:
                    common.zero_rows(smem, bad)
                common.meet(r["met"])

            none = common.zeros((common.HALF, columns))
            zero = jnp.int32(0)
            dk, dv, done, before = over_heads(of_head, (none, none, zero, (zero, zero)))
            if with_query:

                @pl.when(done > 0)
                def _():
                    plgpu.barrier_wait(r["handed_over"])

                    def last(dq_ref):
                        of_queries(dq_ref, common.slot(done + 1, 2))
                        return dq_ref[...]

                    dq = pl.run_scoped(last, common.ACC((BLOCK_Q, half), jnp.float32))
                    add_query(dq, *before)

            common.meet(r["met"])  # the other warpgroup may still read these keys
            nothing = common.across(bad_keys() > 0, dk.shape)
            for n, total in (("k", dk * rule.scale), ("v", dv)):
                total = jnp.where(nothing, 0.0, total)
                if apart:
                    for i in range(2):
                        part = total[:, i * half : (i + 1) * half]
                        add(part, f"d{n}", mine.start, key_head, i)
                    continue
                smem = r[f"{n}_smem"].at[wg]
                smem[...] = total.astype(dtype)
                plgpu.commit_smem()
                plgpu.copy_smem_to_gmem(smem, in_memory(f"d{n}", part_of_tile, wg))
            plgpu.wait_smem_to_gmem(0, wait_read_only=True)

        @pl.when(wg == 2)
        def _copy():
            plgpu.set_max_registers(24, action="decrease")
            for i in range(2):
                for n in ("k", "v"):
                    source = in_memory(n, part_of_tile if split else i, i)
                    plgpu.copy_gmem_to_smem(source, r[f"{n}_smem"].at[i], r["k_ready"])

            def of_head(head, steps, done):
                count = steps.count()

                @pl.loop(0, count)
                def _(t):
                    at, tokens = common.slot(done + t, STAGES), steps.tokens(t)
                    ready = r["q_ready"].at[at]
                    pl.when(done + t >= STAGES)(lambda: plgpu.barrier_wait(r["q_free"].at[at]))
                    sources = {
                        "q": r["q"].at[b, tokens, head],
                        "lse": r["lse"].at[b, head, tokens],
                        "do": r["do"].at[b, tokens, head],
                        "shift": r["shift"].at[b, head, tokens],
                    }
                    for n, source in sources.items():
                        plgpu.copy_gmem_to_smem(source, r[f"{n}_smem"].at[at], ready)
                    common.copy_labels(r, "query", b, head, heads, tokens, at, ready)

                return done + count

            over_heads(of_head, jnp.int32(0))

    grid = batch, heads if apart else key_heads, slots // BLOCK * (2 if split else 1)
    found = common.run(attention_along_keys, operands, results, scratch, grid, sums)
    if not apart:
        return found
    of_query, *of_keys = found
    return (*(total.astype(dtype) for total in of_keys), of_query)
