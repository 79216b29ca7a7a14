"""A scanned stack of layers with teleported gradients."""

import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet.teleport import _nodes, _propagator

Mode = Literal["dyson", "chain", "ghost", "gated"]


def scan(
    layer: Callable[[Any, Any], Any],
    params: Any,
    h: Any,
    *,
    propagator: Any,
    strength: ArrayLike | Float[Array, " layers"],
    mode: Mode = "dyson",
    measured: ArrayLike | Float[Array, " layers"] | None = None,
    gate: ArrayLike = 0.5,
) -> Any:
    r"""A stack h_l = f_l(h_{l-1}), l = 1..L, whose gradients also jump over layers.

    The value is that of `lax.scan` over the layers, to the bit ("ghost" excepted). Backwards let
    delta_l be the cotangent of h_l, l = 0..L, h_0 the input and delta_L what comes from the loss,
    and J_l = dh_l/dh_{l-1}. For l = L-1, ..., 0

        "dyson":  D_l = J_{l+1}^T D_{l+1} + lambda_l sum_{k=l+1..L} G(l, k) D_k,   D_L = delta_L
        "chain":  C_l = J_{l+1}^T C_{l+1},   D_l = C_l + lambda_l sum_{k=l+1..L} G(l, k) C_k
        "gated":  "dyson" with lambda_l only where |measured_{l+1}| >= gate, 0 elsewhere
        "ghost":  h_k = f_k(h_{k-1}) + sum_{l<k} lambda_l G(l, k) h_l, and its true gradient

    and the cotangents of the parameters of layer l and of the input are (df_l/dparams)^T D_l and
    D_0. "dyson" sums total cotangents (all orders of jumps), "chain" those of plain
    backpropagation (one jump: the first Born term). "ghost" has the derivatives of "dyson" at the
    ghost's own h: anneal lambda to 0 to arrive at the plain stack.

    With rho, G(l, k) = rho_{l+1} ... rho_k and the sum is A_l = rho_{l+1} (A_{l+1} + D_{l+1}):
    O(L) time and one carry like h. Each of the r columns of (U, V) costs such a carry. A matrix
    costs O(L^2) time and the L cotangents. What the backward pass stores of each layer is what
    `lax.scan` stores; `jax.checkpoint(layer)` recomputes instead.

    A jump carries a cotangent unturned. That is news of the loss only where layers are near
    multiples of the identity: its cosine with the plain cotangent one layer down is about
    tr J/d over the root of tr J J^T/d, both of which `physnet.dyson.probe_layers` measures. For
    rho = 1 and J = I the totals of "dyson" grow like exp(L sqrt(lambda)): lambda of order 1/L^2
    keeps them.

    Args:
        layer: layer(params_l, h) -> h, the same tree, shapes and dtypes. May close over arrays:
            they have gradients too, summed over layers.
        params: A tree of arrays, (L, ...) each.
        h: A tree of arrays. What is not floating (integers, keys), here and in params, passes
            through the layers and takes no part in the sums.
        propagator: One of
            rho (L,), rho_l of layer l at index l - 1;
            (U, V), both (L, r): G(l, k) = U_l . V_k between outputs h_1 .. h_L, nothing to the
            input h_0; or (L+1, r), h_0 first;
            a matrix G (L, L) between outputs, or (L+1, L+1) with h_0 first; entries k > l count.
        strength: lambda, a number, or (L,): lambda_0 .. lambda_{L-1}, the one of the *input* of
            layer l + 1 at index l. May be traced, and annealed without compiling anew. Where it is
            0, nothing is added, whatever the sum is.
        mode: "dyson", "chain", "ghost" or "gated".
        measured: For "gated", tr J_l/d of each layer (L,), as `physnet.dyson.probe_layers` finds
            it; by default rho. NaN closes.
        gate: For "gated", what |measured| must reach.

    Returns:
        h_L. Gradients by params, h and closed-over arrays, with `jit`, `vmap` and reverse mode
        over reverse mode; forward mode and gradients by propagator and strength (0 otherwise)
        in mode "ghost" alone: JAX raises a TypeError from `jvp` of the others. Sums are formed in
        float32 where h is narrower.

    Raises:
        ValueError: Shapes that do not fit; `measured` missing, or given to another mode.
        TypeError: A layer that changes the tree, shapes or dtypes; a propagator, strength or
            measured that is not real floating.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> layer = lambda weight, h: weight * h
        >>> loss = lambda h, strength: scan(
        ...     layer, jnp.full(3, 0.5), h, propagator=jnp.ones(3), strength=strength)
        >>> print(f"{jax.grad(loss)(1.0, 0.0):.3f}")   # 1/2 of 1/2 of 1/2
        0.125
        >>> print(f"{jax.grad(loss)(1.0, 0.1):.3f}")   # 1, .6, .46, .436
        0.436

    References:
        Born and Wolf, "Principles of optics", Cambridge 1999, section 13.1 (the Born series).
        Fagnou, Caillon, Delattre and Allauzen, ICLR 2025, arXiv:2501.17086 (Highway-BP: truncated
        sums over the paths through residual connections).
    """
    _checks.one_of("mode", mode, ("dyson", "chain", "ghost", "gated"))
    _checks.function("layer", layer)
    layers = _checks.stacked("params", params, "layers", least=0)
    form = _propagator.propagator(propagator, layers)
    strength = _per_layer("strength", strength, layers)
    if mode == "gated":
        strength = _gated(strength, measured, gate, form, layers)
    elif measured is not None:
        raise ValueError(f"measured belongs to mode='gated', got mode={mode!r}")

    leaves, tree = jax.tree.flatten(jax.tree.map(functools.partial(_strong, "h"), h))
    floating = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.inexact)]

    def part(h: Any) -> list[Array]:
        return [jax.tree.leaves(h)[i] for i in floating]

    def put(h: Any, values: list[Array]) -> Any:
        every = jax.tree.leaves(h)
        for i, x in zip(floating, values, strict=True):
            every[i] = x
        return jax.tree.unflatten(tree, every)

    h = jax.tree.unflatten(tree, leaves)
    strength = jnp.concatenate([strength, jnp.zeros_like(strength, shape=(1,))])
    arguments = (_same(layer), params, h, form, strength, part, put)
    if mode == "ghost":
        return _ghost(*arguments)
    return _jumping(*arguments, first_order=mode == "chain")


def _jumping(layer, params, h, form, strength, part, put, *, first_order):
    nodes = (form.backward(), strength)
    values = _nodes.depend(part(h), nodes)
    first, rest = _split(nodes)
    values, state = _nodes.total(type(form), first, values, _nodes.empty(form, values))

    def step(carry, at):
        (own, node), (h, state) = at, carry
        if first_order:
            h, twin = _nodes.twins(layer, own, h)
            values, state = _nodes.chain(type(form), node, part(h), part(twin), state)
        else:
            h = layer(own, h)
            values, state = _nodes.total(type(form), node, part(h), state)
        return (put(h, values), state), None

    return lax.scan(step, (put(h, values), state), (params, rest))[0][0]


def _ghost(layer, params, h, form, strength, part, put):
    first, rest = _split((form.forward(), strength))

    def absorb(node, values, states, emitted):
        own, strength = node
        sent = [strength.astype(_nodes.wide(x).real.dtype) * _nodes.wide(x) for x in values]
        return [form.absorb(own, s, e, x) for s, e, x in zip(states, emitted, sent, strict=True)]

    def step(carry, at):
        (own, node), (h, states) = at, carry
        h = layer(own, h)
        emitted = [form.emit(node[0], s) for s in states]
        values = [
            (_nodes.wide(x) + s).astype(x.dtype) for x, s in zip(part(h), emitted, strict=True)
        ]
        return (put(h, values), absorb(node, values, states, emitted)), None

    nothing = [jnp.zeros_like(x) for x in _nodes.empty(form, part(h))]
    zeros = [jnp.zeros_like(_nodes.wide(x)) for x in part(h)]
    state = absorb(first, part(h), nothing, zeros)
    return lax.scan(step, (h, state), (params, rest))[0][0]


def _split(nodes: Any) -> tuple[Any, Any]:
    """Node 0, and the nodes at the layers' outputs."""
    return jax.tree.map(lambda x: x[0], nodes), jax.tree.map(lambda x: x[1:], nodes)


def _same(layer: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """`layer`, with an error unless its output is like its input."""

    def checked(params: Any, h: Any) -> Any:
        out = jax.tree.map(functools.partial(_strong, "layer"), layer(params, h))
        given, found = (
            [f"{jax.tree.structure(x)}", [f"{a.dtype}{a.shape}" for a in jax.tree.leaves(x)]]
            for x in (h, out)
        )
        if given != found:
            raise TypeError(
                "layer(params_l, h) must return the tree, shapes and dtypes of h, "
                f"{given[0]} of {given[1]}, got {found[0]} of {found[1]}"
            )
        return out

    return checked


def _per_layer(name: str, value: Any, layers: int) -> Array:
    array = _checks.real(name, value)
    if array.shape not in ((), (layers,)):
        raise ValueError(f"{name} must be a number or ({layers},), got shape {array.shape}")
    return jnp.broadcast_to(array, (layers,))


def _gated(
    strength: Array, measured: Any, gate: Any, form: _propagator.Propagator, layers: int
) -> Array:
    if measured is None:
        if not isinstance(form, _propagator.Product):
            raise ValueError(
                f"mode='gated' needs measured ({layers},), tr J/d of each layer, beside a "
                "propagator other than rho; got measured=None"
            )
        measured = form.rho
    measured = _per_layer("measured", measured, layers)
    gate = _checks.array("gate", gate, measured.dtype)
    if gate.shape not in ((), measured.shape):
        raise ValueError(f"gate must be a number or {measured.shape}, got shape {gate.shape}")
    return jnp.where(jnp.abs(measured) >= gate, strength, jnp.zeros_like(strength))


def _strong(name: str, x: Any) -> Array:
    """As an array whose dtype is its own, and not that of a Python number."""
    x = _checks.array(name, x)
    return x.astype(x.dtype) if jnp.issubdtype(x.dtype, jnp.number) else x
