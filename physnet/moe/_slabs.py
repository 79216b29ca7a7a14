"""All experts at once, each on a slab of rows: the form of accelerators.

Slabs have one static size that random loads exceed rarely. What exceeds it goes through a loop over
blocks, which a conditional passes over as a rule. Rows are gathered on all ways, also back:
scattering cotangents is several times slower. JAX's own derivative of the conditional would copy
the parameters, so it is a linear function with a transpose of its own.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jax.extend import core
from jaxtyping import Array

from physnet.moe import _layout, _linear, _loops, _plan
from physnet.moe._loops import ExpertFn, Form

_BLOCK = 256  # rows of a step of the loop
_TOKENS, _GATE, _PARAMS = 0, 1, 2  # places among the leaves of all arguments


def run(
    tokens: Array,
    expert: Array,
    gate: Array,
    expert_fn: ExpertFn,
    params: Any,
    *,
    experts: int,
    capacity: int | None,
) -> tuple[Array, Array, Array]:
    """As `_experts.run`: no assignment dropped, or all beyond the capacity."""
    n, k = expert.shape
    drop = capacity is not None
    rows = capacity if drop else _plan.capacity(n * k, experts)
    plan, served, count = _plan.plan(expert.reshape(-1), experts, rows, drop=drop)
    tokens, gate, params, plan = vary_alike((tokens, gate, params, plan))
    block = min(_BLOCK, 1 << (n * k - 1).bit_length())
    index = jnp.maximum(plan.slot, 0)
    forms, captured = _loops.closed(expert_fn, params, tokens, index, (rows, block))
    function = _Slabs(forms, block, experts, k, drop=drop).function()
    y = function((tokens, gate, params, captured), plan)
    return y, served.reshape(n, k), count


def vary_alike(arrays: Any, *others: Any) -> Any:
    """In a `shard_map`: arrays that vary over the axes over which any of them or of others does.

    The cotangents of what is the same on all devices are then summed over devices here, not within
    a branch or a loop, which may differ between devices.
    """
    axes = [_varying(x) for x in jax.tree.leaves((arrays, others))]
    axes = frozenset().union(*axes)

    def vary(x):
        missing = tuple(axes - _varying(x))
        return lax.pcast(x, missing, to="varying") if missing else x

    return jax.tree.map(vary, arrays)


def _varying(x: Any) -> frozenset[Any]:
    return frozenset(jax.typeof(x).manual_axis_type.varying)


def weighted(gate: Array, out: Array, *more: tuple[Array, Array]) -> Array:
    """sum_j gate_ij out_ij for gates (n, k) and outputs (n k, o), and the same of more pairs."""
    wide = _wide(out)
    terms = [
        g.astype(wide)[..., None] * o.reshape(*g.shape, -1).astype(wide)
        for g, o in ((gate, out), *more)
    ]
    return jnp.sum(sum(terms[1:], terms[0]), axis=1).astype(out.dtype)


class _Slabs:
    """Experts of one call: y (n, o) of (tokens, gates, parameters, captured arrays) and a plan."""

    def __init__(self, forms: Sequence[Form], block: int, experts: int, k: int, *, drop: bool):
        self.whole, self.part = forms  # on a slab's rows, on a block's
        self.block, self.experts, self.k, self.drop = block, experts, k, drop

    def function(self) -> Callable[..., Array]:
        """y (n, o) of all arguments and a plan, with derivatives of any order."""
        function = jax.custom_jvp(lambda args, plan: self.values(args, plan, self.slab(args, plan)))
        function.defjvp(self.rule, symbolic_zeros=True)
        return function

    def slab(self, args: Any, plan: _plan.Plan) -> Array:
        tokens, *others = args
        return self.on_rows((tokens[plan.source // self.k], *others))

    def on_rows(self, args: Any) -> Array:
        """Outputs (E C, o) of the rows (E, C, d)."""
        rows, _, params, captured = args
        out = jax.vmap(self.whole, (None, 0, 0))(captured, params, rows)
        return out.reshape(-1, out.shape[-1])

    def own(self, args: Any, owner: Array, source: Array) -> Any:
        """Arguments of a block: the tokens of its assignments, its expert's parameters."""
        tokens, gate, params, captured = args
        return tokens[source // self.k], gate, _loops.params_of(params, owner), captured

    def on_block(self, args: Any) -> Array:
        rows, _, params, captured = args
        return self.part(captured, params, rows)

    def values(self, args: Any, plan: _plan.Plan, slab: Array) -> Array:
        def inside():
            return weighted(args[_GATE], _picked(slab, plan))

        def beyond():
            def step(found, out):
                owner, source, place = found
                return _put(out, place, self.on_block(self.own(args, owner, source)))

            return weighted(args[_GATE], self.loop(plan.rest, step, _picked(slab, plan)))

        if self.never_beyond(plan):
            return inside()
        return lax.cond(plan.fits, inside, beyond)

    def never_beyond(self, plan: _plan.Plan) -> bool:
        return self.drop or plan.source.shape[1] == plan.slot.shape[0]

    def loop(self, expert: Array, step: Callable[..., Any], start: Any) -> Any:
        """step((owner, assignments, places to write), carry) for the blocks of these assignments.

        Rows that fill a block have places of their own, beyond all assignments.
        """
        blocks = _plan.queue(expert, self.experts, self.block)
        row = jnp.arange(self.block, dtype=jnp.int32) + expert.shape[0]

        def body(index, carry):
            owner, source, new = _plan.block(blocks, index, self.block)
            return step((owner, source, jnp.where(new, source, row)), carry)

        return lax.fori_loop(0, blocks.end[-1], body, start)

    def rule(self, primals: Any, tangents: Any) -> tuple[Array, Array]:
        args, plan = primals
        leaves, tree = jax.tree.flatten(args)
        moves = dict(enumerate(jax.tree.leaves(tangents[0])))
        moves = {i: t for i, t in moves.items() if type(t) is not SymbolicZero}
        captured = _PARAMS + len(jax.tree.leaves(args[_PARAMS]))  # the first of them
        alike = _varying(plan.slot)
        if any(i >= captured and _varying(leaves[i]) != alike for i in moves):
            # expert_fn itself sums their cotangents over devices: not within a branch or a loop.
            every = lambda moved: self.by_blocks(gathered, _with(leaves, tree, moved), plan)  # noqa: E731
            return jax.jvp(every, ({i: leaves[i] for i in moves},), (moves,))
        rows = [leaves[_TOKENS][plan.source // self.k], *leaves[1:]]
        slab, push = jax.linearize(
            lambda moved: self.on_rows(_with(rows, tree, moved)), {i: rows[i] for i in moves}
        )
        push = jax.make_jaxpr(push)({i: rows[i] for i in moves})
        tangent = _Tangent(self, tree, tuple(moves), captured, push.jaxpr)
        residuals = leaves, plan, push.consts, slab if _GATE in moves else None
        (moved,) = _linear.linear(
            tangent.straight, tangent.back, tangent.plain, residuals, list(moves.values())
        )
        return self.again(leaves, tree, plan, slab), moved

    def again(self, leaves: list[Array], tree: Any, plan: _plan.Plan, slab: Array) -> Array:
        """`values` within `rule`: what differentiates that cannot pass its loop."""
        values = jax.custom_jvp(
            lambda leaves, plan, slab: self.values(tree.unflatten(leaves), plan, slab)
        )

        @functools.partial(values.defjvp, symbolic_zeros=True)
        def _(primals, tangents):
            leaves, plan, _ = primals  # the slabs' outputs follow from the others
            moves = {i: t for i, t in enumerate(tangents[0]) if type(t) is not SymbolicZero}
            return self.natural(leaves, tree, plan, moves)

        return values(leaves, plan, slab)

    def natural(
        self, leaves: list[Array], tree: Any, plan: _plan.Plan, moves: dict[int, Array]
    ) -> tuple[Array, Array]:
        """Values and tangents, one block after another, which JAX differentiates further."""

        def of(moved):
            return self.by_blocks(_loops.differentiable, _with(leaves, tree, moved), plan)

        return jax.jvp(of, ({i: leaves[i] for i in moves},), (moves,))

    def by_blocks(self, execute: Callable[..., Array], args: Any, plan: _plan.Plan) -> Array:
        """The same values, differentiated by JAX."""
        tokens, gate, params, captured = args
        layout = _layout.blocks(plan.served, self.experts, self.block)
        form = lambda own, x: self.part(captured, own, x)  # noqa: E731
        out = execute(form, params, layout, tokens[layout.source // self.k])
        out = out.reshape(-1, out.shape[-1])[layout.slot]
        return weighted(gate, jnp.where(layout.kept[:, None], out, jnp.zeros_like(out)))


class _Tangent:
    """The derivative of `_Slabs`, linear in the leaves of its arguments that move.

    Residuals are all leaves, the plan, what the slabs' own derivative keeps, and their outputs.
    """

    def __init__(self, slabs: _Slabs, tree: Any, moving: tuple[int, ...], captured: int, push: Any):
        self.slabs, self.tree, self.moving, self.captured = slabs, tree, moving, captured
        self.push = push

    def straight(self, residuals: Any, x: list[Array]) -> list[Array]:
        leaves, plan, consts, slab = residuals
        slabs, args = self.slabs, self.tree.unflatten(leaves)
        moves = dict(zip(self.moving, x, strict=True))
        rows = dict(moves)
        if _TOKENS in moves:
            rows[_TOKENS] = moves[_TOKENS][plan.source // slabs.k]
        moved = self.pushed(consts, rows)

        def summed(out, moved):
            more = [(moves[_GATE], out)] if _GATE in moves else []
            return weighted(args[_GATE], moved, *more)

        def start():
            return _picked(moved if slab is None else slab, plan), _picked(moved, plan)

        def beyond():
            def step(found, carry):
                owner, source, place = found
                own, tree = jax.tree.flatten(slabs.own(args, owner, source))
                local = slabs.own(_with(leaves, self.tree, moves), owner, source)
                local = jax.tree.leaves(local)
                point, tangent = ({i: v[i] for i in self.moving} for v in (own, local))
                new = jax.jvp(
                    lambda moved: slabs.on_block(_with(own, tree, moved)), (point,), (tangent,)
                )
                return tuple(_put(x, place, y) for x, y in zip(carry, new, strict=True))

            return summed(*slabs.loop(plan.rest, step, start()))

        if slabs.never_beyond(plan):
            return [summed(*start())]
        return [lax.cond(plan.fits, lambda: summed(*start()), beyond)]

    def back(self, residuals: Any, cts: list[Array]) -> list[Array]:
        leaves, plan, consts, slab = residuals
        slabs, args, (ct,) = self.slabs, self.tree.unflatten(leaves), cts
        gate, k = args[_GATE].reshape(-1), slabs.k

        def weigh(source, new):
            """Cotangents of the outputs of these assignments, and of all their weighted outputs."""
            whole = ct[source // k]
            own = gate[source].astype(_wide(ct))[..., None] * whole.astype(_wide(ct))
            return jnp.where(new[..., None], own, jnp.zeros_like(own)).astype(ct.dtype), whole

        def of_gate(out, whole):
            wide = _wide(out)
            return jnp.sum(out.astype(wide) * whole.astype(wide), axis=-1).astype(gate.dtype)

        def from_slabs():
            own, whole = weigh(plan.source, plan.real)
            own = own.reshape(-1, own.shape[-1])
            rows = {i: leaves[i] for i in self.moving}
            if _TOKENS in rows:
                rows[_TOKENS] = leaves[_TOKENS][plan.source // k]
            (moved,) = jax.linear_transpose(lambda x: self.pushed(consts, x), rows)(own)
            if _TOKENS in moved:
                x = moved[_TOKENS]
                moved[_TOKENS] = _picked(x.reshape(-1, x.shape[-1]), plan)
            if _GATE in moved:
                moved[_GATE] = _picked(of_gate(slab, whole.reshape(own.shape)), plan)
            return moved

        def of_used():
            """Without those of experts that no token meets: there may be a NaN."""
            moved = from_slabs()
            for i in set(moved) & set(range(_PARAMS, self.captured)):
                used = plan.used.reshape(-1, *[1] * (moved[i].ndim - 1))
                moved[i] = jnp.where(used, moved[i], jnp.zeros_like(moved[i]))
            return moved

        def nothing():
            each = {_TOKENS: lambda x: jnp.repeat(x, k, axis=0), _GATE: lambda x: x.reshape(-1)}
            return {i: jnp.zeros_like(each.get(i, jnp.asarray)(leaves[i])) for i in self.moving}

        def step(found, carry):
            owner, source, place = found
            own, tree = jax.tree.flatten(slabs.own(args, owner, source))
            out, pull = jax.vjp(
                lambda moved: slabs.on_block(_with(own, tree, moved)),
                {i: own[i] for i in self.moving},
            )
            upstream, whole = weigh(source, place < plan.slot.shape[0])
            (new,) = pull(upstream)
            if _GATE in new:
                new[_GATE] = of_gate(out, whole)
            return {i: self.added(i, carry[i], new[i], owner, place) for i in self.moving}

        def finished(moved):
            if _TOKENS in moved:
                x = moved[_TOKENS]
                x = x.reshape(-1, k, x.shape[-1]).astype(_wide(x))
                moved[_TOKENS] = jnp.sum(x, axis=1).astype(leaves[_TOKENS].dtype)
            if _GATE in moved:
                moved[_GATE] = moved[_GATE].reshape(-1, k)
            return [moved[i] for i in self.moving]

        def anyhow():
            if any(i >= self.captured for i in self.moving):  # sums, which no NaN may reach
                return finished(slabs.loop(plan.served, step, nothing()))
            if slabs.never_beyond(plan):
                return finished(of_used())
            return finished(slabs.loop(plan.rest, step, of_used()))

        inside = jnp.all(plan.used) if slabs.drop else plan.fits & jnp.all(plan.used)
        return lax.cond(inside, lambda: finished(from_slabs()), anyhow)

    def plain(self, residuals: Any, x: list[Array]) -> list[Array]:
        leaves, plan = residuals[:2]
        moves = dict(zip(self.moving, x, strict=True))
        return [self.slabs.natural(leaves, self.tree, plan, moves)[1]]

    def pushed(self, consts: Any, moves: dict[int, Array]) -> Array:
        closed = core.ClosedJaxpr(self.push, consts)
        return core.jaxpr_as_fun(closed)(*jax.tree.leaves(moves))[0]

    def added(self, i: int, total: Array, new: Array, owner: Array, place: Array) -> Array:
        if i < _PARAMS:
            return _put(total, place, new)
        if i >= self.captured:
            return total + new
        old = lax.dynamic_index_in_dim(total, owner, 0, keepdims=False)
        return lax.dynamic_update_index_in_dim(total, old + new, owner, 0)


def gathered(expert_fn: ExpertFn, params: Any, layout: _layout.Layout, rows: Array) -> Array:
    """All blocks at once, each with a copy of its expert's parameters."""
    own = jax.tree.map(lambda p: p.at[layout.owner].get(indices_are_sorted=True), params)
    return jax.vmap(expert_fn)(own, rows)


def _wide(x: Array) -> Any:
    """The dtype of sums."""
    return x.dtype if x.dtype.itemsize >= 4 else jnp.dtype(jnp.float32)


def _with(leaves: Sequence[Array], tree: Any, moved: dict[int, Array]) -> Any:
    """The tree with some of its leaves replaced."""
    return tree.unflatten([moved.get(i, leaf) for i, leaf in enumerate(leaves)])


def _picked(slab: Array, plan: _plan.Plan) -> Array:
    """What belongs to each assignment (M, ...) of rows (E C, ...); 0 for those without."""
    found = slab.at[jnp.maximum(plan.slot, 0)].get(mode="promise_in_bounds")
    inside = (plan.slot >= 0).reshape(-1, *[1] * (slab.ndim - 1))
    return jnp.where(inside, found, jnp.zeros_like(found))


def _put(out: Array, place: Array, rows: Array) -> Array:
    """Rows at their places, which differ; those beyond the end are left out."""
    return out.at[place].set(rows, mode="drop", unique_indices=True)
