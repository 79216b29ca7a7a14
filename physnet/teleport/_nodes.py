"""Nodes h_l of a stack whose forward is the identity and whose backward adds the teleported sum.

Beside h runs a state whose value means nothing: only its cotangent is used, which is the state of
the propagator in the backward pass. So the loop over layers stays an ordinary `lax.scan`, and
JAX's own derivative of it decides what is stored, recomputed and batched.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core
from jaxtyping import Array, Bool

from physnet.teleport import _propagator

Leaves = list[Array]  # the floating leaves of h, or of what is like it
Node = tuple[Any, Array]  # coefficients of the propagator, and the strength


def wide(x: Array) -> Array:
    """In float32 at least: sums over depth are formed so."""
    return x.astype(np.promote_types(x.dtype, np.float32))


def empty(form: _propagator.Propagator, h: Leaves) -> Leaves:
    """A state for `h`, of any value."""
    fill = [jax.lax.stop_gradient(wide(x)) for x in h]
    return [jnp.broadcast_to(x, (*form.width, *x.shape)) for x in fill]


def _total(form: type, node: Node, h: Leaves, state: Leaves) -> tuple[Leaves, Leaves]:
    """Backwards delta <- delta + strength * sum, and the state takes this total in."""
    return h, _tie(h, state)


def _total_forward(form, node, h, state):
    return (h, _tie(h, state)), node


def _total_backward(form, node, cotangents):
    _, totals, states = _visit(form, node, cotangents, total=True)
    return None, totals, states


total = jax.custom_vjp(_total, nondiff_argnums=(0,))
total.defvjp(_total_forward, _total_backward)


def _chain(form: type, node: Node, h: Leaves, twin: Leaves, state: Leaves) -> tuple[Leaves, Leaves]:
    """Backwards delta goes to h as it is, and with strength * sum to its twin."""
    return h, _tie(h, state)


def _chain_forward(form, node, h, twin, state):
    return (h, _tie(h, state)), node


def _chain_backward(form, node, cotangents):
    deltas, totals, states = _visit(form, node, cotangents, total=False)
    return None, deltas, totals, states


chain = jax.custom_vjp(_chain, nondiff_argnums=(0,))
chain.defvjp(_chain_forward, _chain_backward)


def _visit(
    form: Any, node: Node, cotangents: tuple[Leaves, Leaves], *, total: bool
) -> tuple[Leaves, Leaves, Leaves]:
    """Cotangents without and with the sum that arrives here, and the state that goes on."""
    own, strength = node
    deltas, states = cotangents
    totals, after = [], []
    for delta, state in zip(deltas, states, strict=True):
        emitted = form.emit(own, state)
        added = strength.astype(emitted.dtype) * emitted
        added = jnp.where(strength == 0, jnp.zeros_like(added), added)  # not 0 * inf
        totals.append((wide(delta) + added).astype(delta.dtype))
        after.append(form.absorb(own, state, emitted, wide(totals[-1] if total else delta)))
    return deltas, totals, after


def twins(layer: Callable[[Any, Any], Any], params: Any, h: Any) -> tuple[Any, Any]:
    """layer(params, h) twice: the cotangent of the one goes to h, that of the other to params.

    What `layer` closes over counts as a parameter.
    """
    jaxpr, shape = jax.make_jaxpr(layer, return_shape=True)(params, h)

    def plain(captured, params, h):
        closed = core.ClosedJaxpr(jaxpr.jaxpr, captured)
        leaves = core.jaxpr_as_fun(closed)(*jax.tree.leaves((params, h)))
        return jax.tree.unflatten(jax.tree.structure(shape), leaves)

    @jax.custom_vjp
    def both(captured, params, h):
        out = plain(captured, params, h)
        return out, out

    def forward(captured, params, h):
        out, pull = jax.vjp(plain, captured, params, h)
        return (out, out), pull

    def backward(pull, cotangents):
        to_h, to_params = cotangents
        return *pull(to_params)[:2], pull(to_h)[2]

    both.defvjp(forward, backward)
    return both(jaxpr.consts, params, h)


def depend(h: Leaves, on: Any) -> Leaves:
    """`h` with the batch axes of `on`.

    `vmap` inside `grad` adds up the cotangents of what has no batch axis, before they could
    differ.
    """
    same = functools.reduce(jnp.logical_and, [jnp.all(x == x) for x in jax.tree.leaves(on)])
    return [_select(same, x) for x in h]


def _tie(h: Leaves, state: Leaves) -> Leaves:
    return [_select(jnp.broadcast_to(x == x, s.shape), s) for x, s in zip(h, state, strict=True)]


def _select(which: Bool[Array, "..."], x: Array) -> Array:
    return jax.lax.select_n(which, x, x)
