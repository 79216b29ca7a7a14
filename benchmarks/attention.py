"""Scattering attention on this machine: time against dense attention, kept blocks, memory.

    python benchmarks/attention.py            # writes benchmarks/results/attention.json
    python benchmarks/attention.py --quick    # T = 1024 and 2048 only, writes nothing

Scores are independent lognormal numbers, thresholds let a given share of all pairs pass, class
edges are calibrated on another sample. Times are interleaved, the least of several; on a busy
machine compare the processor's seconds.
"""

import argparse
import json
import os
import pathlib
import platform
import time

import jax
import jax.numpy as jnp
import numpy as np

from physnet import attention, scattering

HEADS, HEAD_DIM = 16, 64
DENSITIES = (1.0, 0.5, 0.25, 0.1)
REFERENCE_LIMIT = {"forward": 4096, "forward_backward": 2048}  # its logits take 4 N T^2 bytes each
RESULT = pathlib.Path(__file__).parent / "results" / "attention.json"


def scores(time_steps: int, seed: int) -> jax.Array:
    values = np.random.default_rng(seed).lognormal(size=time_steps)
    return jnp.asarray(values, jnp.float32)


def gate(score: jax.Array, density: float, block_size: int = 128, classes: int = 16):
    """Threshold, calibrated edges and kept fraction for a share of pairs."""
    threshold = scattering.threshold_for_density(score, density)
    sample = scores(score.shape[0], seed=1)
    edges = scattering.class_edges(
        sample, threshold, length=score.shape[0], block_size=block_size, classes=classes
    )
    plan = scattering.schedule(score, threshold, edges=edges, block_size=block_size)
    return float(threshold), edges, float(plan.kept_fraction)


def density_that_keeps(score: jax.Array, fraction: float) -> float:
    """Share of pairs at which about `fraction` of the causal blocks is kept, from below."""
    low, high = 0.0, 1.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if gate(score, middle)[2] <= fraction else (low, middle)
    return low


def tensors(time_steps: int):
    r = np.random.default_rng(2)
    shape = (1, time_steps, HEADS, HEAD_DIM)
    return [jnp.asarray(r.normal(size=shape), jnp.float32) for _ in range(3)]


def forward_and_backward(function):
    def loss(*arrays):
        return jnp.sum(function(*arrays))

    return {
        "forward": jax.jit(function),
        "forward_backward": jax.jit(jax.grad(loss, argnums=(0, 1, 2))),
    }


def interleaved(functions: dict, arrays, repeats: int) -> dict[str, np.ndarray]:
    """Least seconds of each, by the clock and of the processor (other load disturbs that less)."""
    for function in functions.values():
        jax.block_until_ready(function(*arrays))  # compiles
    least = {name: np.full(2, np.inf) for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            start = np.array([time.perf_counter(), time.process_time()])
            jax.block_until_ready(function(*arrays))
            took = np.array([time.perf_counter(), time.process_time()]) - start
            least[name] = np.minimum(least[name], took)
    return least


def temporary_megabytes(function, arrays) -> float:
    memory = function.lower(*arrays).compile().memory_analysis()
    return round(memory.temp_size_in_bytes / 2**20, 1)


def times(time_steps: int, repeats: int) -> list[dict]:
    arrays, score = tensors(time_steps), scores(time_steps, seed=0)

    def dense(query, key, value):
        return attention.scattering_attention(query, key, value, None, threshold=None)

    def reference(query, key, value):
        return jax.nn.dot_product_attention(query, key, value, is_causal=True)

    calls = {"dense": forward_and_backward(dense), "jax.nn": forward_and_backward(reference)}
    kept, planners = {}, {}
    names = {f"{density:.0%} of pairs": density for density in DENSITIES}
    names["12% of blocks"] = density_that_keeps(score, 0.12)
    for name, density in names.items():
        threshold, edges, kept[name] = gate(score, density)

        def plan(score, threshold=threshold, edges=edges):
            return scattering.schedule(score, threshold, edges=edges)

        def sparse(query, key, value, threshold=threshold, plan=plan):
            return attention.scattering_attention(
                query, key, value, score[None], threshold=threshold, schedule=plan(score)
            )

        calls[name], planners[name] = forward_and_backward(sparse), jax.jit(plan)

    rows = []
    for kind in ("forward", "forward_backward"):
        limit = REFERENCE_LIMIT[kind]
        used = {n: c[kind] for n, c in calls.items() if n != "jax.nn" or time_steps <= limit}
        seconds = interleaved(used, arrays, repeats)
        for name, function in used.items():
            row = {"T": time_steps, "pass": kind, "attention": name}
            for index, clock in enumerate(("seconds", "processor_seconds")):
                row[clock] = round(seconds[name][index], 4)
                for other in ("dense", "jax.nn"):
                    if other in seconds:
                        ratio = seconds[name][index] / seconds[other][index]
                        row[f"{clock}_over_{other}"] = round(ratio, 3)
            row["temporary_MiB"] = temporary_megabytes(function, arrays)
            if name in planners:
                row["share_of_pairs"] = round(names[name], 4)
                row["kept_fraction"] = round(kept[name], 4)
                alone = interleaved({"plan": planners[name]}, [score], 3)["plan"]
                row["schedule_share_of_time"] = round(alone[1] / seconds[name][1], 4)
            rows.append(row)
            print("  ".join(f"{value}" for value in row.values()), flush=True)
    return rows


def kept_fractions() -> list[dict]:
    """N = 16384, block 128: by share of pairs and number of classes; calibrated, fitted edges."""
    rows, score = [], scores(16384, seed=0)
    for density in (0.5, 0.25, 0.1, 0.03):
        threshold = scattering.threshold_for_density(score, density)
        row = {"share_of_pairs": density}
        for classes in (4, 8, 16):
            row[f"{classes} classes, calibrated"] = round(
                gate(score, density, classes=classes)[2], 4
            )
            fitted = scattering.schedule(score, threshold, classes=classes)
            row[f"{classes} classes, fitted"] = round(float(fitted.kept_fraction), 4)
        band = scattering.schedule(score, threshold, local_window=16)
        row["16 classes, fitted, with a band of 16"] = round(float(band.kept_fraction), 4)
        rows.append(row)
        print(row, flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="short sequences, nothing written")
    parser.add_argument("--repeats", type=int, default=4)
    options = parser.parse_args()
    result = {
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load_average": [round(x, 2) for x in os.getloadavg()],
        "versions": {"python": platform.python_version(), "jax": jax.__version__},
        "setup": f"batch 1, {HEADS} heads of {HEAD_DIM}, float32, causal, block 128",
        "kept_fraction_at_16384": kept_fractions(),
        "times": [],
    }
    for time_steps in (1024, 2048) if options.quick else (4096, 1024, 2048, 8192):
        result["times"] += times(time_steps, options.repeats)
        if not options.quick:
            RESULT.parent.mkdir(exist_ok=True)
            RESULT.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
