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
from jaxtyping import Array

from physnet import _varying
from physnet.moe import _layout, _linear, _loops, _plan
from physnet.moe._loops import ExpertFn, Form
from physnet.moe._rows import picked, put, weighted
from physnet.moe._slab_tangent import GATE, PARAMS, TOKENS, Tangent, replaced

_BLOCK = 256  # rows of a step of the loop


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
    tokens, gate, params, plan = _varying.alike((tokens, gate, params, plan))
    block = min(_BLOCK, 1 << (n * k - 1).bit_length())
    index = jnp.maximum(plan.slot, 0)
    forms, captured = _loops.closed(expert_fn, params, tokens, index, (rows, block))
    function = Slabs(forms, block, experts, k, drop=drop).function()
    y = function((tokens, gate, params, captured), plan)
    return y, served.reshape(n, k), count


class Slabs:
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
            return weighted(args[GATE], picked(slab, plan))

        def beyond():
            def step(found, out):
                owner, source, place = found
                return put(out, place, self.on_block(self.own(args, owner, source)))

            return weighted(args[GATE], self.loop(plan.rest, step, picked(slab, plan)))

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
        captured = PARAMS + len(jax.tree.leaves(args[PARAMS]))  # the first of them
        alike = _varying.axes(plan.slot)
        if any(i >= captured and _varying.axes(leaves[i]) != alike for i in moves):
            # expert_fn itself sums their cotangents over devices: not within a branch or a loop.
            every = lambda moved: self.by_blocks(gathered, replaced(leaves, tree, moved), plan)  # noqa: E731
            return jax.jvp(every, ({i: leaves[i] for i in moves},), (moves,))
        rows = [leaves[TOKENS][plan.source // self.k], *leaves[1:]]
        slab, push = jax.linearize(
            lambda moved: self.on_rows(replaced(rows, tree, moved)), {i: rows[i] for i in moves}
        )
        push = jax.make_jaxpr(push)({i: rows[i] for i in moves})
        tangent = Tangent(self, tree, tuple(moves), captured, push.jaxpr)
        residuals = leaves, plan, push.consts, slab if GATE in moves else None
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
            return self.by_blocks(_loops.differentiable, replaced(leaves, tree, moved), plan)

        return jax.jvp(of, ({i: leaves[i] for i in moves},), (moves,))

    def by_blocks(self, execute: Callable[..., Array], args: Any, plan: _plan.Plan) -> Array:
        """The same values, differentiated by JAX."""
        tokens, gate, params, captured = args
        layout = _layout.blocks(plan.served, self.experts, self.block)
        form = lambda own, x: self.part(captured, own, x)  # noqa: E731
        out = execute(form, params, layout, tokens[layout.source // self.k])
        out = out.reshape(-1, out.shape[-1])[layout.slot]
        return weighted(gate, jnp.where(layout.kept[:, None], out, jnp.zeros_like(out)))


def gathered(expert_fn: ExpertFn, params: Any, layout: _layout.Layout, rows: Array) -> Array:
    """All blocks at once, each with a copy of its expert's parameters."""
    own = jax.tree.map(lambda p: p.at[layout.owner].get(indices_are_sorted=True), params)
    return jax.vmap(expert_fn)(own, rows)
