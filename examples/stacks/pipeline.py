"""A stack spread over stages that do not wait: stale gradients, and teleported ones that are fresh.

A unit of time is the forward pass of a batch through one stage; backward takes two. Synchronous
training waits for the chain: with M parts of a batch, 3 (M + S - 1) / M units a step. Without
waiting a step takes 3, but the gradient of stage s, of S, is that of `delay` (S - 1 - s) steps ago:
of the parameters and the batch of then. G(s, L) delta_L does not travel through stages: it counts
as fresh everywhere (which leaves out the time that the forward pass takes, for both alike).
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from physnet import optim
from stacks import gradients
from stacks.methods import Method
from stacks.problems import Problem
from stacks.training import Recipe, measured

SCHEMES = {
    "synchronous": "synchronous, with the bubble",
    "stale": "stale",
    "teleported": "fresh teleported, in place of the chain",
    "mean": "mean of stale and fresh teleported",
    "corrected": "stale + (fresh - stale) teleported",
}
DELAYED = ("stale", "mean", "corrected")
MICROBATCHES = 4


def units_per_step(scheme: str, stages: int) -> float:
    if scheme == "synchronous":
        return 3 * (MICROBATCHES + stages - 1) / MICROBATCHES
    return 5.0 if scheme in ("mean", "corrected") else 3.0  # a second backward pass


def delayed(ring: Any, new: Any, number: jax.Array, delays: Any) -> tuple[Any, Any]:
    """`new` stored, and each layer's of `delays` steps ago, zero before there are such."""

    def one(old, new, delay):
        size = len(old)
        old = old.at[number % size].set(new)
        slot = (number - delay) % size
        there = number >= delay
        if jnp.ndim(delay):  # one a layer
            found = old[slot, jnp.arange(len(slot))]
            there = there.reshape(-1, *(1,) * (found.ndim - 1))
        else:
            found = old[slot]
        return old, jnp.where(there, found, 0.0)

    pairs = jax.tree.map(one, ring, new, delays)
    return tuple(jax.tree.map(lambda _, pair, i=i: pair[i], new, pairs) for i in range(2))


def program(problem: Problem, scheme: str, recipe: Recipe, *, stages: int, delay: int):
    """run(rates (n,), seeds (n,)) -> `Curves` (n, measurements) each."""
    chain = gradients.by_scan(problem, Method("chain"))
    near = gradients.staged(problem, stages, far=True)
    per_stage = problem.depth // stages
    oldest = delay * (stages - 1)
    of_layer = delay * (stages - 1 - jnp.arange(problem.depth) // per_stage)
    inputs, labels = problem.data.train

    def one(rate, seed):
        start, draw = jax.random.split(jax.random.key(seed))
        params = problem.init(start, False)
        rule = optim.teleported_lookahead(rate, momentum=0.9)
        zeros = jax.tree.map(jnp.zeros_like, params)
        delays = {
            name: jax.tree.map(lambda _, d=d: d, params[name])
            for name, d in (("first", oldest), ("layers", of_layer), ("last", 0))
        }
        empty = jax.tree.map(lambda x: jnp.zeros((oldest + 1, *x.shape)), params)

        def step(carry, number):
            params, state, chains, nears = carry
            keys = jax.random.split(jax.random.fold_in(draw, number))
            chosen = jax.random.randint(keys[0], (recipe.batch,), 0, len(inputs))
            batch = inputs[chosen], labels[chosen], keys[1], 0.0
            local, jumps = zeros, zeros
            if scheme != "teleported":
                local = chain(params, *batch)[1]
            if scheme in DELAYED:
                chains, local = delayed(chains, local, number, delays)
            if scheme in ("teleported", "mean", "corrected"):
                jumps = near(params, *batch)[1]
            if scheme == "mean":
                local, jumps = (jax.tree.map(lambda x: x / 2, tree) for tree in (local, jumps))
            if scheme == "corrected":
                nears, old = delayed(nears, jumps, number, delays)
                jumps = jax.tree.map(jnp.subtract, jumps, old)
            updates, state = rule.update(local, state, params, teleported=jumps)
            return (optax.apply_updates(params, updates), state, chains, nears), None

        def between(carry, block):
            carry = jax.lax.scan(step, carry, block * recipe.every + jnp.arange(recipe.every))[0]
            return carry, measured(problem, carry[0])

        blocks = jnp.arange(recipe.steps // recipe.every)
        chains = empty if scheme in DELAYED else None
        nears = empty if scheme == "corrected" else None
        return jax.lax.scan(between, (params, rule.init(params), chains, nears), blocks)[1]

    return jax.vmap(one)
