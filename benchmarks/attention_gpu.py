"""Attention over blocks on a GPU beside the kernels that others would use, in one run.

    python benchmarks/attention_gpu.py                      # all lengths and shapes
    python benchmarks/attention_gpu.py --lengths 16384 --kept 1 .25 --shapes 16x16x128

Peers: cuDNN through jax.nn.dot_product_attention (dense, causal), JAX's FlashAttention-3 kernel
(attention_mgpu, float16, forward only) and torch's compiled flex_attention on the same block masks.
Scores of tokens are independent lognormal numbers, class edges are calibrated on another sample;
making the schedule, ordering tokens and bringing them back is in the time. TFLOP/s count the
multiply-adds of the pairs in kept blocks. torch's block masks are made before its time starts.
"""

import argparse
import concurrent.futures
import dataclasses
import functools
import importlib.metadata
import json
import pathlib
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np

from physnet import attention, scattering

HERE = pathlib.Path(__file__).parent
BLOCK = 128


@dataclasses.dataclass(frozen=True)
class Shape:
    """Batch 1; `length` tokens, heads, key heads, head dimension."""

    length: int
    heads: int
    key_heads: int
    width: int

    def flops(self, pairs: float, both: bool) -> float:
        return (14 if both else 4) * self.heads * self.width * pairs

    def tensors(self, dtype=jnp.bfloat16) -> list[jax.Array]:
        heads = (self.heads, self.key_heads, self.key_heads, self.heads)
        return [
            jax.random.normal(jax.random.key(i), (1, self.length, n, self.width), dtype)
            for i, n in enumerate(heads)
        ]


def block_mask(length: int, kept: float) -> np.ndarray:
    """Random causal blocks, the diagonal among them."""
    count = length // BLOCK
    random = np.random.default_rng(0).uniform(size=(count, count)) < kept
    return np.tril(random | np.eye(count, dtype=bool))


def pairs_of(mask: np.ndarray) -> int:
    return int(mask.sum()) * BLOCK**2 - len(mask) * BLOCK * (BLOCK - 1) // 2


def with_gradient(function):
    def run(query, key, value, cotangent, *rest):
        output, back = jax.vjp(lambda *a: function(*a, *rest), query, key, value)
        return output, back(cotangent)

    return run


@dataclasses.dataclass
class Call:
    """A compiled function with its arguments."""

    name: str
    both: bool
    kept: float
    pairs: float
    run: object
    arguments: tuple


def calls(shape: Shape, kept: list[float], implementations: list[str]):
    """Every (name, function, both, [(kept, pairs, arguments)]) of this library and of JAX."""
    tensors = shape.tensors()
    causal = shape.length * (shape.length + 1) // 2
    masks = [block_mask(shape.length, share) for share in kept]
    cases = [
        (mask.sum() / np.tril(np.ones_like(mask)).sum(), pairs_of(mask), (jnp.asarray(mask),))
        for mask in masks
    ]
    r = np.random.default_rng(1)
    score, sample = (jnp.asarray(r.lognormal(size=(1, shape.length)), jnp.float32) for _ in "ab")
    gates = []
    for share in (share for share in kept if share < 1):
        tau = scattering.threshold_for_density(score[0], share)
        edges = scattering.class_edges(sample[0], tau, length=shape.length, block_size=BLOCK)
        edges = jnp.pad(edges, (0, 15 - len(edges)), constant_values=np.inf)
        gates.append((share, causal, (score, tau, edges)))

    def dense(query, key, value):
        return jax.nn.dot_product_attention(
            query, key, value, is_causal=True, implementation="cudnn"
        )

    yield "cuDNN, dense", dense, True, [(1.0, causal, ())], tensors
    if shape.heads == shape.key_heads:
        from jax.experimental.pallas.ops.gpu import attention_mgpu

        config = attention_mgpu.TuningConfig(64, 128, 2, causal=True)
        run = functools.partial(attention_mgpu.attention, config=config)
        yield (
            *("attention_mgpu, dense, float16", run, False, [(1.0, causal, ())]),
            shape.tensors(jnp.float16),
        )
    if gates:

        def schedule_alone(query, key, value, score, tau, edges):
            return scattering.schedule(score, tau, edges=edges, block_size=BLOCK)

        yield "schedule of token scores, alone", schedule_alone, False, gates, tensors
    for name in implementations:

        def whole(query, key, value, name=name):
            return attention.scattering_attention(
                query, key, value, None, threshold=None, implementation=name
            )

        def blocks(query, key, value, mask, name=name):
            return attention.block_sparse_attention(query, key, value, mask, implementation=name)

        def tokens(query, key, value, score, tau, edges, name=name):
            plan = scattering.schedule(score, tau, edges=edges, block_size=BLOCK)
            return attention.scattering_attention(
                *(query, key, value, score),
                threshold=tau,
                schedule=plan,
                implementation=name,
            )

        yield f"{name}, dense", whole, True, [(1.0, causal, ())], tensors
        yield f"{name}, block masks", blocks, True, cases, tensors
        if gates:
            yield f"{name}, token scores", tokens, True, gates, tensors


def compiled(shape: Shape, kept: list[float], implementations: list[str]) -> list[Call]:
    lowered = []
    for name, function, both_too, cases, tensors in calls(shape, kept, implementations):
        for both in (False, True) if both_too else (False,):
            run = with_gradient(function) if both else function
            arguments = tensors if both else tensors[:3]
            text = jax.jit(run).lower(*arguments, *cases[0][2])
            lowered.append((name, both, text, arguments, cases))
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        programs = list(pool.map(lambda entry: entry[2].compile(), lowered))
    return [
        Call(name, both, float(share), pairs, program, (*arguments, *rest))
        for (name, both, _, arguments, cases), program in zip(lowered, programs, strict=True)
        for share, pairs, rest in cases
    ]


def seconds(call: Call) -> float:
    """Median over rounds of many calls that wait for one another on the device alone."""

    def lap(count: int) -> float:
        start = time.perf_counter()
        for _ in range(count):
            result = call.run(*call.arguments)
        jax.block_until_ready(result)
        return (time.perf_counter() - start) / count

    lap(2)
    count = max(3, min(40, int(0.08 / lap(1))))
    return float(np.median([lap(count) for _ in range(4)]))


def rows(shape: Shape, kept: list[float], implementations: list[str], peer) -> list[dict]:
    programs = compiled(shape, kept, implementations)
    others = peer(shape) if peer else []
    found = []
    for call in programs:
        took = seconds(call)
        found.append((call.name, call.both, call.kept, call.pairs, took))
    found += others
    cudnn = {both: took for name, both, _, _, took in found if name.startswith("cuDNN")}
    flex = {(both, round(kept, 2)): took for name, both, kept, _, took in found if "flex" in name}
    table = []
    for name, both, share, pairs, took in found:
        row = dataclasses.asdict(shape) | {
            "attention": name,
            "pass": "forward and backward" if both else "forward",
            "kept": round(share, 3),
            "ms": round(took * 1e3, 3),
            "times_cudnn": round(cudnn[both] / took, 2),
        }
        if "scores" not in name:
            row["tflops"] = round(shape.flops(pairs, both) / took / 1e12)
        if "block" in name or name.endswith(" dense") or "flex" in name:
            other = flex.get((both, round(share, 2)))
            row |= {"times_flex": round(other / took, 2)} if other else {}
        table.append(row)
        print("  ".join(str(x) for x in row.values()), flush=True)
    return table


def flex_peer(lengths, kept, shapes):
    """A process with torch, which compiles while this one does and times when told to."""
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(HERE / "flex.py"),
        json.dumps([lengths, kept, shapes]),
    ]
    child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def answer(shape: Shape) -> list[tuple]:
        print(json.dumps(dataclasses.astuple(shape)), file=child.stdin, flush=True)
        line = child.stdout.readline()
        if not line:
            raise RuntimeError("the process that times flex_attention ended")
        return [tuple(row) for row in json.loads(line)]

    return answer


def versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("jax", "jax-triton", "torch", "triton"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def draw(rows: list[dict], path: str) -> None:
    """Milliseconds over the share that is kept, of the longest sequence of the first shape."""
    import matplotlib.pyplot as plt

    first = [rows[0][name] for name in ("heads", "key_heads", "width")]
    length = max(row["length"] for row in rows)
    rows = [r for r in rows if [r["heads"], r["key_heads"], r["width"]] == first]
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    for axis, kind in zip(axes, ("forward", "forward and backward"), strict=True):
        here = [r for r in rows if r["length"] == length and r["pass"] == kind]
        for name in dict.fromkeys(r["attention"] for r in here):
            points = sorted((r["kept"], r["ms"]) for r in here if r["attention"] == name)
            if len(points) == 1 and "cuDNN" in name:
                axis.axhline(points[0][1], color="gray", linestyle="--", label=name)
            elif len(points) > 1:
                axis.plot(*zip(*points, strict=True), marker="o", label=name)
        axis.set(title=f"{kind}, {length:,} tokens", xlabel="share of blocks, or of pairs, kept")
        axis.set(ylabel="ms", ylim=(0, None))
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="*", default=[4096, 16384, 32768, 65536])
    parser.add_argument("--kept", type=float, nargs="*", default=[1.0, 0.5, 0.25, 0.1])
    parser.add_argument("--shapes", nargs="*", default=["16x16x128", "16x16x64", "16x4x128"])
    parser.add_argument("--implementations", nargs="*", default=["mosaic_gpu", "triton"])
    parser.add_argument("--without-flex", action="store_true")
    parser.add_argument("--picture", help="draw what --output holds, once all is measured")
    parser.add_argument("--output", default=str(HERE / "results" / "attention_gpu.json"))
    options = parser.parse_args()
    shapes = [tuple(map(int, text.split("x"))) for text in options.shapes]
    peer = (
        None
        if options.without_flex or not options.lengths
        else flex_peer(options.lengths, options.kept, shapes)
    )
    result = {
        "device": jax.devices()[0].device_kind,
        "versions": versions(),
        "command": " ".join(sys.argv),
        "setup": "batch 1, bfloat16, causal, blocks of 128; heads x key heads x head dimension",
        "rows": [],
    }
    for length in options.lengths:
        for heads, key_heads, width in shapes:
            shape = Shape(length, heads, key_heads, width)
            result["rows"] += rows(shape, options.kept, options.implementations, peer)
            pathlib.Path(options.output).write_text(json.dumps(result, indent=1) + "\n")
    if options.picture:
        draw(json.loads(pathlib.Path(options.output).read_text())["rows"], options.picture)


if __name__ == "__main__":
    main()
