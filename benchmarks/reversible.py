"""Gradients through long trajectories: rebuilt states beside checkpoints and diffrax's adjoints.

    python benchmarks/reversible.py                        # some minutes on two cores
    python benchmarks/reversible.py --steps 1000 --ways "reversible, int32" "stored"

The system is a Fermi-Pasta-Ulam-Tsingou chain of 32 sites in float32, 8 starts at once, weakly
chaotic: nearby trajectories part, and with them what a float32 reversal rebuilds. The gradient is
that of a number of the last state, to the springs' constants and the first state. "error" is the
distance to the gradient of the same method in float64 with checkpoints, relative to that, of the
worst part: rounding of the trajectory itself is in it. "own error" is that to the adjoint of the
very trajectory, in float64 from stored states; of lattices alone, whose trajectories do not change
with the program. Memory is what the compiled
program needs for temporaries. Needs `pip install diffrax` for its rows.
"""

import argparse
import importlib.metadata
import json
import math
import platform
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from physnet import symplectic

RESULTS = Path(__file__).parent / "results" / "reversible.json"
SITES, BATCH, STEP = 32, 8, 0.02


def potential(springs: jax.Array, position: jax.Array, _: Any = None) -> jax.Array:
    """Of each chain, ends fixed, summed: stretch^2 / 2 + springs stretch^4 / 4."""
    ends = [(0, 0)] * (position.ndim - 1) + [(1, 1)]
    stretch = jnp.diff(jnp.pad(position, ends), axis=-1)
    return jnp.sum(stretch**2) / 2 + jnp.sum(springs * stretch**4) / 4


def force(springs: jax.Array, position: jax.Array, _: Any = None) -> jax.Array:
    return -jax.grad(potential, 1)(springs, position)


# Ways: (springs, position, momentum, steps) -> (position, momentum) at the end.


def stored(springs, position, momentum, steps):
    return symplectic.leapfrog(force, (position, momentum), springs, steps=steps, step_size=STEP)


def by_steps(length: int | None, springs, position, momentum, steps):
    """A checkpoint each `length` steps, None for the square root of all."""
    length = length or max(k for k in range(1, math.isqrt(steps) + 1) if steps % k == 0)
    few = jax.checkpoint(partial(stored, steps=length))
    state = (position, momentum)
    return lax.scan(lambda s, _: (few(springs, *s), None), state, None, length=steps // length)[0]


def rebuilt(dtype: Any, springs, position, momentum, steps):
    lattice = symplectic.Lattice(dtype=dtype) if dtype else None
    state = (position, momentum)
    return symplectic.reversible_scan(
        force, state, springs, steps=steps, step_size=STEP, lattice=lattice
    )


def by_diffrax(solver: str, adjoint: str, springs, position, momentum, steps):
    import diffrax

    # A unit of time is a step: their number has no rounding.
    def of_position(t, momentum, springs):
        return STEP * momentum

    def of_momentum(t, position, springs):
        return STEP * force(springs, position)

    if solver == "SemiImplicitEuler":
        terms: Any = (diffrax.ODETerm(of_position), diffrax.ODETerm(of_momentum))
    else:
        terms = diffrax.ODETerm(lambda t, s, k: (of_position(t, s[1], k), of_momentum(t, s[0], k)))
    one, last = jnp.ones((), position.dtype), jnp.asarray(steps, position.dtype)
    found = diffrax.diffeqsolve(
        terms,
        getattr(diffrax, solver)(),
        t0=0 * one,
        t1=last,
        dt0=one,
        y0=(position, momentum),
        args=springs,
        adjoint=getattr(diffrax, adjoint)(),
        max_steps=steps,
    )
    return jax.tree.map(lambda x: x[-1], found.ys)


class Way(NamedTuple):
    run: Callable[..., Any]
    reference: Callable[..., Any]  # in float64: the same discretisation
    lattice: str | None = None


SQRT = partial(by_steps, None)
DIFFRAX = {
    f"diffrax {solver}, {adjoint}": Way(
        partial(by_diffrax, solver, adjoint),
        partial(by_diffrax, solver, "RecursiveCheckpointAdjoint"),
    )
    for solver, adjoint in (
        ("SemiImplicitEuler", "RecursiveCheckpointAdjoint"),
        ("Tsit5", "BacksolveAdjoint"),
        ("ReversibleHeun", "BacksolveAdjoint"),
    )
}
WAYS = {
    "stored": Way(stored, SQRT),
    "checkpoint each step": Way(partial(by_steps, 1), SQRT),
    "checkpoints, sqrt of the steps": Way(SQRT, SQRT),
    "reversible, float32": Way(partial(rebuilt, None), SQRT),
    "reversible, int32": Way(partial(rebuilt, "int32"), SQRT, "int32"),
    "reversible, float32 grid": Way(partial(rebuilt, "float32"), SQRT, "float32"),
} | DIFFRAX


def arrays(dtype: Any) -> tuple[jax.Array, ...]:
    """Springs, positions, momenta, and the weights of the last state."""
    r = np.random.default_rng(0)
    springs = r.uniform(0.5, 1.5, SITES + 1)
    state = 0.12 * r.normal(size=(2, BATCH, SITES))
    weights = r.normal(size=(2, BATCH, SITES))
    return tuple(jnp.asarray(x, dtype) for x in (springs, *state, weights))


def gradient(run: Callable[..., Any], steps: int) -> Callable[..., Any]:
    def value(springs, position, momentum, weights):
        q, p = run(springs, position, momentum, steps)
        return jnp.sum(weights[0] * q) + jnp.sum(weights[1] * p)

    return jax.grad(value, (0, 1, 2))


def apart(found: Any, wanted: Any) -> float:
    """The largest distance of two arrays, relative to the second."""
    far = [
        np.linalg.norm(np.asarray(a, float) - b) / np.linalg.norm(np.asarray(b, float))
        for a, b in zip(found, wanted, strict=True)
    ]
    return float(np.max(far))


def own_adjoint(lattice: str, steps: int, springs, position, momentum, weights) -> Any:
    """The gradient at the states of the very trajectory, in float64 from stored states."""
    there = symplectic.Lattice(dtype=lattice)
    start = there.quantise((position, momentum))

    def body(state, _):
        q, p = (x.astype(jnp.float64) for x in state.value)
        options = {"steps": 1, "step_size": STEP, "lattice": there}
        return symplectic.reversible_scan(force, state, springs, **options), q + STEP / 2 * p

    _, middles = lax.scan(body, start, None, length=steps)
    wide = springs.astype(jnp.float64)

    def back(carry, middle):
        of_q, of_p, of_springs = carry
        of_p = of_p + STEP / 2 * of_q
        _, pull = jax.vjp(lambda s, q: STEP * force(s, q), wide, middle)
        more, of_middle = pull(of_p)
        of_q = of_q + of_middle
        return (of_q, of_p + STEP / 2 * of_q, of_springs + more), None

    cotangent = weights.astype(jnp.float64)
    carry = (cotangent[0], cotangent[1], jnp.zeros_like(wide))
    of_q, of_p, of_springs = lax.scan(back, carry, middles, reverse=True)[0]
    return of_springs, of_q, of_p


def measured(name: str, steps: int, references: dict[Any, Any], *, repeats: int) -> dict[str, Any]:
    way, operands = WAYS[name], arrays(jnp.float32)
    key = (getattr(way.reference, "args", None), steps)
    if key not in references:
        references[key] = jax.jit(gradient(way.reference, steps))(*arrays(jnp.float64))
    program = jax.jit(gradient(way.run, steps)).lower(*operands).compile()
    memory = program.memory_analysis()
    times = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        found = jax.block_until_ready(program(*operands))
        times.append(time.perf_counter() - start)
    row = {
        "way": name,
        "steps": steps,
        "error": apart(found, references[key]),
        "own_error": None,
        "MiB": memory.temp_size_in_bytes / 2**20,
        "ms": 1e3 * min(times[1:]),
    }
    if way.lattice:
        own = jax.jit(partial(own_adjoint, way.lattice, steps))(*operands)
        row["own_error"] = apart(found, own)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, nargs="+", default=[1000, 10_000, 100_000])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--output", type=Path, default=RESULTS)
    options = parser.parse_args()
    result: dict[str, Any] = {
        "device": jax.devices()[0].device_kind,
        "processor": platform.processor() or platform.machine(),
        "versions": {n: importlib.metadata.version(n) for n in ("jax", "diffrax")},
        "command": " ".join(["benchmarks/reversible.py", *sys.argv[1:]]),
        "sizes": {"sites": SITES, "starts": BATCH, "step": STEP},
        "rows": [],
    }
    references: dict[Any, Any] = {}
    for steps in options.steps:
        for name in options.ways:
            row = measured(name, steps, references, repeats=options.repeats)
            result["rows"].append(row)
            own = "" if row["own_error"] is None else f"  own error {row['own_error']:.1e}"
            print(
                f"{steps:7d} steps  {name:50s} error {row['error']:.1e}  {row['MiB']:8.3f} MiB  "
                f"{row['ms']:9.1f} ms{own}",
                flush=True,
            )
            options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    with jax.enable_x64(True):
        main()
