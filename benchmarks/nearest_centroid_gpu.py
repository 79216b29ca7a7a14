"""Time of hyperbolic routing and of all pairs' distances on one GPU: the kernels, and XLA.

    python benchmarks/nearest_centroid_gpu.py                       # all shapes, about a minute
    python benchmarks/nearest_centroid_gpu.py --quick               # one small shape
    python benchmarks/nearest_centroid_gpu.py --skip "route, xla"   # not this one

Prints a table and writes benchmarks/results/nearest_centroid_gpu.json, after each row. A time is
that of one of many calls in a row within one program, each with a curvature that waits for the one
before; it is the least of its repeats. "argmax" is Klein's affine form alone in full precision,
which fails far out; "wrong" is the share of tokens whose centroid is farther than the nearest by
more than 1e-3. "pairs, broadcast" is `polar.distance` of u[:, None] and v, for which XLA makes one
program.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from device import described
from hyperbolic_points import moved
from jax import lax

from physnet import moe
from physnet.hyperbolic import polar

RESULTS = Path(__file__).parent / "results" / "nearest_centroid_gpu.json"
SHAPES = [(65536, 4096, 64), (16384, 256, 64), (65536, 16384, 32)]  # tokens, centroids, d
PAIRS = [(8192, 4096, 64)]
SAMPLE = 512  # tokens whose routes are checked


def argmax(tokens, centroids, c, precision="highest"):
    """Klein's affine form alone."""
    scale = 2 * jnp.sqrt(c)
    a, b = (jnp.linalg.norm(x, axis=1, keepdims=True) for x in (tokens, centroids))
    k, w = jnp.tanh(scale * a) / a * tokens, jnp.sinh(scale * b) / b * centroids
    return jnp.argmax(jnp.matmul(k, w.T, precision=precision) - jnp.cosh(scale * b).T, axis=1)


def tf32(tokens, centroids, c):
    return argmax(tokens, centroids, c, "default")


def search(tokens, centroids, c):
    return moe.route(tokens, centroids, curvature=c, implementation="triton").expert


def route(tokens, centroids, c):
    return moe.route(tokens, centroids, curvature=c, implementation="triton")


def two(tokens, centroids, c):
    return moe.route(tokens, centroids, top_k=2, curvature=c, implementation="triton")


def xla(tokens, centroids, c):
    return moe.route(tokens, centroids, curvature=c, implementation="xla")


def pairs(u, v, c, implementation="triton"):
    return polar.pairwise(u, v, curvature=c, implementation=implementation)


def broadcast(u, v, c):
    return polar.distance(u[:, None], v[None], curvature=c)


def slopes(function):
    """Of the sum of the squares, so that all cotangents differ."""
    return jax.grad(lambda *x: jnp.sum(jnp.square(function(*x))), (0, 1, 2))


WAYS = {
    "search": (search, 20),
    "route": (route, 20),
    "route, top 2": (two, 20),
    "argmax": (argmax, 5),
    "argmax, tf32": (tf32, 5),
    "route, xla": (xla, 1),
}
PAIR_WAYS = {
    "pairs": (pairs, 10),
    "pairs, broadcast": (broadcast, 2),
    "pairs, xla": (lambda *x: pairs(*x, "xla"), 1),
    "pairs' gradients": (slopes(pairs), 5),
    "pairs' gradients, xla": (slopes(lambda *x: pairs(*x, "xla")), 1),
}
SLOW = {"route, xla": ("normal", "clusters at 9")}  # measured on these data, for the first shape


def near_boundary(radius: float, siblings: int, count: int, experts: int, d: int):
    """Clusters of siblings each about 1 apart, in any order; tokens at noise .3 of experts."""
    rng = np.random.default_rng(0)

    def unit(*shape):
        x = rng.normal(size=shape)
        return x / np.linalg.norm(x, axis=-1, keepdims=True)

    clusters = experts // siblings
    centres = np.repeat(unit(clusters, 1, d) * radius / 2, siblings, 1)
    centroids = moved(centres, unit(clusters, siblings, d) / np.sqrt(2)).reshape(experts, d)
    centroids = rng.permutation(centroids).astype(np.float32)
    own = centroids[rng.integers(0, experts, count)].astype(np.float64)
    tokens = moved(own, 0.3 * rng.normal(size=(count, d))).astype(np.float32)
    return jnp.asarray(tokens), jnp.asarray(centroids)


def normal(count: int, experts: int, d: int):
    """Directions at random, radii about 4."""
    rng = np.random.default_rng(0)
    draw = lambda n: jnp.asarray(2 / np.sqrt(d) * rng.normal(size=(n, d)), jnp.float32)  # noqa: E731
    return draw(count), draw(experts)


DATA = {
    "normal": normal,
    "clusters at 3": lambda *shape: near_boundary(3, 8, *shape),
    "clusters at 9": lambda *shape: near_boundary(9, 8, *shape),
    "64 siblings at 9": lambda *shape: near_boundary(9, 64, *shape),
}


def wrong(choice, tokens, centroids) -> float:
    """Share of routes with an expert that is farther than the nearest by more than 1e-3."""
    v, w = (np.asarray(x, np.float64) for x in (tokens[:SAMPLE], centroids))
    a, b = (np.linalg.norm(x, axis=1) for x in (v, w))
    chord = 2 - 2 * (v / a[:, None]) @ (w / b[:, None]).T
    sinh = np.outer(np.sinh(2 * a), np.sinh(2 * b))
    square = np.square(np.sinh(a[:, None] - b)) + sinh * np.maximum(chord, 0) / 4
    distance = 2 * np.arcsinh(np.sqrt(square))
    chosen = np.take_along_axis(distance, np.asarray(choice)[:SAMPLE, None], 1)[:, 0]
    return float(np.mean(chosen - distance.min(1) > 1e-3))


def repeated(function: Callable, calls: int) -> Callable:
    """A program of so many calls, and the last one's choice of experts."""

    def program(tokens, centroids, c):
        def step(_, c):
            result = lax.optimization_barrier(function(tokens, centroids, c))
            # Of each result: XLA drops those behind a barrier that nothing reads.
            first = sum(x.ravel()[0].astype(jnp.float32) for x in jax.tree.leaves(result))
            return c + jnp.float32(1e-30) * first

        c = lax.fori_loop(0, calls - 1, step, c)
        return lax.optimization_barrier(function(tokens, centroids, c))

    return jax.jit(program)


def milliseconds(program: Callable, operands, repeats: int = 5) -> tuple[float, object]:
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        result = jax.block_until_ready(program(*operands))
        times.append(1e3 * (time.perf_counter() - start))
    return min(times[1:]), result


def compiled(ways: dict, shape: tuple[int, int, int]) -> dict:
    """Programs for this shape, compiled side by side."""
    n, experts, d = shape
    operands = [jax.ShapeDtypeStruct(x, jnp.float32) for x in ((n, d), (experts, d), ())]

    def build(way):
        return repeated(*way).lower(*operands).compile()

    with ThreadPoolExecutor(len(ways)) as pool:
        return dict(zip(ways, pool.map(build, ways.values()), strict=True))


def measure(rows: list, shapes: list, names: list[str], keep: Callable) -> None:
    ways = {name: WAYS[name] for name in names if name in WAYS}
    for shape in shapes if ways else []:
        programs = compiled(ways, shape)
        for data, make in DATA.items():
            tokens, centroids = make(*shape)
            row = {"shape": list(shape), "data": data, "ms": {}, "wrong": {}}
            for name, program in programs.items():
                if data not in SLOW.get(name, DATA):
                    continue
                spent, result = milliseconds(program, (tokens, centroids, jnp.float32(1.0)))
                choice = np.asarray(jax.tree.leaves(result)[0]).reshape(shape[0], -1)[:, 0]
                row["ms"][name] = round(spent / ways[name][1], 4)
                row["wrong"][name] = wrong(choice, tokens, centroids)
                if name == "route":
                    row["certified"] = float(np.mean(result.certified))
            said = "  ".join(f"{n} {t:.3f} ({row['wrong'][n]:.1%})" for n, t in row["ms"].items())
            print(f"{shape} {data:14} ms (wrong): {said}  certified {row.get('certified')}")
            if {"search", "argmax"} <= row["ms"].keys():
                row["speedup"] = round(row["ms"]["argmax"] / row["ms"]["search"], 2)
                print(f"    argmax / search: {row['speedup']}", flush=True)
            rows.append(row)
            keep()


def measure_pairs(rows: list, shapes: list, names: list[str], keep: Callable) -> None:
    ways = {name: PAIR_WAYS[name] for name in names if name in PAIR_WAYS}
    for shape in shapes if ways else []:
        programs = compiled(ways, shape)
        for data in ("normal", "clusters at 9"):
            row = {"shape": list(shape), "data": data, "ms": {}}
            points = DATA[data](*shape)
            results = {}
            for name, program in programs.items():
                spent, result = milliseconds(program, (*points, jnp.float32(1.0)), 2)
                row["ms"][name] = round(spent / ways[name][1], 4)
                results[name] = jax.tree.leaves(result)[0]
            row["apart"] = {
                name: float(jnp.max(jnp.abs(results[name] - want)) / jnp.max(jnp.abs(want)))
                for name in ("pairs", "pairs' gradients")
                if name in results and (want := results.get(f"{name}, xla")) is not None
            }
            print(f"{shape} {data:14} ms: {row['ms']}  apart from xla: {row['apart']}", flush=True)
            rows.append(row)
            keep()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small shape")
    parser.add_argument("--shapes", nargs="+", help="tokens x centroids x d, such as 65536x4096x64")
    every = [*WAYS, *PAIR_WAYS]
    parser.add_argument("--ways", nargs="+", default=every, choices=every)
    parser.add_argument("--skip", nargs="+", default=[], choices=every, metavar="WAY")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    shapes, pair_shapes = SHAPES, PAIRS
    if options.quick:
        shapes = pair_shapes = [(4096, 256, 32)]
    if options.shapes:
        shapes = pair_shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes]
    names = [name for name in options.ways if name not in options.skip]
    if jax.devices()[0].platform != "gpu":
        raise SystemExit("benchmarks/nearest_centroid_gpu.py needs a GPU")
    report = {
        **described("jax-triton", "triton"),
        "rows": (rows := []),
    }

    def keep():
        if not options.quick:
            options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    measure(rows, shapes[:1], names, keep)
    measure_pairs(rows, pair_shapes, names, keep)
    measure(rows, shapes[1:], [name for name in names if name not in SLOW], keep)


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
