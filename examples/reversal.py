"""A chaotic chain of pendulums, forward and back: floats lose the way, a lattice does not.

    python examples/reversal.py            # table, reversal.png, reversal.json: about two minutes
    python examples/reversal.py --quick    # shorter trajectories

Three questions, each over the number of steps T:

    return     how far the state is from the start after T steps there and back
    gradient   the error of the gradient that rebuilds the states, against the one that has stored
               every state of the same trajectory (for a lattice: of the trajectory on it)
    memory     temporary memory of a gradient: everything stored, each step recomputed from stored
               states, sqrt(T) of them stored, and the states rebuilt

What it finds: chaos multiplies the rounding of a float32 reversal until nothing of the start is
left, and the gradient with it: at 10^5 steps its error is 1.3. On a lattice the start comes back to
the bit at any T, and the gradient is that of the stored states: what is left, 8e-5 at most, is the
float32 rounding of two adjoints compiled in different ways. Rebuilding takes 0.19 MiB at any T,
where storing takes 192 MiB at 4096 steps.
"""

import argparse
import functools
import json
import math
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
from jax import lax

from physnet import symplectic

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

STEP = 0.05
WAYS: dict[str, symplectic.Lattice | None] = {
    "float32": None,
    "int32, 2^-24": symplectic.Lattice(),
    "float32 grid, 2^-20": symplectic.Lattice(dtype="float32"),
}
COLOURS = ("#c53030", "#2b6cb0", "#2f855a")


def chain(couplings: jax.Array, q: jax.Array, _: Any) -> jax.Array:
    """Pendulums in a row, bound to the vertical by a weak spring and to one another by sin."""
    pulls = couplings * jnp.sin(jnp.roll(q, -1) - q)
    return pulls - jnp.roll(pulls, 1) - 0.1 * q


def pendulums(size: int, heat: float) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
    """Couplings, and a start with momenta of that size."""
    rng = np.random.default_rng(0)
    couplings = jnp.asarray(rng.uniform(0.5, 1.5, size), jnp.float32)
    q, p = rng.normal(size=(2, size))
    return couplings, (jnp.asarray(heat * q, jnp.float32), jnp.asarray(heat * p, jnp.float32))


def there_and_back(lattice, couplings, state, steps):
    """Relative distance from the start, and how many elements differ from it."""
    options = {"steps": steps, "step_size": STEP, "lattice": lattice}

    @jax.jit
    def both(state, couplings):
        there = symplectic.reversible_scan(chain, state, couplings, **options)
        return symplectic.inverse(chain, there, couplings, **options)

    start = state if lattice is None else lattice.quantise(state)
    back = both(start, couplings)
    exact = [(x, y) for x, y in zip(*map(jax.tree.leaves, (back, start)), strict=True)]
    if lattice is not None:
        exact = list(zip(back.bits, start.bits, strict=True))
    wrong = sum(int(np.sum(np.asarray(x) != np.asarray(y))) for x, y in exact)
    found, want = (np.concatenate(getattr(s, "value", s)) for s in (back, start))
    return float(np.linalg.norm(found - want) / np.linalg.norm(want)), wrong


def gradients(lattice, couplings, state, steps, *, stored):
    """Of one last position, by couplings, position and momentum, in one vector."""
    scan = functools.partial(symplectic.reversible_scan, chain, step_size=STEP, lattice=lattice)

    def loss(couplings, state):
        if lattice is not None:
            state = lattice.quantise(state)
        if not stored:
            state = scan(state, couplings, steps=steps)
        elif lattice is None:
            state = symplectic.leapfrog(chain, state, couplings, steps=steps, step_size=STEP)
        else:  # one trajectory a step: each leaves its last state to the gradient

            def one(state, _):
                return scan(state, couplings, steps=1), None

            state, _ = lax.scan(one, state, length=steps)
        q, _ = getattr(state, "value", state)
        return q[0]

    found = jax.jit(jax.grad(loss, argnums=(0, 1)))(couplings, state)
    return np.concatenate([np.asarray(x, np.float64) for x in jax.tree.leaves(found)])


def trajectories(lengths, size, heat):
    """For each way and number of steps: return, wrong elements, error of the gradient."""
    couplings, state = pendulums(size, heat)
    rows = []
    for (way, lattice), steps in ((w, t) for t in lengths for w in WAYS.items()):
        distance, wrong = there_and_back(lattice, couplings, state, steps)
        found, want = (
            gradients(lattice, couplings, state, steps, stored=stored) for stored in (False, True)
        )
        error = np.linalg.norm(found - want) / np.linalg.norm(want)
        rows.append(
            {
                "way": way,
                "steps": steps,
                "return": distance,
                "wrong": wrong,
                "elements": 2 * size,
                "gradient_error": float(error),
                "gradient_norm": float(np.linalg.norm(want)),
            }
        )
        print(
            f"{way:20} {steps:7}  return {distance:8.1e}  wrong {wrong:3} of {2 * size}"
            f"  gradient error {error:8.1e}",
            flush=True,
        )
    return rows


def mlp(params, q, _):
    return jnp.tanh(q @ params["in"]) @ params["out"] - q


def stored(state, params, steps, *, remat=False, chunk=1):
    """The plain loop; or each step, or each chunk of steps, recomputed in the backward pass."""

    def some(state, _):
        return symplectic.leapfrog(mlp, state, params, steps=chunk, step_size=STEP), None

    some = jax.checkpoint(some) if remat else some
    return lax.scan(some, state, length=steps // chunk)[0]


def rebuilt(state, params, steps, *, lattice=None):
    return symplectic.reversible_scan(
        mlp, state, params, steps=steps, step_size=STEP, lattice=lattice
    )


GRADIENTS = {
    "all stored": stored,
    "states stored": functools.partial(stored, remat=True),
    "sqrt(T) states stored": None,  # chunks of sqrt(T)
    "rebuilt, float32": rebuilt,
    "rebuilt, int32": functools.partial(rebuilt, lattice=symplectic.Lattice()),
}


def memory(lengths, size, batch):
    """Temporary bytes of the compiled gradients of an MLP force, by the number of steps."""
    rng = np.random.default_rng(0)
    params = {
        name: jnp.asarray(rng.normal(size=(size, size)) / size**0.5, jnp.float32)
        for name in ("in", "out")
    }
    state = tuple(jnp.asarray(rng.normal(size=(batch, size)), jnp.float32) for _ in range(2))
    rows = []
    for name, run in GRADIENTS.items():
        for steps in lengths:
            run_t = run or functools.partial(stored, remat=True, chunk=math.isqrt(steps))

            def loss(params, state, run=run_t, steps=steps):
                return jnp.sum(run(state, params, steps)[0])

            compiled = jax.jit(jax.grad(loss)).lower(params, state).compile()
            analysis: Any = compiled.memory_analysis()
            size_of = analysis.temp_size_in_bytes
            rows.append({"gradient": name, "steps": steps, "bytes": size_of})
        first, last = rows[-len(lengths)]["bytes"], rows[-1]["bytes"]
        print(f"{name:22} {first / 2**20:8.3f} MiB at {lengths[0]} steps, "
              f"{last / 2**20:8.3f} at {lengths[-1]}", flush=True)  # fmt: skip
    return rows


def draw(report: dict, output: Path) -> None:
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    floor = 1e-9  # where an exact 0 is drawn
    for axis, what in ((left, "return"), (middle, "gradient_error")):
        for (way, marker), colour in zip(zip(WAYS, "osd", strict=True), COLOURS, strict=True):
            rows = [row for row in report["trajectories"] if row["way"] == way]
            values = [max(row[what], floor) for row in rows]
            axis.loglog([row["steps"] for row in rows], values, marker + "-", color=colour,
                        label=way, markersize=9 if marker == "s" else 6)  # fmt: skip
        axis.axhline(1, color="0.7", lw=0.8)
        axis.set_ylim(floor / 2, 1e2)
        axis.set_yticks([floor, 1e-6, 1e-3, 1], ["0", "1e-6", "1e-3", "1"])
    left.set_xlabel("steps there and back")
    middle.set_xlabel("steps")
    left.set_title("Distance from the start, relative")
    middle.set_title("Error of the gradient, relative")
    left.legend(frameon=False)
    styles = zip(GRADIENTS, ("0.15", "#805ad5", "#dd6b20", *COLOURS[:2]), "v^xos", strict=True)
    for name, colour, marker in styles:
        rows = [row for row in report["memory"] if row["gradient"] == name]
        values = [row["bytes"] / 2**20 for row in rows]
        right.loglog([row["steps"] for row in rows], values, marker + "-", color=colour,
                     label=name, markersize=9 if marker == "o" else 6)  # fmt: skip
    right.set_title("Temporary memory of a gradient, MiB")
    right.set_xlabel("steps")
    right.legend(frameon=False)
    for axis in (left, middle, right):
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="at most 3,000 steps")
    parser.add_argument("--size", type=int, default=32, help="pendulums")
    parser.add_argument("--heat", type=float, default=0.3, help="size of the first momenta")
    parser.add_argument("--output", type=Path, default=Path("reversal.png"))
    parser.add_argument("--results", type=Path, default=Path("reversal.json"))
    arguments = parser.parse_args()
    lengths = [300, 1000, 3000, 10_000, 30_000, 100_000]
    depths = [16, 64, 256, 1024, 4096]
    size, batch = (16, 4) if arguments.quick else (128, 32)
    if arguments.quick:
        lengths, depths = lengths[:3:2], depths[:3:2]
    report = {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "jax": jax.__version__,
        "step_size": STEP,
        "pendulums": arguments.size,
        "heat": arguments.heat,
        "trajectories": trajectories(lengths, arguments.size, arguments.heat),
        "memory_of": {"size": size, "batch": batch},
        "memory": memory(depths, size, batch),
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(report, indent=1) + "\n")
    draw(report, arguments.output)
    print(f"wrote {arguments.results} and {arguments.output}")


if __name__ == "__main__":
    main()
