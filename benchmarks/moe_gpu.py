"""Time of expert execution on one GPU beside other ways to the same numbers.

    python benchmarks/moe_gpu.py                              # all cases, about two minutes
    python benchmarks/moe_gpu.py --dtypes bfloat16 float32    # in float32 too
    python benchmarks/moe_gpu.py --quick                      # small ones, on any device

64 experts, 16384 tokens. Prints a table and writes benchmarks/results/moe_gpu.json, after each row.
A time is that of one of many calls in a row within one program, each with tokens and routes that
wait for the call before; it is the least of its repeats. "backward" is the outputs and the
gradients to tokens, gates and parameters. Ratios are to "even": the experts on an array of rows (E,
n k / E, d), already in place, without routes, gates or sums. "former" copies the parameters of each
block of 128 rows; what `apply` gives is compared to it, relative to the norm.
"""

import argparse
import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from device import described
from jax import lax

from physnet import moe
from physnet.moe import _layout

RESULTS = Path(__file__).parent / "results" / "moe_gpu.json"
REPEATS = 4


class Sizes(NamedTuple):
    experts: int
    tokens: int
    narrow: int
    wide: int


FULL, QUICK = Sizes(64, 16384, 1024, 4096), Sizes(8, 256, 16, 32)


class Case(NamedTuple):
    name: str
    function: Callable[[Any, jax.Array], jax.Array]
    top_k: int


def matrix(weight, x):
    return x @ weight


def feed_forward(weights, x):
    return jnp.square(jax.nn.relu(x @ weights[0])) @ weights[1]


CASES = [
    Case("feed-forward", feed_forward, 1),
    Case("matrix", matrix, 1),
    Case("feed-forward", feed_forward, 2),
]


# Ways: outputs (n, o) of tokens, experts (n, k), gates (n, k) and parameters.


def apply(function, tokens, expert, gate, params, **options):
    routing = moe.Routing(expert, gate, None, None, None)
    return moe.apply(tokens, routing, function, params, **options)


def capacity(*arguments):
    return apply(*arguments, capacity_factor=1.25)


def former(function, tokens, expert, gate, params):
    """Blocks of 128 rows at once, with a copy of the parameters each."""
    k, experts = expert.shape[1], jax.tree.leaves(params)[0].shape[0]
    layout = _layout.blocks(expert.reshape(-1), experts, 128)
    own = jax.tree.map(lambda p: p.at[layout.owner].get(indices_are_sorted=True), params)
    out = jax.vmap(function)(own, tokens[layout.source // k])
    out = out.reshape(-1, out.shape[-1])[layout.slot].reshape(*expert.shape, -1)
    return jnp.sum(gate[..., None] * out.astype(jnp.float32), axis=1).astype(out.dtype)


def ragged(function, tokens, expert, gate, params):
    """lax.ragged_dot over tokens in the order of their experts."""
    flat = expert[:, 0]
    order = jnp.argsort(flat)
    count = jnp.bincount(flat, length=params.shape[0]).astype(jnp.int32)
    out = lax.ragged_dot(tokens[order], params, count)
    back = jnp.zeros_like(order).at[order].set(jnp.arange(order.size), unique_indices=True)
    return (gate * out[back].astype(jnp.float32)).astype(out.dtype)


def even(function, tokens, expert, gate, params):
    """All experts on equal shares of rows, which are in place."""
    return jax.vmap(function)(params, tokens)


WAYS = {  # and how many calls a program makes
    "even": (even, 20),
    "apply": (apply, 20),
    "capacity 1.25": (capacity, 20),
    "former": (former, 4),
    "ragged_dot": (ragged, 2),
}


def repeated(way: Callable, function: Callable, calls: int, *, backward: bool) -> Callable:
    """A program of so many calls, and the last one's results."""

    def once(tokens, expert, gate, params, ct):
        if not backward:
            return way(function, tokens, expert, gate, params)
        of = lambda tokens, gate, params: way(function, tokens, expert, gate, params)  # noqa: E731
        y, pull = jax.vjp(of, tokens, gate, params)
        return y, pull(ct)

    def program(tokens, expert, gate, params, ct):
        def step(_, carry):
            tokens, expert, ct = carry
            result = lax.optimization_barrier(once(tokens, expert, gate, params, ct))
            # Of each result: XLA drops those behind a barrier that nothing reads.
            first = sum(x.ravel()[0].astype(jnp.float32) for x in jax.tree.leaves(result))
            # One number of each changes as far as XLA knows, in place: nothing leaves the loop.
            tokens, ct = (
                x.at[(0,) * x.ndim].add((1e-30 * first).astype(x.dtype)) for x in (tokens, ct)
            )
            return tokens, expert.at[0, 0].add((first > 1e30).astype(expert.dtype)), ct

        tokens, expert, ct = lax.fori_loop(0, calls - 1, step, (tokens, expert, ct))
        return once(tokens, expert, gate, params, ct)

    return jax.jit(program)


def milliseconds(program: Callable, operands: tuple, repeats: int) -> tuple[float, Any]:
    times, result = [], None
    for _ in range(repeats + 1):
        del result
        start = time.perf_counter()
        result = jax.block_until_ready(program(*operands))
        times.append(1e3 * (time.perf_counter() - start))
    return min(times[1:]), result


def routes(sizes: Sizes, top_k: int) -> dict[str, np.ndarray]:
    """Experts (n, k), different for a token, drawn with equal chances and with 1 / rank."""
    rng = np.random.default_rng(0)
    drawn = {}
    for name, power in (("multinomial", 0), ("power law", 1)):
        logit = -power * np.log(np.arange(1, sizes.experts + 1))
        noise = rng.gumbel(size=(sizes.tokens, sizes.experts))
        drawn[name] = np.argsort(-(logit + noise), axis=1)[:, :top_k].astype(np.int32)
    return drawn


def arrays(case: Case, sizes: Sizes, dtype: Any) -> tuple:
    """Operands but experts: those of `even`, and those of the other ways."""
    experts, n, d, h = sizes
    keys = iter(jax.random.split(jax.random.key(0), 6))
    draw = lambda *shape: jax.random.normal(next(keys), shape, jnp.float32)  # noqa: E731
    tokens = draw(n, d).astype(dtype)
    first = (draw(experts, d, h) / np.sqrt(d)).astype(dtype)
    out = h if case.function is matrix else d
    params = first
    if case.function is feed_forward:
        params = first, (draw(experts, h, d) / np.sqrt(h)).astype(dtype)
    gate = jax.random.uniform(next(keys), (n, case.top_k), jnp.float32, 0.3, 1.0)
    rows = jnp.tile(tokens, (case.top_k, 1)).reshape(experts, -1, d)
    ct = draw(n, out).astype(dtype)
    cts = jnp.tile(ct, (case.top_k, 1)).reshape(experts, -1, out)
    return (rows, gate, params, cts), (tokens, gate, params, ct)


def apart(got: Any, want: Any) -> float:
    """The largest distance of two arrays of a tree, relative to the norm of the second's."""

    def far(a, b):
        a, b = a.astype(jnp.float32), b.astype(jnp.float32)
        return float(jnp.linalg.norm((a - b).ravel()) / jnp.linalg.norm(b.ravel()))

    pairs = zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True)
    return max(far(a, b) for a, b in pairs)


def measure(case: Case, sizes: Sizes, dtype: Any, names: list[str], keep: Callable) -> None:
    ways = {name: WAYS[name] for name in names if name != "ragged_dot" or case.function is matrix}
    alone, routed = arrays(case, sizes, dtype)
    loads = routes(sizes, case.top_k)
    some = jnp.asarray(loads["multinomial"])

    def operands(name, expert):
        tokens, *others = alone if name == "even" else routed
        return tokens, expert, *others

    def build(item):
        name, backward = item
        way, calls = ways[name]
        program = repeated(way, case.function, calls, backward=backward)
        return program.lower(*operands(name, some)).compile()

    items = [(name, backward) for backward in (False, True) for name in ways]
    with ThreadPoolExecutor(8) as pool:
        programs = dict(zip(items, pool.map(build, items), strict=True))
    for backward in (False, True):
        base = {}
        for load, expert in loads.items():
            expert = jnp.asarray(expert)
            most = int(np.bincount(np.asarray(expert).ravel(), minlength=sizes.experts).max())
            row = {
                "case": f"{case.name} {sizes.narrow} -> {sizes.wide}"
                + (f" -> {sizes.narrow}" if case.function is feed_forward else ""),
                "top_k": case.top_k,
                "dtype": jnp.dtype(dtype).name,
                "loads": load,
                "most_over_mean": round(most * sizes.experts / expert.size, 2),
                "pass": "backward" if backward else "forward",
                "ms": dict(base),
            }
            results = {}
            for name in ways:
                if name in row["ms"]:
                    continue
                calls = ways[name][1]
                repeats = REPEATS if calls > 4 else 2
                program = programs[name, backward]
                spent, result = milliseconds(program, operands(name, expert), repeats)
                row["ms"][name] = round(spent / calls, 4)
                if name in ("apply", "former"):
                    results[name] = result
                del result
            base = {name: t for name, t in row["ms"].items() if name == "even"}
            if len(results) == 2:
                row["apart"] = apart(results["apply"], results["former"])
            if base:
                row["ratio"] = {n: round(base["even"] / t, 3) for n, t in row["ms"].items()}
            ratio = row.get("ratio", {})
            said = "  ".join(f"{n} {t:.3f} ({ratio.get(n, 0):.2f})" for n, t in row["ms"].items())
            print(
                f"{row['case']}, top {case.top_k}, {row['dtype']}, {load} "
                f"(most/mean {row['most_over_mean']}), {row['pass']}: ms (ratio) {said}"
                f"  apart {row.get('apart', float('nan')):.1e}",
                flush=True,
            )
            keep(row)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="small shapes, on any device")
    dtypes = ["bfloat16", "float32"]
    parser.add_argument("--dtypes", nargs="+", default=dtypes[:1], choices=dtypes)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--output", type=Path, help=f"default: {RESULTS}; with --quick: none")
    options = parser.parse_args()
    if jax.devices()[0].platform != "gpu" and not options.quick:
        raise SystemExit("benchmarks/moe_gpu.py needs a GPU, or --quick")
    output = options.output or (None if options.quick else RESULTS)
    report = {
        **described(),
        "XLA_FLAGS": os.environ.get("XLA_FLAGS", ""),
        "sizes": (QUICK if options.quick else FULL)._asdict(),
        "rows": (rows := []),
    }

    def keep(row):
        rows.append(row)
        if output:
            output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")

    for dtype in options.dtypes:
        for case in CASES:
            sizes = QUICK if options.quick else FULL
            measure(case, sizes, jnp.dtype(dtype), options.ways, keep)


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
