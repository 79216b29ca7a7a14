"""What is left of the memories, and of the codes under them, after a loss."""

import itertools
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from erasure_lab.memories import (
    MEMORIES,
    PAIRS,
    REPLICAS,
    WIDTH,
    hadamard,
    lost_rows,
    low_pass,
    parity,
    repeated,
)
from erasure_lab.tilings import short

Row = dict[str, Any]
LOSSES = (0.0, 0.1, 0.25, 0.4, 0.5, 0.65, 0.8)
QUARTER = LOSSES.index(0.25)


def associations(seed: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """One draw: keys beside values, queries that are noisy keys, and a PRNG key of losses."""
    draw, loss, noise = jax.random.split(jax.random.key(seed), 3)
    slots = jax.random.normal(draw, (PAIRS, 2, WIDTH))
    slots = slots / jnp.linalg.norm(slots, axis=-1, keepdims=True)
    queries = slots[:, 0] + 0.5 / np.sqrt(WIDTH) * jax.random.normal(noise, (PAIRS, WIDTH))
    return slots.reshape(PAIRS, 2 * WIDTH), queries, loss


def recalled(slots: jax.Array, queries: jax.Array, kept: jax.Array, known: jax.Array) -> jax.Array:
    """The share of queries whose output, by attention to what is kept, is nearest to its value."""
    logits = jnp.where(known, 16 * queries @ kept[:, :WIDTH].T, -1e30)
    out = jax.nn.softmax(logits, axis=-1) @ kept[:, WIDTH:]
    return jnp.mean(jnp.argmax(out @ slots[:, WIDTH:].T, axis=-1) == jnp.arange(PAIRS))


def robustness(draws: int) -> list[Row]:
    """Recall of every memory at every share lost; of coded ones, less that of copies, draw by draw.

    Draw i has the same associations and queries for every memory. Errors are standard errors.
    """
    seeds = jnp.tile(jnp.arange(draws), len(LOSSES))
    slots, queries, keys = jax.jit(jax.vmap(associations))(seeds)
    shares = jnp.repeat(jnp.array(LOSSES), draws)
    score = jax.jit(jax.vmap(recalled))
    found = {}
    for name, memory in MEMORIES.items():
        each = jax.jit(partial(jax.lax.map, lambda case, m=memory: m(*case)))
        values = score(slots, queries, *each((slots, keys, shares)))
        found[name] = np.asarray(values, float).reshape(len(LOSSES), draws)
    rows = []
    for name, values in found.items():
        mean, error = mean_and_error(values)
        row: Row = {"memory": name, "lost": list(LOSSES), "recall": mean, "error": error}
        after = ""
        if name in REPLICAS:
            mean, error = mean_and_error(values - found[REPLICAS[name]])
            row |= {"replica": REPLICAS[name], "gain": mean, "gain_error": error}
            after = f"   at 25% {mean[QUARTER]:+.3f} ± {error[QUARTER]:.3f} over copies"
        rows.append(row)
        print(f"{name:24}" + "".join(f"{r:7.3f}" for r in row["recall"]) + after, flush=True)
    return rows


def mean_and_error(values: np.ndarray) -> tuple[list[float], list[float]]:
    """Over draws, the last axis."""
    error = values.std(1, ddof=1) / np.sqrt(values.shape[1])
    return short(values.mean(1)), short(error)


def conditions(draws: int) -> list[Row]:
    """Condition numbers of what is left of 64 slots in 128: median and 90% quantile of random
    losses, and the median where the first rows are lost, all in a row.
    """
    rows, k, n = [], 64, 128
    generators = {"Hadamard": hadamard, "parities": parity, "low-pass DCT": low_pass,
                  "repetition": repeated}  # fmt: skip
    for name, generator in generators.items():
        numbers = np.full((2, draws, len(LOSSES)), 1e16)
        for seed in range(draws):
            key = jax.random.key(seed)
            matrix = np.asarray(generator(k, n, key), np.float64)
            for i, share in enumerate(LOSSES):
                scattered = matrix[~np.asarray(lost_rows(key, n, share))]
                for kind, left in enumerate((scattered, matrix[round(share * n) :])):
                    if len(left) >= k:
                        numbers[kind, seed, i] = min(np.linalg.cond(left), 1e16)
        medians = np.median(numbers, axis=1)
        rows += [{"code": name, "lost": share, "median": float(medians[0, i]),
                  "high": float(np.quantile(numbers[0, :, i], 0.9)),
                  "in_a_row": float(medians[1, i])} for i, share in enumerate(LOSSES)]  # fmt: skip
    for name, what in itertools.product(generators, ("median", "in_a_row")):
        numbers = "".join(f"{row[what]:9.3g}" for row in rows if row["code"] == name)
        print(f"{name:14}{what:10}{numbers}")
    return rows
