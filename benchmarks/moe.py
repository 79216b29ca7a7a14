"""Time and accuracy of physnet.moe on CPUs beside other ways to the same numbers.

    python benchmarks/moe.py            # all shapes, a few minutes
    python benchmarks/moe.py --quick    # small ones, seconds

Prints tables and writes benchmarks/results/moe.json. All ways to one result are timed in turns in
one process; a time is the least of its repeats.
"""

import argparse
import functools
import json
import os
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from hyperbolic_points import moved
from jax import lax

from physnet import moe
from physnet.hyperbolic import tree

RESULTS = Path(__file__).parent / "results" / "moe.json"


def expert(weight, x):
    return x @ weight


# Ways to execute experts on tokens with one expert each.


def dropless(tokens, routing, weights):
    return moe.apply(tokens, routing, expert, weights)


def capacity(tokens, routing, weights):
    return moe.apply(tokens, routing, expert, weights, capacity_factor=1.5)


def ragged(tokens, routing, weights):
    """lax.ragged_dot over tokens in the order of their experts."""
    flat = routing.expert[:, 0]
    order = jnp.argsort(flat)
    sizes = jnp.bincount(flat, length=len(weights)).astype(jnp.int32)
    y = lax.ragged_dot(tokens[order], weights, sizes)
    return routing.gate * jnp.zeros_like(y).at[order].set(y, unique_indices=True)


def gathered(tokens, routing, weights):
    """A copy of the weights a token."""
    return routing.gate * jnp.einsum("nd,ndo->no", tokens, weights[routing.expert[:, 0]])


def by_masks(tokens, routing, weights):
    """Every expert on every token."""
    chosen = routing.gate * jax.nn.one_hot(routing.expert[:, 0], len(weights))
    return jnp.einsum("ne,nd,edo->no", chosen, tokens, weights)


# Ways to choose experts.


def dense(tokens, centroids):
    return moe.route(tokens, centroids).expert[:, 0]


def with_tree(tokens, centroids):
    return moe.route(tokens, centroids, search="tree").expert[:, 0]


def with_tree_built(tokens, centroids, built):
    return moe.route(tokens, centroids, search=built).expert[:, 0]


def affine(tokens, centroids):
    """Klein's affine form alone, in full precision: fails far out."""
    r, q = (2 * jnp.linalg.norm(x, axis=1, keepdims=True) for x in (tokens, centroids))
    k, w = 2 * jnp.tanh(r) / r * tokens, 2 * jnp.sinh(q) / q * centroids
    return jnp.argmax(jnp.matmul(k, w.T, precision="highest") - jnp.cosh(q).T, axis=1)


def near_boundary(radius, count, size=8):
    """32 clusters at that radius, 8 siblings each about 1 apart, tokens at noise .3 of experts."""
    rng = np.random.default_rng(0)

    def unit(*shape):
        x = rng.normal(size=shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    centres = np.repeat(unit(32, 1, size) * radius / 2, 8, 1)
    experts = moved(centres, unit(32, 8, size) / np.sqrt(2)).reshape(256, size).astype(np.float32)
    own = experts[rng.integers(0, 256, count)].astype(np.float64)
    tokens = moved(own, 0.3 * rng.normal(size=(count, size))).astype(np.float32)
    return jnp.asarray(tokens), jnp.asarray(experts)


def hierarchy(count, size, tokens):
    """Centroids at the tips of branches, 8 from each and 2.5 long, and tokens at .3 of some."""
    rng = np.random.default_rng(size)

    def branches(n):
        x = rng.normal(size=(n, size))
        return 2.5 * x / np.linalg.norm(x, axis=1, keepdims=True)

    x = branches(8) / 2
    while len(x) < count:
        x = moved(np.repeat(x, 8, axis=0), branches(8 * len(x)))
    x = x[rng.permutation(len(x))[:count]]
    apart = 0.3 * rng.normal(size=(tokens, size)) / np.sqrt(size)
    points = moved(x[rng.integers(0, count, tokens)], apart)
    return jnp.asarray(points, jnp.float32), jnp.asarray(x, jnp.float32)


def wrong(choice, tokens, centroids):
    """Share of routes with an expert that is farther than the nearest by more than 1e-3."""
    v, w = (np.asarray(x, np.float64) for x in (tokens, centroids))
    r, q = (2 * np.linalg.norm(x, axis=1) for x in (v, w))
    u, t = 2 * v / r[:, None], 2 * w / q[:, None]
    chord = np.sum((u[:, None] - t[None]) ** 2, -1)
    square = np.sinh((r[:, None] - q[None]) / 2) ** 2 + np.outer(np.sinh(r), np.sinh(q)) * chord / 4
    distance = 2 * np.arcsinh(np.sqrt(square))
    chosen = np.take_along_axis(distance, np.asarray(choice)[:, None], 1)[:, 0]
    return float(np.mean(chosen - distance.min(1) > 1e-3))


def times(functions, arguments, repeats):
    """Milliseconds of each, in turns, the least of the repeats."""
    functions = {name: jax.jit(function) for name, function in functions.items()}
    for function in functions.values():
        jax.block_until_ready(function(*arguments))
    least = dict.fromkeys(functions, float("inf"))
    for _ in range(repeats):
        for name, function in functions.items():
            spent = 0.0
            while spent < 50:  # fast ones more often: other work on the machine passes by
                start = time.perf_counter()
                jax.block_until_ready(function(*arguments))
                last = 1e3 * (time.perf_counter() - start)
                least[name], spent = min(least[name], last), spent + last
    return {name: round(value, 3) for name, value in least.items()}


def gradient(function):
    def loss(tokens, routing, weights):
        return jnp.sum(jnp.square(function(tokens, routing, weights)))

    return jax.grad(loss, (0, 2))


def execution(experts, count, d, o, skew, repeats):
    rng = np.random.default_rng(0)
    share = np.arange(1, experts + 1) ** -float(skew)
    chosen = jnp.asarray(rng.choice(experts, (count, 1), p=share / share.sum()), jnp.int32)
    routing = moe.Routing(chosen, jnp.ones((count, 1)), None, None, None)
    tokens = jnp.asarray(rng.normal(size=(count, d)), jnp.float32)
    weights = jnp.asarray(rng.normal(size=(experts, d, o)) / np.sqrt(d), jnp.float32)
    ways = {"dropless": dropless, "capacity 1.5": capacity, "ragged_dot": ragged}
    if experts <= 64:
        ways["every expert on every token"] = by_masks
    if count * d * o * 4 <= 2**28:
        ways["weights gathered a token"] = gathered
    arguments = tokens, routing, weights
    exact = jax.jit(ragged)(*arguments)
    forward = times(ways, arguments, repeats)
    both = {name: ways[name] for name in ("dropless", "ragged_dot")}
    backward = times({k: gradient(f) for k, f in both.items()}, arguments, max(repeats // 3, 1))
    info = moe.apply(tokens, routing, expert, weights, capacity_factor=1.5, return_info=True)[1]
    return {
        "experts": experts,
        "tokens": count,
        "d": d,
        "o": o,
        "load": "even" if skew == 0 else f"power {skew}",
        "imbalance": round(float(info.imbalance), 2),
        "dropped_at_capacity_1.5": round(float(info.dropped), 4),
        "forward_ms": forward,
        "gradient_ms": backward,
        "forward_ragged_over_dropless": round(forward["ragged_dot"] / forward["dropless"], 1),
        "gradient_ragged_over_dropless": round(backward["ragged_dot"] / backward["dropless"], 1),
        "largest_difference": float(jnp.max(jnp.abs(jax.jit(dropless)(*arguments) - exact))),
    }


def searching(experts, d, count, repeats):
    """The exact tree beside the comparison with all, both with the tree's building and without."""
    tokens, centroids = hierarchy(experts, d, count)
    built = jax.jit(functools.partial(tree.build, key=jax.random.key(0)))(centroids)
    ways = {
        "dense": lambda t, c, b: dense(t, c),
        "tree": lambda t, c, b: with_tree(t, c),
        "tree, built before": with_tree_built,
    }
    ms = times(ways, (tokens, centroids, built), repeats)
    found = jax.jit(tree.search)(built, tokens)
    part = tokens[:32]  # all distances of these are a few hundred MiB
    return {
        "experts": experts,
        "tokens": count,
        "d": d,
        "ms": ms,
        "dense_over_tree": round(ms["dense"] / ms["tree"], 1),
        "dense_over_tree_built_before": round(ms["dense"] / ms["tree, built before"], 1),
        "evaluations_a_token": round(float(jnp.mean(found.evaluations)), 1),
        "certified": float(jnp.mean(found.certified)),
        "wrong": wrong(found.index[:32, 0], part, centroids),
        "other_than_dense": float(
            jnp.mean(found.index[:, 0] != jax.jit(dense)(tokens, centroids)),
        ),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes, nothing is written")
    quick = parser.parse_args().quick
    repeats = 3 if quick else 9
    shapes = [(16, 256, 32, 32, 0)] if quick else []
    if not quick:
        shapes = [(256, 2048, 128, 256, 0), (256, 2048, 128, 256, 1), (64, 2048, 128, 256, 0)]
        shapes += [(8, 2048, 128, 256, 0)]
    rows = []
    for shape in shapes:
        rows.append(execution(*shape, repeats))
        print(json.dumps(rows[-1], indent=1), flush=True)
    accuracy = []
    ways = {"route": dense, "route, tree": with_tree, "affine alone": affine}
    for radius in (3, 9) if quick else (3, 5, 7, 9, 11):
        arguments = near_boundary(radius, 500 if quick else 8000)
        row = {"radius": radius, "tokens": len(arguments[0]), "experts": 256, "d": 8}
        row["wrong"] = {k: wrong(jax.jit(f)(*arguments), *arguments) for k, f in ways.items()}
        row["ms"] = times(ways, arguments, repeats)
        accuracy.append(row)
        print(json.dumps(row), flush=True)
    searched = []
    for experts, d in [(300, 4)] if quick else [(16384, 4), (16384, 16), (65536, 4), (65536, 16)]:
        searched.append(searching(experts, d, 100 if quick else 1024, 1))
        print(json.dumps(searched[-1]), flush=True)
    if quick:
        return
    results = {
        "device": jax.devices()[0].device_kind,
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "cores": len(os.sched_getaffinity(0)),
        "load_average": os.getloadavg()[2],  # above 1 others ran: two threads shared a core
        "jax": jax.__version__,
        "execution": rows,
        "routing": accuracy,
        "searching_a_hierarchy": searched,
    }
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
