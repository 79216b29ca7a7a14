"""The derivative of experts on slabs, and its transpose."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jaxtyping import Array

from physnet.moe._rows import picked, put, weighted, wide

TOKENS, GATE, PARAMS = 0, 1, 2  # places among the leaves of all arguments


class Tangent:
    """The derivative of `Slabs`, linear in the leaves of its arguments that move.

    Residuals are all leaves, the plan, what the slabs' own derivative keeps, and their outputs.
    """

    def __init__(self, slabs: Any, tree: Any, moving: tuple[int, ...], captured: int, push: Any):
        self.slabs, self.tree, self.moving, self.captured = slabs, tree, moving, captured
        self.push = push

    def straight(self, residuals: Any, x: list[Array]) -> list[Array]:
        leaves, plan, consts, slab = residuals
        slabs, args = self.slabs, self.tree.unflatten(leaves)
        moves = dict(zip(self.moving, x, strict=True))
        rows = dict(moves)
        if TOKENS in moves:
            rows[TOKENS] = moves[TOKENS][plan.source // slabs.k]
        moved = self.pushed(consts, rows)

        def summed(out, moved):
            more = [(moves[GATE], out)] if GATE in moves else []
            return weighted(args[GATE], moved, *more)

        def start():
            return picked(moved if slab is None else slab, plan), picked(moved, plan)

        def beyond():
            def step(found, carry):
                owner, source, place = found
                own, tree = jax.tree.flatten(slabs.own(args, owner, source))
                local = slabs.own(replaced(leaves, self.tree, moves), owner, source)
                local = jax.tree.leaves(local)
                point, tangent = ({i: v[i] for i in self.moving} for v in (own, local))
                new = jax.jvp(
                    lambda moved: slabs.on_block(replaced(own, tree, moved)), (point,), (tangent,)
                )
                return tuple(put(x, place, y) for x, y in zip(carry, new, strict=True))

            return summed(*slabs.loop(plan.rest, step, start()))

        if slabs.never_beyond(plan):
            return [summed(*start())]
        return [lax.cond(plan.fits, lambda: summed(*start()), beyond)]

    def back(self, residuals: Any, cts: list[Array]) -> list[Array]:
        leaves, plan, consts, slab = residuals
        slabs, args, (ct,) = self.slabs, self.tree.unflatten(leaves), cts
        gate, k = args[GATE].reshape(-1), slabs.k

        def weigh(source, new):
            """Cotangents of the outputs of these assignments, and of all their weighted outputs."""
            whole = ct[source // k]
            own = gate[source].astype(wide(ct))[..., None] * whole.astype(wide(ct))
            return jnp.where(new[..., None], own, jnp.zeros_like(own)).astype(ct.dtype), whole

        def of_gate(out, whole):
            dtype = wide(out)
            return jnp.sum(out.astype(dtype) * whole.astype(dtype), axis=-1).astype(gate.dtype)

        def from_slabs():
            own, whole = weigh(plan.source, plan.real)
            own = own.reshape(-1, own.shape[-1])
            rows = {i: leaves[i] for i in self.moving}
            if TOKENS in rows:
                rows[TOKENS] = leaves[TOKENS][plan.source // k]
            (moved,) = jax.linear_transpose(lambda x: self.pushed(consts, x), rows)(own)
            if TOKENS in moved:
                x = moved[TOKENS]
                moved[TOKENS] = picked(x.reshape(-1, x.shape[-1]), plan)
            if GATE in moved:
                moved[GATE] = picked(of_gate(slab, whole.reshape(own.shape)), plan)
            return moved

        def of_used():
            """Without those of experts that no token meets: there may be a NaN."""
            moved = from_slabs()
            for i in set(moved) & set(range(PARAMS, self.captured)):
                used = plan.used.reshape(-1, *[1] * (moved[i].ndim - 1))
                moved[i] = jnp.where(used, moved[i], jnp.zeros_like(moved[i]))
            return moved

        def nothing():
            each = {TOKENS: lambda x: jnp.repeat(x, k, axis=0), GATE: lambda x: x.reshape(-1)}
            return {i: jnp.zeros_like(each.get(i, jnp.asarray)(leaves[i])) for i in self.moving}

        def step(found, carry):
            owner, source, place = found
            own, tree = jax.tree.flatten(slabs.own(args, owner, source))
            out, pull = jax.vjp(
                lambda moved: slabs.on_block(replaced(own, tree, moved)),
                {i: own[i] for i in self.moving},
            )
            upstream, whole = weigh(source, place < plan.slot.shape[0])
            (new,) = pull(upstream)
            if GATE in new:
                new[GATE] = of_gate(out, whole)
            return {i: self.added(i, carry[i], new[i], owner, place) for i in self.moving}

        def finished(moved):
            if TOKENS in moved:
                x = moved[TOKENS]
                x = x.reshape(-1, k, x.shape[-1]).astype(wide(x))
                moved[TOKENS] = jnp.sum(x, axis=1).astype(leaves[TOKENS].dtype)
            if GATE in moved:
                moved[GATE] = moved[GATE].reshape(-1, k)
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
        if i < PARAMS:
            return put(total, place, new)
        if i >= self.captured:
            return total + new
        old = lax.dynamic_index_in_dim(total, owner, 0, keepdims=False)
        return lax.dynamic_update_index_in_dim(total, old + new, owner, 0)


def replaced(leaves: Sequence[Array], tree: Any, moved: dict[int, Array]) -> Any:
    """The tree with some of its leaves replaced."""
    return tree.unflatten([moved.get(i, leaf) for i, leaf in enumerate(leaves)])
