"""What the Mosaic GPU kernels of attention share: tiles, operands by name, the pair mask."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import mosaic_gpu as plgpu

from physnet_kernels.scattering_attention._types import BLOCK, NO_TOKEN, Labels, Rule

LOG2E = math.log2(math.e)
ROWS = plgpu.Layout.WGMMA.reduce(1)  # one value a row of an accumulator
COLUMNS = plgpu.Layout.WGMMA.reduce(0)
WIDE = plgpu.Layout.WGMMA_UPCAST_4X  # eight neighbours a thread: whole sectors of memory at once
ACC: Any = plgpu.WGMMAAccumulatorRef
HALF = BLOCK // 2  # rows of a warpgroup
CORES = 132  # as many as a Hopper chip has; a guess that is wrong costs time alone
NAMES = ("position", "segment", "score")
# The index that `load` takes up to JAX 0.10; later it has none.
_INDEX = inspect.signature(plgpu.load).parameters.get("idx")
_WHOLE = (slice(None),) if _INDEX and _INDEX.default is inspect.Parameter.empty else ()


class Side(NamedTuple):
    """Labels of the tokens of one side; None where a rule does not look at them."""

    position: Any
    segment: Any
    score: Any

    def number(self) -> int:
        return sum(x is not None for x in self)


def sides(rule: Rule, labels: Labels) -> tuple[Side, Side]:
    """The labels that a rule looks at, of queries and keys."""
    scored = rule.band != "near" and labels.query_score is not None
    return (
        Side(labels.query_position, labels.query_segment, labels.query_score if scored else None),
        Side(labels.key_position, labels.key_segment, labels.key_score if scored else None),
    )


def operands_of(labels: Labels, query: Side, key: Side) -> dict[str, jax.Array]:
    """The labels of both sides as operands."""
    pairs = (("query", query), ("key", key))
    named = {
        f"{p}_{n}": x for p, side in pairs for n in NAMES if (x := getattr(side, n)) is not None
    }
    if query.score is not None:
        named["threshold"] = labels.threshold
    return named


def table(
    order: jax.Array, count: jax.Array, steps: jax.Array, spoilt: jax.Array | None = None
) -> dict[str, jax.Array]:
    """Lists in the order in which blocks are taken, so that no load waits for another one.

    Args:
        order, count, steps: As in `Lists`.
        spoilt: (B, blocks): which of the blocks that `steps` names hold something non-finite;
            None for none.

    Returns:
        order (B, L, R); table (B, L, R, 1 + V): the count, then 4 * block + 2 * spoilt + masked.
    """
    codes = 2 * steps - steps % 2
    if spoilt is not None:
        spoilt = jnp.take_along_axis(spoilt[:, None, None], steps // 2, axis=3)
        codes = codes + 2 * spoilt.astype(jnp.int32)
    rows = jnp.concatenate([count[..., None], codes], axis=3)
    return {"order": order, "table": jnp.take_along_axis(rows, order[..., None], axis=2)}


class Steps(NamedTuple):
    """The steps of one output tile; a listed block takes `parts` of them."""

    row: Any  # reference to a row of the table
    parts: int

    def count(self) -> jax.Array:
        return self.row[0] * self.parts

    def code(self, step: jax.Array) -> jax.Array:
        """What the table says of the block of a step; of the last one where there is no such."""
        place = 1 + lax.div(step, jnp.int32(self.parts))
        return self.row[jnp.minimum(place, jnp.int32(self.row.shape[0] - 1))]

    def masked(self, step: jax.Array) -> jax.Array:
        return is_masked(self.code(step))

    def spoilt(self, step: jax.Array) -> jax.Array:
        return is_spoilt(self.code(step))

    def start(self, step: jax.Array, code: jax.Array) -> jax.Array:
        """The first slot that a step is about."""
        size = BLOCK // self.parts
        start = lax.div(code, jnp.int32(4)) * BLOCK
        return start + lax.rem(step, jnp.int32(self.parts)) * size

    def tokens(self, step: jax.Array) -> Any:
        """The slots that a step is about."""
        return pl.ds(self.start(step, self.code(step)), BLOCK // self.parts)


def is_masked(code: jax.Array) -> jax.Array:
    return lax.rem(code, jnp.int32(2)) > 0


def is_spoilt(code: jax.Array) -> jax.Array:
    return lax.rem(code, jnp.int32(4)) > 1


def share(head: jax.Array, heads: int, kinds: int) -> jax.Array:
    """Which of 1, K or N lists, scores or key heads a query head uses."""
    return lax.div(head, jnp.int32(heads // kinds))


def labels_of(r: dict[str, Any], side: str, name: str, batch: Any, head: Any, heads: int) -> Any:
    """The reference to one label of all tokens, as a head sees it; None without."""
    ref = r.get(f"{side}_{name}")
    if ref is None or name != "score":
        return None if ref is None else ref.at[batch]
    return ref.at[batch, share(head, heads, ref.shape[1])]


def read_labels(r, side: str, batch, head, heads: int, tokens, layout) -> Side:
    """The labels of some tokens, from device memory."""

    def one(name):
        ref = labels_of(r, side, name, batch, head, heads)
        return None if ref is None else load(ref.at[tokens], layout)

    return Side(*map(one, NAMES))


def label_buffers(side: Side, stages: int, length: int) -> dict[str, Any]:
    """Shared memory for the labels that travel with a tile."""
    return {
        f"{n}_smem": plgpu.SMEM((stages, length), x.dtype)
        for n in NAMES
        if (x := getattr(side, n)) is not None
    }


def copy_labels(r, side: str, batch, head, heads: int, tokens, at, ready) -> None:
    """Start the copies of the labels of a tile into slot `at`."""
    for name in NAMES:
        ref = labels_of(r, side, name, batch, head, heads)
        if ref is not None:
            plgpu.copy_gmem_to_smem(ref.at[tokens], r[f"{name}_smem"].at[at], ready)


def buffered_labels(r: dict[str, Any], at: Any) -> Side:
    """The labels that came with the tile in slot `at`, one a column."""

    def one(name):
        ref = r.get(f"{name}_smem")
        return None if ref is None else load(ref.at[at], COLUMNS)

    return Side(*map(one, NAMES))


def threshold_of(r: dict[str, Any], batch: Any, head: Any, heads: int) -> Any:
    if "threshold" not in r:
        return None
    return r["threshold"][batch, share(head, heads, r["threshold"].shape[1])]


def pairs(
    rule: Rule, query: Side, key: Side, threshold: Any, spread: tuple[Callable, Callable]
) -> jax.Array:
    """Which pairs take part; `spread` broadcasts queries and keys over the tile."""
    of_query, of_key = spread
    t, s = of_query(query.position), of_key(key.position)
    mask = s <= t if rule.is_causal else (s != NO_TOKEN) & (t != NO_TOKEN)
    if rule.band != "all":
        ahead = t - s
        near = (ahead < rule.window) & (ahead > -rule.window)
        mask = mask & (near if rule.band == "near" else jnp.logical_not(near))
    if query.segment is not None:
        mask = mask & (of_query(query.segment) == of_key(key.segment))
    if query.score is not None:
        mask = mask & (of_query(query.score) * of_key(key.score) > threshold)
    return mask


def load(ref: Any, layout: Any) -> jax.Array:
    """All of a vector in memory, in registers."""
    return plgpu.load(ref, *_WHOLE, layout=layout, optimized=False)


def tile(shape: tuple[int, ...], dtype: Any, columns: int | None = None) -> Any:
    """Shared memory that wgmma and TMA both read, also `columns` of it by themselves."""
    size = jnp.dtype(dtype).itemsize
    minor = min(128, (columns or shape[-1]) * size)
    transforms = (plgpu.TilingTransform((8, minor // size)), plgpu.SwizzleTransform(minor))
    return plgpu.SMEM(shape, dtype, transforms=transforms)


def bad_rows(x: jax.Array) -> jax.Array:
    """More than 0 for each row of a tile that holds something non-finite, else 0; float32."""
    return jnp.where(x - x == 0, jnp.float32(0), jnp.float32(1)).sum(axis=1)


def zero_rows(smem: Any, bad: jax.Array) -> None:
    """Zero the rows of a tile in shared memory where `bad`, one a row, holds."""
    x = smem[...]
    smem[...] = jnp.where(across(bad, x.shape), jnp.zeros_like(x), x)
    plgpu.commit_smem()


def zeros(shape: tuple[int, int]) -> jax.Array:
    return plgpu.layout_cast(jnp.full(shape, 0, jnp.float32), plgpu.Layout.WGMMA)


def row_full(rows: int, value: float) -> jax.Array:
    return plgpu.layout_cast(jnp.full((rows,), value, jnp.float32), ROWS)


def across(rows: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """One value a row, at every column."""
    return lax.broadcast_in_dim(rows, shape, [0])


def down(columns: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """One value a column, at every row."""
    return lax.broadcast_in_dim(columns, shape, [1])


def slot(step: jax.Array, stages: int) -> jax.Array:
    return lax.rem(step, jnp.int32(stages))


def meet(barrier: Any) -> None:
    """Wait until both compute warpgroups are here."""
    plgpu.barrier_arrive(barrier)
    plgpu.barrier_wait(barrier)


def run(
    body: Callable[..., None],
    operands: dict[str, jax.Array],
    results: dict[str, jax.ShapeDtypeStruct],
    scratch: dict[str, Any],
    shape: tuple[int, int, int],
    sums: dict[str, jax.Array] | None = None,
    *,
    one_a_core: bool = False,
) -> tuple[jax.Array, ...]:
    """`body(refs, batch, head, rank)` for every tile, on two compute warpgroups and a copying one.

    Args:
        body: The kernel of one tile.
        operands, results, scratch: By the names under which `body` finds them in `refs`.
        shape: Batch entries, heads, ranks. One head follows another, so that its keys stay in the
            L2 cache, and its long lists come first, so that the short ones fill the gaps.
        sums: Start values of results that tiles add to or write again; they follow the others.
        one_a_core: Tiles follow each other in the blocks of threads that the chip holds at once:
            for bodies that mostly do nothing, and leave every barrier as they found it.
    """
    batch, heads, ranks = shape
    sums = sums or {}
    tiles = batch * heads * ranks
    grid = min(tiles, CORES) if one_a_core else tiles

    def kernel(*refs, **scratch_refs):
        named = dict(zip((*operands, *sums, *results), refs, strict=True)) | scratch_refs

        def of_tile(index):
            unit = lax.div(index, jnp.int32(ranks))
            place = lax.div(unit, jnp.int32(heads)), lax.rem(unit, jnp.int32(heads))
            body(named, *place, lax.rem(index, jnp.int32(ranks)))

        first = lax.axis_index("tile")
        if grid == tiles:
            of_tile(first)
        else:
            rounds = lax.div(tiles - first + (grid - 1), jnp.int32(grid))
            pl.loop(0, rounds)(lambda i: of_tile(first + i * grid))

    def scoped(*refs):
        pl.run_scoped(functools.partial(kernel, *refs), collective_axes="wg", **scratch)

    nowhere = jax.typeof(jnp.zeros(())).manual_axis_type  # a shard_map wants to be told
    types = tuple(
        jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=nowhere) for x in results.values()
    )
    mesh = plgpu.Mesh(grid=(grid,), grid_names=("tile",), num_threads=3, thread_name="wg")
    options = plgpu.CompilerParams(
        approx_math=True, lowering_semantics=plgpu.LoweringSemantics.Lane
    )
    launch: Any = pl.kernel(scoped, types, mesh=mesh, compiler_params=options, name=body.__name__)
    if not sums:
        return tuple(launch(*operands.values()))

    def add(refs):
        totals, found = refs
        for ref, value in zip(found, launch(*operands.values(), *totals), strict=True):
            ref[...] = value

    empty = [jnp.zeros(x.shape, x.dtype) for x in types]  # nothing is left of them
    totals, found = pl.run_state(add)((list(sums.values()), empty))
    return (*found, *totals)
