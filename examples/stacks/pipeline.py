"""A stack spread over stages that do not wait: stale gradients, and teleported ones less late.

A unit of time is the forward pass of a batch through one stage; backward takes two. Synchronous
training waits for the chain: with M parts of a batch, 3 (M + S - 1) / M units a step, so many parts
pay, as far as small ones are efficient. Without waiting a step takes 3, but the gradient of stage
s, of S, is that of `delay` (S - 1 - s) steps ago, of the parameters and the batch of then: a third
of that goes by on the way up, the rest on the way down. G(s, L) delta_L skips the way down: it is
late by the third alone, rounded up. Delay 1 is that of stages alone, a longer one that of links.
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
    "slowed": "stale, rate / (1 + steps late)",
    "teleported": "teleported in place of the chain",
    "teleported-slowed": "teleported, rate / (1 + steps late)",
    "mean": "mean of stale and teleported",
    "corrected": "stale + (new - as stale) teleported",
}
TELEPORTING = ("teleported", "teleported-slowed", "mean", "corrected")
MICROBATCHES = 4, 16  # the row is of the last


def units_per_step(scheme: str, stages: int, microbatches: int = MICROBATCHES[-1]) -> float:
    if scheme == "synchronous":
        return 3 * (microbatches + stages - 1) / microbatches
    return 5.0 if scheme in ("mean", "corrected") else 3.0  # a second backward pass


def store(ring: Any, new: Any, number: jax.Array) -> Any:
    return jax.tree.map(lambda old, x: old.at[number % len(old)].set(x), ring, new)


def late(ring: Any, number: jax.Array, delays: Any) -> Any:
    """What was stored `delays` steps ago, one number or one a layer; zero before there is such."""

    def one(stored, delay):
        slot, there = (number - delay) % len(stored), number >= delay
        if jnp.ndim(delay) == 0:
            return jnp.where(there, stored[slot], 0.0)
        found = stored[slot, jnp.arange(len(slot))]
        return jnp.where(there.reshape(-1, *(1,) * (found.ndim - 1)), found, 0.0)

    return jax.tree.map(one, ring, delays)


def program(
    problem: Problem, scheme: str, recipe: Recipe, *, stages: int, delay: int, adam: bool = False
):
    """run(rates (n,), seeds (n,)) -> `Curves` (n, measurements) each.

    `adam`, of the sum of what arrives; otherwise momentum.
    """
    chain = gradients.by_scan(problem, Method("chain"))
    near = gradients.staged(problem, stages, far=True)
    below = stages - 1 - jnp.arange(problem.depth) // (problem.depth // stages)
    whole, third = delay * below, -(-delay * below // 3)
    longest = {"chain": delay * (stages - 1), "near": -(-delay * (stages - 1) // 3)}
    kept = ("chain",) * (scheme not in ("synchronous", "teleported", "teleported-slowed"))
    kept += ("near",) * (scheme in TELEPORTING)
    if scheme == "corrected":
        longest["near"] = longest["chain"]
    inputs, labels = problem.data.train

    def one(rate, seed):
        start, draw = jax.random.split(jax.random.key(seed))
        params = problem.init(start, False)
        rule = optim.teleported_lookahead(rate, momentum=0.9)
        if adam:
            rule = optax.adam(rate)
        zeros = jax.tree.map(jnp.zeros_like, params)

        def spread(of_layers):  # to all parameters; those before the layers are of stage 0
            parts = {"first": of_layers[0], "layers": of_layers, "last": 0}
            return {
                name: jax.tree.map(lambda _, part=part: part, params[name])
                for name, part in parts.items()
            }

        def step(carry, number):
            params, state, past = carry
            keys = jax.random.split(jax.random.fold_in(draw, number))
            chosen = jax.random.randint(keys[0], (recipe.batch,), 0, len(inputs))
            batch = inputs[chosen], labels[chosen], keys[1], 0.0
            ways = {"chain": chain, "near": near}
            past = {name: store(past[name], ways[name](params, *batch)[1], number) for name in past}
            local, jumps = zeros, zeros
            if scheme == "synchronous":
                local = chain(params, *batch)[1]
            if "chain" in past:
                local = late(past["chain"], number, spread(whole))
            if "near" in past:
                jumps = late(past["near"], number, spread(third))
            if scheme == "mean":
                local, jumps = (jax.tree.map(lambda x: x / 2, tree) for tree in (local, jumps))
            if scheme == "corrected":
                as_stale = late(past["near"], number, spread(whole))
                jumps = jax.tree.map(jnp.subtract, jumps, as_stale)
            if adam:
                total = jax.tree.map(jnp.add, local, jumps)
                updates, state = rule.update(total, state, params)
            else:
                updates, state = rule.update(local, state, params, teleported=jumps)
            if scheme.endswith("slowed"):
                own = whole if scheme == "slowed" else third
                updates = jax.tree.map(_slower, updates, spread(own))
            return (optax.apply_updates(params, updates), state, past), None

        def between(carry, block):
            carry = jax.lax.scan(step, carry, block * recipe.every + jnp.arange(recipe.every))[0]
            return carry, measured(problem, carry[0])

        blocks = jnp.arange(recipe.steps // recipe.every)
        past = {
            name: jax.tree.map(
                lambda x, name=name: jnp.zeros((longest[name] + 1, *x.shape)), params
            )
            for name in kept
        }
        return jax.lax.scan(between, (params, rule.init(params), past), blocks)[1]

    return jax.vmap(one)


def _slower(update: jax.Array, delay: Any) -> jax.Array:
    delay = jnp.asarray(delay)
    return update / (1 + delay.reshape(*delay.shape, *(1,) * (update.ndim - delay.ndim)))
