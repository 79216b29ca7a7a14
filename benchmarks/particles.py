"""Particles per second: by number of devices, and noise of rank 1 against noise of full rank.

    python benchmarks/particles.py                # CPU, about 2 minutes; then the picture
    python benchmarks/particles.py --preset gpu   # one and two GPUs, 1M parameters, < 90 s
    python benchmarks/particles.py --preset smoke
    python benchmarks/particles.py --draw         # the picture again, of the results there are

A step of `superposition.path_integral` of a multilayer perceptron (m - 2 m - m, tanh, a batch of
inputs), from noise to new parameters, with a cloud of one width:

    rank 1           L R^T never added to the weights (materialise=False)
    rank 1, dense    the same noise, added
    full rank        normal noise, as many particles at once as hold 2^24 numbers
    full rank, vmap  normal noise, all particles at once: a plain vmap

Noise is made twice a step from its seeds; "temporary" is what XLA allots for a step beside its
arguments and results. Devices of a CPU are forced host devices, which share the cores that there
are: nothing is to be gained beyond these, and what is shown is what spreading costs, in CPU-seconds
of all threads, which other programs on the machine change little. Seconds by the clock are in the
JSON too; on GPUs these are shown. Writes benchmarks/results/particles.json (CPU) or
particles_gpu.json, and docs/pictures/particles.png.
"""

import argparse
import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from physnet.superposition import path_integral

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
PICTURE = ROOT / "docs" / "pictures" / "particles.png"
WAYS: dict[str, dict[str, Any]] = {
    "rank 1": {"rank": 1, "materialise": False},
    "rank 1, dense": {"rank": 1},
    "full rank": {},
    "full rank, vmap": {"chunk": 10**9},
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of a run: `ways` lists (way, K); `spread` is (way, K, width) over `devices`."""

    width: int
    batch: int
    ways: tuple[tuple[str, int], ...]
    devices: tuple[int, ...]
    spread: tuple[tuple[str, int, int], ...]
    repeats: int


PRESETS = {
    "cpu": Settings(
        width=512,
        batch=16,
        ways=(("rank 1", 64), ("rank 1", 1024), ("rank 1, dense", 64),
              ("full rank", 64), ("full rank, vmap", 64)),
        devices=(1, 2, 4, 8),
        spread=(("rank 1", 512, 128), ("full rank", 256, 128)),
        repeats=3,
    ),
    "gpu": Settings(
        width=512,
        batch=64,
        ways=(("rank 1", 1024), ("rank 1", 16384), ("rank 1, dense", 1024),
              ("full rank", 1024), ("full rank, vmap", 1024)),
        devices=(1, 2),
        spread=(("rank 1", 16384, 512), ("full rank", 1024, 512)),
        repeats=10,
    ),
    "smoke": Settings(
        width=8,
        batch=2,
        ways=(("rank 1", 4), ("full rank", 4)),
        devices=(1,),
        spread=(("rank 1", 4, 8),),
        repeats=1,
    ),
}  # fmt: skip


def network(width: int) -> dict[str, jax.Array]:
    """Weights of a perceptron width - 2 width - width."""
    rng = np.random.default_rng(0)
    sizes = {"up": (width, 2 * width), "down": (2 * width, width)}
    params = {k: rng.normal(size=s) / s[0] ** 0.5 for k, s in sizes.items()}
    params |= {"bias": np.zeros(2 * width), "shift": np.zeros(width)}
    return {k: jnp.asarray(v, jnp.float32) for k, v in params.items()}


def loss(params: dict[str, Any], x: jax.Array, y: jax.Array) -> jax.Array:
    h = jnp.tanh(x @ params["up"] + params["bias"][None])
    return jnp.mean((h @ params["down"] + params["shift"][None] - y) ** 2)


def measure(
    way: str, particles: int, width: int, batch: int, devices: int, repeats: int
) -> dict[str, Any]:
    """Best and median seconds of a step, and its temporary memory on each device."""
    params = network(width)
    rng = np.random.default_rng(1)
    x, y = (jnp.asarray(rng.normal(size=(batch, width)), jnp.float32) for _ in range(2))
    state = path_integral.init(
        params, particles=particles, sigma=0.01, covariance="none", antithetic=True, **WAYS[way]
    )
    step = path_integral.step
    if devices > 1:
        axis = (jax.sharding.AxisType.Auto,)
        mesh = jax.make_mesh(
            (devices,), ("particles",), devices=jax.devices()[:devices], axis_types=axis
        )
        step = path_integral.sharded_step(mesh, "particles")

    def run(key, state, x, y):
        return step(key, state, loss, x, y)

    start = time.perf_counter()
    compiled = jax.jit(run).lower(jax.random.key(0), state, x, y).compile()
    compiling = time.perf_counter() - start
    # Arguments where the program wants them: what is timed moves no inputs.
    inputs = jax.device_put(
        (jax.random.key(1), state, x, y), compiled.input_shardings[0]
    ) if devices > 1 else (jax.random.key(1), state, x, y)  # fmt: skip
    _, info = jax.block_until_ready(compiled(*inputs))
    assert np.isfinite(info.losses).all()
    seconds, cpu = [], time.process_time()
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(compiled(*inputs))
        seconds.append(time.perf_counter() - start)
    cpu = (time.process_time() - cpu) / repeats
    return {
        "way": way,
        "particles": particles,
        "parameters": sum(v.size for v in params.values()),
        "batch": batch,
        "devices": devices,
        "seconds": min(seconds),
        "median_seconds": float(np.median(seconds)),
        "cpu_seconds": cpu,
        "particles_per_second": particles / min(seconds),
        "particles_per_cpu_second": particles / max(cpu, 1e-9),
        "temporary_bytes": int(compiled.memory_analysis().temp_size_in_bytes),
        "compile_seconds": compiling,
    }


def attempt(
    way: str, particles: int, width: int, settings: Settings, devices: int
) -> dict[str, Any]:
    """`measure`, or what went wrong: too little memory is a result as well."""
    try:
        return measure(way, particles, width, settings.batch, devices, settings.repeats)
    except jax.errors.JaxRuntimeError as error:
        return {"way": way, "particles": particles, "devices": devices, "error": str(error)[:300]}


def spread(settings: Settings, devices: int, known: Any = ()) -> list[dict[str, Any]]:
    """The rows of so many devices, some of which may be known already."""
    rows = []
    for way, particles, width in settings.spread:
        same = [
            row
            for row in known
            if (row["way"], row["particles"], row["devices"]) == (way, particles, devices)
            and width == settings.width
        ]
        rows += same[:1] or [attempt(way, particles, width, settings, devices)]
    return rows


def forced(preset: str, devices: int) -> list[dict[str, Any]]:
    """`spread` in a process with so many host devices."""
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={devices}"
    command = [sys.executable, __file__, "--preset", preset, "--worker", str(devices)]
    done = subprocess.run(
        command, env=os.environ | {"XLA_FLAGS": flags}, text=True, stdout=subprocess.PIPE,
        timeout=600, check=True,
    )  # fmt: skip
    return json.loads(done.stdout.splitlines()[-1])


def show(row: dict[str, Any]) -> None:
    if "error" in row:
        print(f"{row['way']:16} K {row['particles']:6}  failed: {row['error']}", flush=True)
        return
    print(
        f"{row['way']:16} K {row['particles']:6} {row['parameters']:9,} parameters  "
        f"{row['devices']} device(s)  {row['seconds'] * 1e3:9.2f} ms  "
        f"{row['particles_per_second']:12,.0f} particles/s  "
        f"{row['particles_per_cpu_second']:10,.0f} a CPU-second  "
        f"{row['temporary_bytes'] / 2**20:9.1f} MiB",
        flush=True,
    )


def draw(reports: list[dict[str, Any]], output: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    colours = {"rank 1": "#2b6cb0", "rank 1, dense": "#90cdf4", "full rank": "#dd6b20",
               "full rank, vmap": "#c53030"}  # fmt: skip
    figure, axes = plt.subplots(
        len(reports), 3, figsize=(13, 3.8 * len(reports)), layout="constrained", squeeze=False
    )
    for (speed, memory, scaling), report in zip(axes, reports, strict=True):
        rows = [row for row in report["ways"] if "error" not in row]
        names = [f"{row['way']}\nK = {row['particles']:,}" for row in rows]
        tints = [colours[row["way"]] for row in rows]
        unit = "cpu_second" if report["cores"] else "second"
        bars = (
            (
                speed,
                [row[f"particles_per_{unit}"] for row in rows],
                f"particles per {unit.replace('cpu_', 'CPU-')}",
            ),
            (memory, [row["temporary_bytes"] / 2**20 for row in rows], "temporary memory, MiB"),
        )
        for axis, values, title in bars:
            drawn = axis.barh(names, values, color=tints)
            axis.bar_label(
                drawn,
                [f"{v:,.0f}" if v >= 10 else f"{v:.2g}" for v in values],
                padding=3,
                fontsize=8,
            )
            axis.set_xscale("log")
            axis.set_xlim(min(values) / 3, max(values) * 4)
            axis.invert_yaxis()
            axis.set_title(f"{title}\n{rows[0]['parameters']:,} parameters, {report['device']}")
            axis.tick_params(axis="y", labelsize=8)
        memory.set_yticklabels([])
        measured = [row for row in report["spread"] if "error" not in row]
        counts = sorted({row["devices"] for row in measured})
        for way in dict.fromkeys(row["way"] for row in measured):
            own = [row for row in measured if row["way"] == way]
            gain = np.array([row[f"particles_per_{unit}"] for row in own])
            scaling.plot([row["devices"] for row in own], gain / gain[0], "o-", color=colours[way],
                         label=f"{way}, {own[0]['parameters']:,} parameters")  # fmt: skip
        shared = bool(report["cores"])
        ideal = np.ones(len(counts)) if shared else counts
        scaling.plot(counts, ideal, ":", color="0.6", label="spreading costs nothing")
        scaling.set_ylim(0, None)
        scaling.set_xticks(counts)
        scaling.set_xlabel(f"host devices on {report['cores']} cores" if shared else "devices")
        scaling.set_title(f"particles per {unit.replace('cpu_', 'CPU-')}, against one device")
        scaling.legend(frameon=False, fontsize=8)
    for axis in figure.axes:
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=tuple(PRESETS), default="cpu")
    parser.add_argument("--output", type=Path, default=None)
    parser.add_argument("--picture", type=Path, default=None)
    parser.add_argument("--draw", action="store_true", help="the picture of results that exist")
    parser.add_argument("--worker", type=int, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = PRESETS[arguments.preset]
    if arguments.worker is not None:
        print(json.dumps(spread(settings, arguments.worker)))
        return
    files = [RESULTS / "particles.json", RESULTS / "particles_gpu.json"]
    picture = arguments.picture or PICTURE
    if arguments.preset == "smoke":  # beside nothing that was measured
        files, picture = [Path("particles.json")], arguments.picture or Path("particles.png")
    if not arguments.draw:
        on_gpu = jax.devices()[0].platform == "gpu"
        if arguments.preset == "gpu" and not on_gpu:
            raise SystemExit("--preset gpu needs a GPU: JAX sees none")
        report: dict[str, Any] = {
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
            "cores": None if on_gpu else os.cpu_count(),
            "machine": platform.machine(),
            "versions": {
                "jax": jax.__version__,
                "jaxlib": importlib.metadata.version("jaxlib"),
                "python": platform.python_version(),
            },
            "preset": arguments.preset,
            "settings": dataclasses.asdict(settings),
            "ways": [],
            "spread": [],
        }
        output = arguments.output or files[arguments.preset == "gpu"]
        output.parent.mkdir(parents=True, exist_ok=True)

        def keep(part: str, row: dict[str, Any]) -> None:  # at once: a later row may fail
            report[part].append(row)
            output.write_text(json.dumps(report, indent=1) + "\n")
            show(row)

        for way, particles in settings.ways:
            keep("ways", attempt(way, particles, settings.width, settings, 1))
        for count in settings.devices:
            if count <= jax.device_count():
                rows = spread(settings, count, report["ways"])
            elif on_gpu:
                rows = []
            else:
                rows = forced(arguments.preset, count)
            for row in rows:
                keep("spread", row)
        print(f"wrote {output}")
        if arguments.preset == "gpu":
            return  # drawn where the picture is kept
        files[0] = output
    reports = [json.loads(file.read_text()) for file in files if file.exists()]
    draw(reports, picture)
    print(f"wrote {picture}")


if __name__ == "__main__":
    main()
