"""Experts on the blocks of a layout one after another, as CPUs like it."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend import core
from jaxtyping import Array

from physnet.moe import _layout

ExpertFn = Callable[[Any, Array], Array]
Form = Callable[[Any, Any, Array], Array]  # of what an ExpertFn closes over, and its arguments


def dropless(tokens: Array, expert: Array, expert_fn: ExpertFn, params: Any, experts: int) -> Array:
    """Outputs (n k, o) of the experts (n, k) of tokens (n, d); undefined where there is none.

    Values come from the quickest loop, which reads parameters where they lie. Its transpose would
    write a cotangent as large as all parameters for every block. So derivatives are those of
    another loop with the same values, `differentiable`.
    """
    k, flat = expert.shape[1], expert.reshape(-1)
    sizes = _layout.sizes(flat.shape[0], experts)
    block = _layout.block_size(flat.shape[0], experts, least=8)
    # What expert_fn closes over may have derivatives or a batch: it must be an argument as well.
    forms, captured = closed(expert_fn, params, tokens, flat, (*sizes, block))

    values = jax.custom_jvp(_batched(functools.partial(_values, k, forms, sizes)))

    @values.defjvp
    def _(primals, tangents):
        tokens, flat, params, captured = primals

        def of(tokens, params, captured):
            layout = _layout.blocks(flat, experts, block)
            form = functools.partial(forms[-1], captured)
            out = differentiable(form, params, layout, tokens[layout.source // k])
            return out.reshape(-1, out.shape[-1])[layout.slot]

        return jax.jvp(of, (tokens, params, captured), (tangents[0], *tangents[2:]))

    return values(tokens, flat, params, captured)


def _values(
    k: int,
    forms: Sequence[Form],
    sizes: Sequence[int],
    tokens: Array,
    flat: Array,
    params: Any,
    captured: Any,
) -> Array:
    """The outputs, run after run, each on the least of `sizes` that holds it."""
    most = sizes[-1]
    plan = _layout.runs(flat, jax.tree.leaves(params)[0].shape[0], most)
    rows = jnp.pad(tokens[plan.order // k], ((0, most), (0, 0)))
    branches = [_on_rows(form, size, most) for form, size in zip(forms, sizes, strict=False)]
    nothing = _nothing(branches[-1])
    index = sum((plan.fill > size).astype(jnp.int32) for size in (0, *sizes[:-1]))

    def step(y, run):
        owner, start, index = run
        out = lax.switch(index, [nothing, *branches], owner, start, params, captured, rows)
        # The next run begins where the tokens of this one end, and covers the rest of it.
        return lax.dynamic_update_slice_in_dim(y, out, start, 0), None

    y = nothing(plan.owner[0], plan.start[0], params, captured, rows)[:1]
    y = jnp.broadcast_to(y, (flat.shape[0] + most, y.shape[1]))
    y, _ = lax.scan(step, y, (plan.owner, plan.start, index))
    return y[plan.slot]


def _batched(values: Callable[..., Array]) -> Callable[..., Array]:
    """`values` with a batch taken as more tokens and more experts: `vmap` would run every branch.

    Where expert_fn closes over a batch, one element comes after another.
    """
    whole = jax.custom_batching.custom_vmap(values)
    alone = jax.custom_batching.sequential_vmap(values)

    @whole.def_vmap
    def _(size, batched, *arguments):
        if any(jax.tree.leaves(batched[3])):
            axes = jax.tree.map(lambda moves: 0 if moves else None, tuple(batched))
            return jax.vmap(alone, axes)(*arguments), True
        tokens, flat, params, captured = arguments
        tokens, flat = (
            x if moves else jnp.broadcast_to(x, (size, *x.shape))
            for x, moves in zip((tokens, flat), batched, strict=False)
        )
        if any(jax.tree.leaves(batched[2])):
            params = jax.tree.map(
                lambda x, moves: x if moves else jnp.broadcast_to(x, (size, *x.shape)),
                params,
                batched[2],
            )
            experts = jax.tree.leaves(params)[0].shape[1]
            params = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), params)
            first = experts * jnp.arange(size, dtype=flat.dtype)[:, None]
            flat = jnp.where((flat >= 0) & (flat < experts), flat + first, -1)
        out = whole(tokens.reshape(-1, tokens.shape[-1]), flat.reshape(-1), params, captured)
        return out.reshape(size, -1, out.shape[-1]), True

    return whole


def closed(
    expert_fn: ExpertFn, params: Any, tokens: Array, flat: Array, sizes: Sequence[int]
) -> tuple[list[Form], list[Any]]:
    """expert_fn on rows of each size, as functions of what it closes over, and all of that."""
    forms, captured = [], []
    own = params_of(params, flat[0])
    rows = jnp.pad(tokens, ((0, max(sizes)), (0, 0)))
    for size in sizes:
        x = lax.dynamic_slice_in_dim(rows, flat[0], size)
        jaxpr = jax.make_jaxpr(expert_fn)(own, x)
        place = len(captured)
        captured.append(jaxpr.consts)

        def form(captured, own, x, jaxpr=jaxpr, place=place):
            closed = core.ClosedJaxpr(jaxpr.jaxpr, captured[place])
            return core.jaxpr_as_fun(closed)(*jax.tree.leaves((own, x)))[0]

        forms.append(form)
    return forms, captured


def _on_rows(form: Form, size: int, most: int):
    """`form` on `size` rows from `start` on, filled up to `most` rows."""

    def branch(owner, start, params, captured, rows):
        x = lax.dynamic_slice_in_dim(rows, start, size)
        return jnp.pad(form(captured, params_of(params, owner), x), ((0, most - size), (0, 0)))

    return branch


def params_of(params: Any, owner: Array) -> Any:
    return jax.tree.map(lambda p: lax.dynamic_index_in_dim(p, owner, 0, keepdims=False), params)


def differentiable(expert_fn: ExpertFn, params: Any, layout: _layout.Layout, rows: Array) -> Array:
    """Outputs (b, m, o) of all blocks.

    The slice of the parameters is taken outside of the branch and again in the backward pass:
    so its cotangent is a slice as well, and none is stored.
    """

    @jax.checkpoint
    def one(params, block):
        owner, full, x = block
        return _if(full, expert_fn, params_of(params, owner), x)

    return lax.map(lambda block: one(params, block), (layout.owner, layout.full, rows))


def in_place(expert_fn: ExpertFn, params: Any, layout: _layout.Layout, rows: Array) -> Array:
    """One expert after another, on a block each, those with tokens only."""

    @jax.checkpoint
    def one(block):
        own, full, x = block
        return _if(full, expert_fn, own, x)

    return lax.map(one, (params, layout.full, rows))


def _if(full: Array, expert_fn: ExpertFn, own: Any, x: Array) -> Array:
    """expert_fn(own, x), or zeros at no cost."""
    return lax.cond(full, expert_fn, _nothing(expert_fn), own, x)


def _nothing(function: Callable[..., Array]) -> Callable[..., Array]:
    """Zeros, but not computed: inside shard_map they must vary over the same axes as the output."""
    return lambda *arguments: jnp.zeros_like(function(*arguments))
