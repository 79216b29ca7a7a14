"""Gradients of a stack by each way: plain, teleported, by a truncated Born series, by stages."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from physnet import dyson, teleport
from stacks.methods import Method
from stacks.problems import Params, Problem

GHOST_RHO, ANNEALED = 0.5, 0.6
Gradients = Callable[..., tuple[jax.Array, Params, Params | None]]


def measured_rho(problem: Problem, layers: Any, h: jax.Array, key: jax.Array) -> jax.Array:
    """tr J_l / d (depth,), from two probes at two examples."""

    def probe(h, key):
        return dyson.probe_layers(problem.layer, layers, h, key=key, probes=2).rho

    rho = jnp.mean(jax.vmap(probe)(h[:2], jax.random.split(key, 2)), 0)
    return jax.lax.stop_gradient(rho)


def rho_at(problem: Problem, layers: Any, inputs: jax.Array, key: jax.Array) -> jax.Array:
    """The same where the inputs of all layers (depth, batch, ...) are known: all layers at once."""
    h = inputs[:, :2]
    probes = jax.random.rademacher(key, (2, *h.shape), h.dtype)

    def moved(own, h, v):
        return jax.jvp(partial(problem.layer, own), (h,), (v,))[1]

    change = jax.vmap(jax.vmap(moved), (None, None, 0))(layers, h, probes)
    rho = jnp.mean(probes * change, (0, *range(2, change.ndim)))
    return jax.lax.stop_gradient(rho)


def by_scan(problem: Problem, method: Method) -> Gradients:
    """Plain and teleported gradients: value, gradient, and the teleported part for look-ahead."""
    depth = problem.depth
    ones = jnp.ones(depth)

    def stack(layers, h, strength, progress, key):
        if method.way == "plain":
            return jax.lax.scan(lambda h, own: (problem.layer(own, h), None), h, layers)[0]
        options: dict[str, Any] = {"propagator": ones, "mode": method.way}
        if method.way == "ghost":
            options["propagator"] = GHOST_RHO * ones
            strength = strength * jnp.maximum(0.0, 1 - progress / ANNEALED)
        if method.way == "gated":
            options["propagator"] = measured_rho(problem, layers, h, key)
        return teleport.scan(problem.layer, layers, h, strength=strength, **options)

    def gradients(params, x, y, key, progress):
        keys = jax.random.split(key)

        def loss(params, strength):
            h = problem.first(params["first"], x)
            value = problem.last(params, stack(params["layers"], h, strength, progress, keys[0]), y)
            if not method.isometry:
                return value[0]
            penalty = jax.vmap(
                lambda h, key: dyson.isometry_penalty(problem.layer, params["layers"], h, key=key)
            )(h[:2], jax.random.split(keys[1], 2))
            # Its trace term is d / 2 times a squared change of lengths.
            return value[0] + method.isometry / h[0].size * jnp.mean(penalty)

        # Totals of "dyson" grow as exp(depth sqrt(strength)), those of "chain" as depth * strength.
        strengths = {"chain": 1 / depth, "ghost": problem.ghost}
        strength = jnp.float32(strengths.get(method.way, 4 / depth**2))
        if method.optimiser == "lookahead":
            value, parts = teleport.gradients(loss, params, strength=strength, return_value=True)
            return value, *parts
        return *jax.value_and_grad(loss)(params, strength), None

    return gradients


def born(problem: Problem, order: int) -> Gradients:
    """Highway-BP: all paths that leave the skip connections in at most `order` layers.

    J_l^T = K_l + Sigma_l, K_l of the skip connections with their normalisations, branches held
    fixed. Each order applies Sigma of all layers at once to the last estimate, and sums what comes
    out along the skip connections. Exact from order = depth on.
    """

    def gradients(params, x, y, key, progress):
        first, inputs, out = _forward(problem, params, x)
        value, pull = jax.vjp(lambda p, h: problem.last(p, h, y)[0], params, out)
        of_last, delta = pull(jnp.ones_like(value))

        def skip(own, h):
            return jax.vjp(partial(problem.straight, own), h)[1]

        skips = jax.vmap(skip)(params["layers"], inputs)

        def pulled(deltas):  # cotangents of the outputs of all layers -> of (params, input)
            def one(own, h, delta):
                return jax.vjp(problem.layer, own, h)[1](delta)

            return jax.vmap(one)(params["layers"], inputs, deltas)

        def along(scattered):  # delta_{l-1} = K_l delta_l + scattered_l
            def step(delta, of_layer):
                skip, more = of_layer
                return skip(delta)[0] + more, delta

            return jax.lax.scan(step, delta, (skips, scattered), reverse=True)

        below, deltas = along(jnp.zeros_like(inputs))
        for _ in range(order):
            scattered = pulled(deltas)[1] - jax.vmap(lambda skip, d: skip(d)[0])(skips, deltas)
            below, deltas = along(scattered)
        of_layers = pulled(deltas)[0]
        return value, _joined(params, of_last, of_layers, first(below)[0]), None

    return gradients


def staged(problem: Problem, stages: int, *, far: bool) -> Gradients:
    """Backpropagation inside each stage alone, all stages at once.

    Stage s starts from G(s, L) delta_L, G the product of rho over the layers above it; with
    far=False the stages below the last one start from 0 and learn nothing.
    """
    if problem.depth % stages:
        raise ValueError(f"stages must divide the depth {problem.depth}, got {stages}")

    def gradients(params, x, y, key, progress):
        first, inputs, out = _forward(problem, params, x)
        value, pull = jax.vjp(lambda p, h: problem.last(p, h, y)[0], params, out)
        of_last, delta = pull(jnp.ones_like(value))
        if far:
            rho = rho_at(problem, params["layers"], inputs, key).reshape(stages, -1)
            above = jnp.cumprod(jnp.prod(rho, 1)[::-1])[::-1]
            arriving = jnp.append(above[1:], 1.0)
        else:
            arriving = jnp.zeros(stages).at[-1].set(1.0)
        arriving = arriving.reshape(-1, *(1,) * delta.ndim) * delta
        per_stage = problem.depth // stages
        layers = jax.tree.map(
            lambda a: a.reshape(stages, per_stage, *a.shape[1:]), params["layers"]
        )

        def one(own, h, delta):
            def run(own, h):
                return jax.lax.scan(lambda h, p: (problem.layer(p, h), None), h, own)[0]

            return jax.vjp(run, own, h)[1](delta)

        of_layers, below = jax.vmap(one)(layers, inputs[::per_stage], arriving)
        of_layers = jax.tree.map(lambda a: a.reshape(problem.depth, *a.shape[2:]), of_layers)
        return value, _joined(params, of_last, of_layers, first(below[0])[0]), None

    return gradients


def _forward(problem: Problem, params: Params, x: jax.Array):
    """The way back to the first parameters, the inputs of all layers, and h_L."""
    h, first = jax.vjp(lambda own: problem.first(own, x), params["first"])
    out, inputs = jax.lax.scan(lambda h, own: (problem.layer(own, h), h), h, params["layers"])
    return first, inputs, out


def _joined(params: Params, of_last: Params, of_layers: Any, of_first: Any) -> Params:
    return {"first": of_first, "layers": of_layers, "last": of_last["last"]}


def sequential(method: Method, depth: int, *, stages: int = 8, order: int = 2) -> float:
    """Passes through a layer of one step that must follow each other; backward counts as two.

    What Highway-BP sums along skip connections, additions and normalisations, does not count.
    """
    backward = {"highway": order + 1, "truncated": depth / stages, "staged": depth / stages}
    return depth + 2 * backward.get(method.way, depth)


def of_method(problem: Problem, method: Method, *, stages: int = 8, order: int = 2) -> Gradients:
    """gradients(params, x, y, key, progress) -> (value, gradient, teleported part or None)."""
    if method.way == "highway":
        return born(problem, order)
    if method.way in ("truncated", "staged"):
        return staged(problem, stages, far=method.way == "staged")
    return by_scan(problem, method)
