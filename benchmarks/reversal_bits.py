"""Wrong bits after a long trajectory and its reversal, with physnet.symplectic on a lattice.

    python benchmarks/reversal_bits.py                     # 10^6 steps, minutes on two cores
    python benchmarks/reversal_bits.py --steps 10000       # seconds
    python benchmarks/reversal_bits.py --checks 20000      # on a GPU, where a step takes longer
    JAX_ENABLE_X64=1 python benchmarks/reversal_bits.py --lattices int64 --add

--checks is the length of all but the first comparison below, by default that of all. --add keeps
the rows that --output holds and adds to them.

For each force (an MLP, the gradient of a potential, attention), dtype of its parameters and
lattice: how many elements of the state differ in their bits after the way there and back, both in
one jitted program, and each in a program of its own; whether the gradient's way back found the
start (cotangents of 0 come out as NaN otherwise); and, as a control, how many differ in float32
without a lattice.
Prints a table and writes it to --output. Runs on whatever device JAX has.
"""

import argparse
import functools
import itertools
import json
import platform
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from physnet import symplectic

RESULTS = Path(__file__).parent / "results" / "reversal_bits.json"
LATTICES = ("int32", "float32", "int64")  # the last needs x64; its states are float64
STEP = 0.05


# All are gradients, written out or taken: others drive a trajectory outwards without end.


def mlp(params, q, _):
    """Two layers with tied weights, in a trap."""
    x = q.astype(params["in"].dtype)
    x = jnp.tanh(x @ params["in"]) @ params["in"].T
    return x.astype(q.dtype) - q


def gradient(params, q, _):
    """-dV/dq of V = |q|^2/2 - sum log cosh(tanh(q W) U), by automatic differentiation."""

    def potential(q):
        x = jnp.tanh(q.astype(params["in"].dtype) @ params["in"]) @ params["out"]
        return jnp.sum(q * q) / 2 - jnp.sum(jnp.logaddexp(x, -x).astype(q.dtype))

    return -jax.grad(potential)(q)


def attention(params, q, _):
    """Causal attention of the rows of q to one another, both ways, in a trap.

    -dV/dq of V = sum |q|^4/(4 d) - sum_i log sum_{j <= i} exp(q_i A q_j), A = W_query W_key^T.
    """
    x = q.astype(params["in"].dtype)
    query, key = x @ params["in"], x @ params["key"]
    scores = (query @ key.T).astype(jnp.float32) / q.shape[-1] ** 0.5
    scores = jnp.where(jnp.tri(len(q), dtype=bool), scores, -jnp.inf)
    weights = jax.nn.softmax(scores).astype(x.dtype)
    mixed = weights @ key @ params["in"].T + weights.T @ query @ params["key"].T
    trap = q * jnp.mean(q * q, axis=-1, keepdims=True)
    return mixed.astype(q.dtype) / q.shape[-1] ** 0.5 - trap


FORCES = {"mlp": mlp, "gradient": gradient, "attention": attention}


def problem(dtype, rows, size):
    """Parameters, and (position, momentum) in float32."""
    rng = np.random.default_rng(0)

    def normal(*shape):
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    params = {name: normal(size, size) * 1.5 / size**0.5 for name in ("in", "key", "out")}
    params = jax.tree.map(lambda x: x.astype(dtype), params)
    return params, (normal(rows, size), normal(rows, size))


def differ(a, b):
    """How many elements differ."""
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return sum(int(np.sum(np.asarray(x) != np.asarray(y))) for x, y in pairs)


def measure(name, dtype, lattice, steps, checks, rows, size):
    """One row of the table."""
    params, state = problem(dtype, rows, size)
    wide = lattice == "int64"
    state = jax.tree.map(lambda x: x.astype("float64" if wide else "float32"), state)
    lattice = symplectic.Lattice(dtype=lattice)
    options = {"steps": steps, "step_size": STEP, "lattice": lattice, "return_info": True}
    forward = functools.partial(symplectic.reversible_scan, FORCES[name], **options)
    inverse = functools.partial(symplectic.inverse, FORCES[name], **options)
    start = jax.jit(lattice.quantise)(state)

    def both(start, params, steps):
        there, info = forward(start, params, steps=steps)
        return there, *inverse(there, params, steps=steps), info

    both = jax.jit(both, static_argnums=2)
    program = both.lower(start, params, steps).compile()
    begun = time.perf_counter()
    there, back, info_back, info = jax.block_until_ready(program(start, params))
    seconds = time.perf_counter() - begun
    symplectic.check(info)
    row = {
        "force": name,
        "params": dtype,
        "lattice": lattice.dtype,
        "elements": 2 * rows * size,
        "wrong_bits_one_program": differ(back.bits, start.bits),
        "checksums_agree": bool(info_back.end == info.start),
        "largest": round(float(info.largest), 2),
        "limit": float(info.limit),
        "microseconds_per_step": round(1e6 * seconds / (2 * steps), 2),
    }
    if checks != steps:
        there = both(start, params, checks)[0]
    apart, _ = jax.jit(functools.partial(forward, steps=checks))(start, params)
    row["forward_differs_between_programs"] = differ(apart.bits, there.bits)
    back, _ = jax.jit(functools.partial(inverse, steps=checks))(apart, params)
    row["wrong_bits_two_programs"] = differ(back.bits, start.bits)

    @jax.jit
    def of_params(start, params):
        def end(params):
            return symplectic.reversible_scan(
                FORCES[name], start, params, steps=checks, step_size=STEP, lattice=lattice
            ).value

        value, pull = jax.vjp(end, params)
        return pull(jax.tree.map(jnp.zeros_like, value))  # others overflow by chaos

    found = [np.asarray(g, np.float32) for g in jax.tree.leaves(of_params(start, params))]
    row["gradient_found_the_start"] = not any(np.isnan(g).any() for g in found)
    return row


def without_lattice(name, dtype, steps, rows, size):
    """Elements that differ after the way there and back in float32."""
    params, state = problem(dtype, rows, size)

    @jax.jit
    def both(state, params):
        there = symplectic.leapfrog(FORCES[name], state, params, steps=steps, step_size=STEP)
        return symplectic.inverse(FORCES[name], there, params, steps=steps, step_size=STEP)

    return differ(both(state, params), state)


def main():
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=1_000_000)
    parser.add_argument("--checks", type=int)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--size", type=int, default=8)
    parser.add_argument("--forces", nargs="+", choices=FORCES, default=list(FORCES))
    parser.add_argument("--params", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--lattices", nargs="+", choices=LATTICES, default=["int32", "float32"])
    parser.add_argument("--add", action="store_true")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    device = jax.devices()[0]
    print(f"{device.device_kind}, {args.steps} steps there and back, {args.rows} x {args.size}")
    rows, control = [], []
    for name, dtype in itertools.product(args.forces, args.params):
        checks = args.checks or args.steps
        sizes = (args.rows, args.size)
        wrong = without_lattice(name, dtype, checks, *sizes)
        control.append({"force": name, "params": dtype, "wrong": wrong})
        print(f"{name:10} {dtype:9} no lattice  wrong {wrong} of {2 * args.rows * args.size}")
        for lattice in args.lattices:
            row = measure(name, dtype, lattice, args.steps, checks, *sizes)
            rows.append(row)
            print(
                f"{name:10} {dtype:9} {lattice:10}  wrong {row['wrong_bits_one_program']}"
                f"  two programs {row['wrong_bits_two_programs']}"
                f" (ways there differ in {row['forward_differs_between_programs']})"
                f"  gradient {'ok' if row['gradient_found_the_start'] else 'NaN'}"
                f"  largest {row['largest']}  {row['microseconds_per_step']} us/step",
                flush=True,
            )
    result = {
        "device": device.device_kind,
        "platform": device.platform,
        "machine": platform.machine(),
        "jax": jax.__version__,
        "steps": args.steps,
        "step_size": STEP,
        "shape": [args.rows, args.size],
        "lattice": rows,
        "float32": control,
    }
    if args.checks:
        result["checks"] = args.checks
    if args.add:
        before = json.loads(args.output.read_text())
        for same in ("device", "machine", "steps", "step_size", "shape"):
            if before[same] != result[same]:
                parser.error(f"--add: {args.output} has {same} {before[same]}, not {result[same]}")
        before["lattice"] += rows
        result = before
    args.output.write_text(json.dumps(result, indent=1) + "\n")
    print(f"wrote {args.output}")


if __name__ == "__main__":
    main()
