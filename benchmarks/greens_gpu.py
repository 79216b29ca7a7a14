"""Time of physnet.greens on one GPU: its kernels, its XLA forms, and XLA's associative scan.

    python benchmarks/greens_gpu.py            # all shapes, some minutes
    python benchmarks/greens_gpu.py --quick    # one small shape

Prints a table and writes benchmarks/results/greens_gpu.json. Each operation and way has a process
of its own: all compile at once, then one after the other has the device to itself. A time is that
of one of several calls in a row within one program, each waiting for the one before and all of
their results kept, less the time of the same program without them; it is the least of its repeats.
The bytes' time is what reading the arguments and writing the results once takes at the rate at
which the device copies.
"""

import argparse
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from device import described
from jax import lax

from physnet import greens

RESULTS = Path(__file__).parent / "results" / "greens_gpu.json"
SHAPES = [(8, 32768), (16, 4096), (128, 4096)]
CHANNELS = 64
CALLS = {"triton": 8, "xla": 1, "associative scan": 1}  # the others take far longer
ENERGY = np.complex64(0.3 + 0.05j)


def scattering_diagonal(onsite, hopping, energy, *, causal: bool = False):
    """G_ii or gL by an associative scan of lossless scatterers: transmission T, reflections R, Q.

    The Cayley transform s = (g + i) / (g - i) makes of a site one that no product can blow up.
    """
    weight = jnp.pad(hopping**2, (1, 0))
    after = jnp.pad(hopping**2, (0, 1))

    def half_line(onsite, weight, reverse):
        d = energy - onsite
        weight = jnp.broadcast_to(weight, onsite.shape)
        bottom = 1 / (1 + weight - 1j * d)
        reflected = (1 - weight + 1j * d) * bottom, (1 - weight - 1j * d) * bottom
        sites = (*reflected, -4 * weight * bottom * bottom)

        def compose(first, second):
            (r1, q1, t1), (r2, q2, t2) = first, second
            between = 1 / (1 - q2 * r1)
            return (
                r2 + t2 * r1 * between,
                q1 + t1 * q2 * between,
                t1 * t2 * between * between,
            )

        r, _, _ = lax.associative_scan(compose, sites, axis=d.ndim - 1, reverse=reverse)
        return 1j * (1 + r) / (r - 1)

    left = half_line(onsite, weight, False)
    if causal:
        return left
    right = half_line(onsite, after, True)
    return 1 / (1 / left + 1 / right - (energy - onsite))


def scattering_window(onsite, hopping):
    """The window of order 8 about 0, by four such scans in a batch."""
    phase = np.exp(1j * np.pi * (2 * np.arange(4) + 1) / 8).astype(np.complex64)
    phase = phase.reshape(4, *(1,) * onsite.ndim)
    return 0.25 * (phase * scattering_diagonal(onsite, hopping, phase)).real.sum(0)


def associative_waves(onsite, hopping, energy, source):
    """propagate by an associative scan over products of factors and what they end in."""
    green = scattering_diagonal(onsite, hopping, energy, causal=True)
    factor = green * jnp.pad(hopping, (1, 0))

    def compose(first, second):
        (a, x), (b, y) = first, second
        return a * b, b * x + y

    wide = jnp.broadcast_to(factor[..., None], source.shape)
    return lax.associative_scan(compose, (wide, green[..., None] * source), axis=source.ndim - 2)[1]


def functions() -> dict[str, dict[str, Callable]]:
    """Of (onsite, hopping, source), by operation and way."""

    def ours(way):
        return {
            "diagonal": lambda a, b, x: greens.diagonal(a, b, ENERGY, implementation=way),
            "window": lambda a, b, x: greens.window(
                a, b, center=0.0, radius=1.0, order=8, implementation=way
            ),
            "left": lambda a, b, x: greens.left(a, b, ENERGY, implementation=way),
            "propagate": lambda a, b, x: greens.propagate(a, b, ENERGY, x, implementation=way),
        }

    scans = {
        "diagonal": lambda a, b, x: scattering_diagonal(a, b, ENERGY),
        "window": lambda a, b, x: scattering_window(a, b),
        "left": lambda a, b, x: scattering_diagonal(a, b, ENERGY, causal=True),
        "propagate": lambda a, b, x: associative_waves(a, b, ENERGY, x),
    }
    ways = {"triton": ours("triton"), "xla": ours("xla"), "associative scan": scans}
    return {name: {way: ways[way][name] for way in ways} for name in scans}


def arguments(lanes: int, n: int):
    rng = np.random.default_rng(0)
    onsite = jnp.asarray(rng.uniform(-1, 1, (lanes, n)), jnp.float32)
    source = jnp.asarray(rng.normal(size=(lanes, n, CHANNELS)), jnp.float32)
    return onsite, jnp.ones(n - 1, jnp.float32), source


def bytes_moved(name: str, lanes: int, n: int, backward: bool) -> int:
    """What a call must read and write, in units of one float32 a site; times four."""
    sites, wide = lanes * n, lanes * n * CHANNELS
    forward = {
        "diagonal": sites + 2 * sites,
        "window": sites + sites,
        "left": sites + 2 * sites,
        "propagate": sites + wide + 2 * wide,
    }[name]
    # beside that the cotangent is read and the gradient written
    extra = {
        "diagonal": 2 * sites + sites,
        "window": sites + sites,
        "left": 2 * sites + sites,
        "propagate": 2 * wide + 2 * wide + sites + wide,
    }[name]
    return 4 * (forward + extra if backward else forward)


def called(function: Callable | None, backward: bool, calls: int) -> Callable:
    """A program of several calls, each on an onsite that waits for the one before; None: none."""

    def program(onsite, hopping, source, cotangent):
        results = []
        for _ in range(calls):
            if function is None:
                step = onsite
            elif backward:
                y, transposed = jax.vjp(function, onsite, hopping, source)
                gradient = transposed(cotangent)
                results.append((y, gradient))
                step = gradient[0]
            else:
                results.append(function(onsite, hopping, source))
                step = results[-1].reshape(*onsite.shape, -1)[..., 0].real
            onsite = onsite + jnp.float32(1e-30) * step
        return onsite, results

    return program


def least_time(program: Callable, operands, repeats: int = 20) -> float:
    """Microseconds of a program."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        jax.block_until_ready(program(*operands))
        times.append(1e6 * (time.perf_counter() - start))
    return min(times[1:])


def copy_rate() -> float:
    """Bytes read and written a second by x + 1 on 1 GiB."""
    x = jnp.zeros(1 << 28, jnp.float32)
    return 2 * x.nbytes / (1e-6 * least_time(jax.jit(lambda x: x + 1), (x,)))


def compiled(name: str, way: str, lanes: int, n: int, backward: bool):
    """The program, the one without calls, their operands and the number of calls."""
    function = functions()[name][way]
    operands = arguments(lanes, n)
    shape = jax.eval_shape(function, *operands)
    operands = (*operands, jnp.ones(shape.shape, shape.dtype))
    calls = CALLS[way]
    programs = (called(f, backward, calls) for f in (function, None))
    return *(jax.jit(f).lower(*operands).compile() for f in programs), operands, calls


def time_of(program: Callable, empty: Callable, operands, calls: int) -> float:
    """Microseconds a call."""
    return (least_time(program, operands) - least_time(empty, operands)) / calls


def case(name: str, way: str, shapes: list[tuple[int, int]]) -> None:
    """A process's part: compile, wait for a line of input, measure, print."""
    passes = [(lanes, n, backward) for lanes, n in shapes for backward in (False, True)]
    programs = [compiled(name, way, *key) for key in passes]
    print("ready", flush=True)
    sys.stdin.readline()
    print(json.dumps([time_of(*program) for program in programs]), flush=True)


def start(name: str, way: str, shapes: list[tuple[int, int]]) -> subprocess.Popen:
    sizes = [f"{lanes}x{n}" for lanes, n in shapes]
    return subprocess.Popen(
        [sys.executable, __file__, "--case", name, way, "--shapes", *sizes],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
    )


def measure(shapes: list[tuple[int, int]], patience: float) -> list[dict]:
    """Rows of results; None where a process failed or took too long to compile."""
    cases = [(name, way) for name, ways in functions().items() for way in ways]
    processes = {key: start(*key, shapes) for key in cases}
    deadline = time.monotonic() + patience
    for process in processes.values():  # none measures while another compiles
        left = max(0.0, deadline - time.monotonic())
        if not select.select([process.stdout], [], [], left)[0]:
            process.kill()
            continue
        process.stdout.readline()
    rate = copy_rate()
    print(f"{jax.devices()[0].device_kind}: copies at {rate / 1e12:.2f} TB/s", flush=True)
    times = {}
    for key, process in processes.items():
        line = "" if process.poll() is not None else process.communicate("go\n")[0]
        times[key] = json.loads(line) if process.returncode == 0 else None
        print(*key, times[key], flush=True)
    rows = []
    for name, ways in functions().items():
        index = 0
        for lanes, n in shapes:
            for backward in (False, True):
                us = {way: times[name, way] and times[name, way][index] for way in ways}
                index += 1
                least = 1e6 * bytes_moved(name, lanes, n, backward) / rate
                rows.append(
                    {
                        "operation": name,
                        "pass": "forward and backward" if backward else "forward",
                        "shape": [lanes, n] + ([CHANNELS] if name == "propagate" else []),
                        "us": us,
                        "bytes_us": least,
                    }
                )
                said = "  ".join(f"{way} {time or float('nan'):9.1f}" for way, time in us.items())
                kind = "fwd+bwd" if backward else "fwd"
                print(f"{name:10}{lanes:4} x {n:<6}{kind:8} us: {said}  bytes {least:.1f}")
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one small shape")
    parser.add_argument("--shapes", nargs="+", help="lanes x sites, such as 8x32768")
    parser.add_argument("--case", nargs=2, help=argparse.SUPPRESS)
    parser.add_argument("--patience", type=float, default=600, help="seconds for compilation")
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    shapes = [(4, 512)] if options.quick else SHAPES
    if options.shapes:
        shapes = [tuple(map(int, shape.split("x"))) for shape in options.shapes]
    if options.case:
        case(*options.case, shapes)
        return
    if jax.devices()[0].platform != "gpu":
        raise SystemExit("benchmarks/greens_gpu.py needs a GPU")
    report = {
        **described("jax-triton", "triton"),
        "rows": measure(shapes, options.patience),
    }
    text = json.dumps(report, indent=1) + "\n"
    if not options.quick:
        options.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    main()
