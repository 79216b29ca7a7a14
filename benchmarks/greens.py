"""Time, accuracy and compile time of physnet.greens beside other ways to the same numbers.

    python benchmarks/greens.py            # all shapes, some minutes
    python benchmarks/greens.py --quick    # small ones, seconds

Prints tables and writes benchmarks/results/greens.json. Every pair is timed in turns in one
process; a time is the least of its repeats.
"""

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from physnet import greens

jax.config.update("jax_enable_x64", True)  # for the float64 references; the rest is float32

RESULTS = Path(__file__).parent / "results" / "greens.json"


# Peers: the same diagonal, half line and waves by what JAX offers.


def dense_diagonal(onsite, hopping, energy):
    """Diagonal of the dense inverse, O(n^3)."""
    n = onsite.shape[-1]
    i = np.arange(n - 1)
    matrix = jnp.zeros((*onsite.shape, n), jnp.complex64)
    matrix = matrix.at[..., np.arange(n), np.arange(n)].set(energy - onsite)
    matrix = matrix.at[..., i, i + 1].set(-hopping).at[..., i + 1, i].set(-hopping)
    return jnp.diagonal(jnp.linalg.inv(matrix), axis1=-2, axis2=-1)


def tridiagonal_diagonal(onsite, hopping, energy):
    """lax.linalg.tridiagonal_solve on the identity, O(n^2)."""
    n = onsite.shape[-1]
    bond = jnp.broadcast_to(-hopping, (*onsite.shape[:-1], n - 1)).astype(jnp.complex64)
    edge = ((0, 0),) * (onsite.ndim - 1)
    identity = jnp.broadcast_to(jnp.eye(n, dtype=jnp.complex64), (*onsite.shape, n))
    inverse = lax.linalg.tridiagonal_solve(
        jnp.pad(bond, (*edge, (1, 0))),
        (energy - onsite).astype(jnp.complex64),
        jnp.pad(bond, (*edge, (0, 1))),
        identity,
    )
    return jnp.diagonal(inverse, axis1=-2, axis2=-1)


def associative_left(onsite, hopping, energy):
    """gL by an associative scan over normalised 2x2 matrices: x -> 1 / (d - w x)."""
    w = jnp.pad(hopping**2, (1, 0)).astype(jnp.complex64)
    d = (energy - onsite).astype(jnp.complex64)
    w = jnp.broadcast_to(w, d.shape)
    matrices = jnp.zeros_like(d), jnp.ones_like(d), -w, d  # (a x + b) / (c x + d)

    def compose(first, second):
        a, b, c, d = first
        e, f, g, h = second
        product = e * a + f * c, e * b + f * d, g * a + h * c, g * b + h * d
        size = jnp.sqrt(sum(x.real**2 + x.imag**2 for x in product)).astype(jnp.complex64)
        return tuple(x / size for x in product)

    _, b, _, d = lax.associative_scan(compose, matrices, axis=-1)
    return b / d


def associative_diagonal(onsite, hopping, energy):
    left = associative_left(onsite, hopping, energy)
    right = associative_left(onsite[..., ::-1], hopping[::-1], energy)[..., ::-1]
    return 1 / (1 / left + 1 / right - (energy - onsite).astype(jnp.complex64))


def scanned_propagate(onsite, hopping, energy, source):
    """Both recursions as one complex lax.scan over sites, differentiated by JAX."""

    def step(carry, site):
        g, y = carry
        a, b, x = site
        g = 1 / (energy - a - (b * b) * g)
        y = g[..., None] * (x + b[:, None] * y)
        return (g, y), y

    sites = (
        jnp.moveaxis(onsite, -1, 0).astype(jnp.complex64),
        jnp.moveaxis(jnp.pad(hopping, ((0, 0), (1, 0))), -1, 0).astype(jnp.complex64),
        jnp.moveaxis(source, -2, 0).astype(jnp.complex64),
    )
    start = jnp.zeros_like(sites[0][0]), jnp.zeros_like(sites[2][0])
    return jnp.moveaxis(lax.scan(step, start, sites)[1], 0, -2)


# Measurement.


def chains(lanes: int, n: int, *, disorder: float = 2.0):
    rng = np.random.default_rng(0)
    onsite = disorder * rng.uniform(-0.5, 0.5, (lanes, n))
    return jnp.asarray(onsite, jnp.float32), jnp.ones(n - 1, jnp.float32), jnp.complex64(0.3 + 0.1j)


def gradient(function: Callable) -> Callable:
    def loss(*arguments):
        value = function(*arguments)
        return jnp.sum(jnp.square(value.real)) + jnp.sum(value.imag)

    def value_and_grad(*arguments):
        return jax.value_and_grad(loss, tuple(range(len(arguments))))(*arguments)

    return value_and_grad


def compiled(function: Callable, arguments: tuple) -> tuple[Callable, float]:
    start = time.perf_counter()
    program = jax.jit(function).lower(*arguments).compile()
    return program, time.perf_counter() - start


def least_times(programs: list[Callable], arguments: tuple, repeats: int) -> list[float]:
    """Milliseconds of each, run in turns."""
    times = [[] for _ in programs]
    for turn in range(repeats + 1):
        for program, taken in zip(programs, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(program(*arguments))
            if turn:
                taken.append(1e3 * (time.perf_counter() - start))
    return [min(taken) for taken in times]


def compare(name: str, shape: str, ours, peer, peer_name: str, arguments, repeats: int) -> dict:
    program, seconds = compiled(ours, arguments)
    other, other_seconds = compiled(peer, arguments)
    ms, peer_ms = least_times([program, other], arguments, repeats)
    print(
        f"{name:20} {shape:>14} {ms:9.3f} ms {seconds:6.2f} s   {peer_name:24} "
        f"{peer_ms:9.3f} ms {other_seconds:6.2f} s   {peer_ms / ms:7.1f} x"
    )
    return {
        "name": name, "shape": shape, "ms": ms, "compile_s": seconds, "peer": peer_name,
        "peer_ms": peer_ms, "peer_compile_s": other_seconds, "ratio": peer_ms / ms,
    }  # fmt: skip


def times(quick: bool, repeats: int) -> list[dict]:
    rows = []
    print(f"{'':20} {'shape':>14} {'time':>12} {'compile':>8}   {'peer'}")
    shapes = [(1, 2048), (32, 512)] if quick else [(1, 65536), (8, 32768), (32, 4096), (256, 1024)]
    for lanes, n in shapes:
        arguments, shape = chains(lanes, n), f"{lanes} x {n}"
        peer = associative_diagonal, "associative scan, 2x2"
        rows.append(compare("diagonal", shape, greens.diagonal, *peer, arguments, repeats))
        peer = gradient(associative_diagonal), "associative scan, 2x2"
        ours = gradient(greens.diagonal)
        rows.append(compare("diagonal, gradient", shape, ours, *peer, arguments, repeats))
    n = 256 if quick else 1024
    for peer in ((tridiagonal_diagonal, "tridiagonal_solve(I)"), (dense_diagonal, "dense inverse")):
        rows.append(compare("diagonal", f"1 x {n}", greens.diagonal, *peer, chains(1, n), repeats))

    # The mixer of the language model: batch 12, 32 heads, 64 sites; 4 real or 2 complex channels.
    rng = np.random.default_rng(0)
    onsite = jnp.asarray(rng.normal(size=(12, 32, 64)), jnp.float32)
    energy = jnp.asarray(1j * rng.uniform(0.05, 1, 32), jnp.complex64)
    source = jnp.asarray(rng.normal(size=(12, 32, 64, 4)), jnp.float32)
    for shape, x in [
        ("12x32x64x4", source),
        ("12x32x64x2 C", lax.complex(source[..., ::2], source[..., 1::2])),
    ]:
        arguments = onsite, jnp.ones((32, 63), jnp.float32), energy, x
        peer = scanned_propagate, "one complex lax.scan"
        rows.append(compare("propagate", shape, greens.propagate, *peer, arguments, repeats))
        ours, peer = gradient(greens.propagate), (gradient(scanned_propagate), peer[1])
        rows.append(compare("propagate, gradient", shape, ours, *peer, arguments, repeats))
    return rows


def accuracy(quick: bool) -> list[dict]:
    """Worst relative error of gL and G_ii in float32 against float64."""
    n = 4096 if quick else 65536
    functions = {
        "diagonal": (greens.diagonal, greens.diagonal),
        "left": (greens.left, greens.left),
        "left, associative 2x2": (associative_left, greens.left),
    }
    print(f"\nworst relative error in float32, n = {n}, one lane and four\n{'Im z':>8} disorder")
    rows = []
    for eta in (1e-4, 1e-3, 1e-2, 1.0):
        for disorder in (0.0, 0.5, 2.0, 10.0):
            row: dict[str, Any] = {"n": n, "eta": eta, "disorder": disorder}
            for name, (function, reference) in functions.items():
                for lanes in (1, 4):
                    onsite, hopping, _ = chains(lanes, n, disorder=disorder)
                    z = np.complex64(0.3 + 1j * eta)
                    single = np.asarray(jax.jit(function)(onsite, hopping, z))
                    wide = onsite.astype(jnp.float64), hopping.astype(jnp.float64), complex(z)
                    double = np.asarray(reference(*wide))
                    error = np.max(np.abs(single - double) / np.abs(double))
                    row[f"{name}, {lanes} lanes"] = float(error)
            rows.append(row)
            errors = "   ".join(f"{k} {v:.1e}" for k, v in row.items() if "lane" in k)
            print(f"{eta:8g} {disorder:8g}   {errors}", flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small shapes, seconds")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    device = jax.devices()[0]
    report = {
        "device": f"{device.platform}: {device.device_kind}",
        "cpu": platform.processor() or platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "times": times(arguments.quick, arguments.repeats),
        "accuracy": accuracy(arguments.quick),
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
