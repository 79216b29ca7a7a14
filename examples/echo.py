"""How exact are echo gradients? Errors against the distance of two echoes, and against the time.

    python examples/echo.py                      # table, echo.png, echo.json; about a minute

A chain of nonlinear oscillators with inputs at every step, and a loss that reads every position and
the last momentum. The reference is backpropagation through the same leapfrog in float64. Errors are
relative, of the gradient in parameters, inputs and the initial state as one vector.

    exact     echo.gradient: a tangent of the way back, one pass
    finite    echo.finite_gradient: two ways back, +- epsilon apart; automatic epsilon marked
    after     the same, readouts of each summed first and subtracted at the end

The error of two echoes falls as epsilon^2 until rounding, u / epsilon, takes over; subtracting step
by step ("in lockstep") lowers the latter. A force that is not a gradient has no echo: the last
table adds an antisymmetric part to the Jacobian, which `echo.check_conservative` measures.
"""

import argparse
import functools
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from physnet.symplectic import echo, leapfrog

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

STEP_SIZE = 0.1
COLOURS = {"exact": "#dd6b20", "finite": "#2b6cb0", "after": "0.55", "backpropagation": "0.15"}
LINES = {"float64": "-", "float32": "--"}
TWISTS = (0.0, 0.001, 0.01, 0.1)  # antisymmetric parts


def potential(params: Any, position: jax.Array, given: jax.Array) -> jax.Array:
    """|q|^2 / 2 + sum log cosh(W q + b + u)."""
    inner = params["w"] @ position + params["b"] + given
    return jnp.sum(position**2) / 2 + jnp.sum(jnp.logaddexp(inner, -inner))


def force(params: Any, position: jax.Array, given: jax.Array) -> jax.Array:
    return -jax.grad(potential, argnums=1)(params, position, given)


def problem(size: int, steps: int, seed: int, dtype: Any) -> Any:
    """Parameters, initial state, inputs, and cotangents of the final state and all positions."""
    rng = np.random.default_rng(seed)

    def normal(deviation: float, *shape: int) -> jax.Array:
        return jnp.asarray(deviation * rng.normal(size=shape), dtype)

    params = {"w": normal(0.5 * size**-0.5, size, size), "b": normal(0.5, size)}
    state = normal(1.0, size), normal(1.0, size)
    final = jnp.zeros(size, dtype), normal(1.0, size)
    return params, state, normal(0.5, steps, size), final, normal(steps**-0.5, steps, size)


@jax.jit
def backpropagation(params: Any, state: Any, inputs: Any, final: Any, nudges: Any) -> Any:
    def loss(params: Any, state: Any, inputs: Any) -> jax.Array:
        (_, momentum), (positions, _) = leapfrog(
            force, state, params, inputs, steps=len(inputs), step_size=STEP_SIZE,
            return_trajectory=True,
        )  # fmt: skip
        return jnp.sum(momentum * final[1]) + jnp.sum(positions * nudges)

    return jax.grad(loss, argnums=(0, 1, 2))(params, state, inputs)


@functools.partial(jax.jit, static_argnums=0)
def echoed(
    kind: str, params: Any, state: Any, inputs: Any, final: Any, nudges: Any, epsilon: Any = None
) -> Any:
    given = {"final_cotangent": final, "cotangents": nudges, "steps": len(inputs)}
    if kind == "exact":
        return echo.gradient(potential, state, params, inputs, **given, step_size=STEP_SIZE)
    return echo.finite_gradient(
        potential, state, params, inputs, **given, step_size=STEP_SIZE, epsilon=epsilon
    )


@jax.jit
def after(params: Any, state: Any, inputs: Any, final: Any, nudges: Any, epsilon: jax.Array) -> Any:
    """Two echoes whose readouts are summed one by one: what lockstep is compared with."""
    steps = len(inputs)
    position, momentum = leapfrog(force, state, params, inputs, steps=steps, step_size=STEP_SIZE)

    def one(sign: float) -> Any:
        push = sign * epsilon

        def body(carry: Any, given: Any) -> Any:
            (q, p), total = carry
            drive, nudge = given
            p = p + push * nudge
            half = q + STEP_SIZE / 2 * p
            slope, pull, by_drive = jax.grad(potential, argnums=(0, 1, 2))(params, half, drive)
            p = p - STEP_SIZE * pull
            total = jax.tree.map(lambda t, s: t - STEP_SIZE * s, total, slope)
            return ((half + STEP_SIZE / 2 * p, p), total), -STEP_SIZE * by_drive

        start = (position + push * final[1], push * final[0] - momentum)
        nothing = jax.tree.map(jnp.zeros_like, params)
        ((q, p), total), drives = jax.lax.scan(
            body, (start, nothing), (inputs, nudges), reverse=True
        )
        return total, (p, q), drives

    return jax.tree.map(lambda x, y: (x - y) / (2 * epsilon), one(1.0), one(-1.0))


def distance(found: Any, wanted: Any) -> float:
    def vector(tree: Any) -> np.ndarray:
        return np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(tree)])

    one, other = vector(found), vector(wanted)
    return float(np.linalg.norm(one - other) / np.linalg.norm(other))


def against_epsilon(size: int, steps: int, epsilons: np.ndarray) -> dict[str, Any]:
    """Errors at each epsilon, of both ways to subtract, and with the automatic one."""
    wanted = backpropagation(*problem(size, steps, 0, jnp.float64))
    found: dict[str, Any] = {"steps": steps, "epsilon": epsilons.tolist()}
    for name in LINES:
        given = problem(size, steps, 0, jnp.dtype(name))
        run = {
            "finite": lambda e, given=given: echoed("finite", *given, e),
            "after": lambda e, given=given: after(*given, e),
        }
        found[name] = {
            kind: [distance(one(jnp.asarray(e, name)), wanted) for e in epsilons]
            for kind, one in run.items()
        }
        found[name]["automatic"] = distance(echoed("finite", *given), wanted)
        found[name]["exact"] = distance(echoed("exact", *given), wanted)
    return found


def against_steps(size: int, steps: list[int], seeds: int) -> list[dict[str, Any]]:
    """Errors of all gradients at each length: medians over seeds."""
    rows = []
    for count in steps:
        for name in LINES:
            errors: dict[str, list] = {"exact": [], "finite": [], "backpropagation": []}
            for seed in range(seeds):
                wanted = backpropagation(*problem(size, count, seed, jnp.float64))
                given = problem(size, count, seed, jnp.dtype(name))
                errors["exact"].append(distance(echoed("exact", *given), wanted))
                errors["finite"].append(distance(echoed("finite", *given), wanted))
                errors["backpropagation"].append(distance(backpropagation(*given), wanted))
            medians = {kind: float(np.median(found)) for kind, found in errors.items()}
            rows.append({"steps": count, "dtype": name} | medians)
            print(f"{count:6} {name}  " + "  ".join(f"{k} {v:.1e}" for k, v in medians.items()))
    return rows


def without_potential(size: int, steps: int) -> list[dict[str, float]]:
    """What the echo of a force with an antisymmetric part misses, and what the check measures."""
    rng = np.random.default_rng(1)
    w, twist = (jnp.asarray(rng.normal(size=(size, size)) / size**0.5) for _ in range(2))
    state = jnp.asarray(rng.normal(size=size)), jnp.asarray(rng.normal(size=size))
    rows = []
    for share in TWISTS:

        def twisted(params: Any, q: jax.Array, given: Any, share: float = share) -> jax.Array:
            odd = jnp.linalg.norm(w.T @ w) * share / jnp.linalg.norm(twist - twist.T)
            return -q - params.T @ jnp.tanh(params @ q) + odd * (twist - twist.T) @ q

        @jax.jit
        def adjoint(w: jax.Array, twisted: Any = twisted) -> jax.Array:
            def loss(w: jax.Array) -> jax.Array:
                q, _ = leapfrog(twisted, state, w, steps=steps, step_size=STEP_SIZE)
                return jnp.sum(q)

            return jax.grad(loss)(w)

        @jax.jit
        def reflected(w: jax.Array, twisted: Any = twisted) -> jax.Array:
            """The exact echo, with the tangent of the force where a gradient has the adjoint."""
            q, p = leapfrog(twisted, state, w, steps=steps, step_size=STEP_SIZE)

            def body(carry: Any, _: Any) -> Any:
                (q, p), (vq, vp), total = carry
                q, vq = q + STEP_SIZE / 2 * p, vq + STEP_SIZE / 2 * vp
                pull, bend = jax.jvp(lambda q: twisted(w, q, None), (q,), (vq,))
                (slope,) = jax.vjp(lambda w: twisted(w, q, None), w)[1](vq)
                p, vp = p + STEP_SIZE * pull, vp + STEP_SIZE * bend
                q, vq = q + STEP_SIZE / 2 * p, vq + STEP_SIZE / 2 * vp
                return ((q, p), (vq, vp), total + STEP_SIZE * slope), None

            start = ((q, -p), (jnp.zeros_like(q), jnp.ones_like(q)), jnp.zeros_like(w))
            return jax.lax.scan(body, start, length=steps)[0][2]

        measured = jax.jit(
            lambda q, twisted=twisted: echo.check_conservative(
                twisted, w, q, None, key=jax.random.key(0), probes=64
            )
        )
        row = {
            "antisymmetric": share,
            "measured": float(measured(state[0])),
            "error": distance(reflected(w), adjoint(w)),
        }
        print("antisymmetric {antisymmetric:<6} measured {measured:.4f}  error {error:.1e}"
              .format(**row))  # fmt: skip
        rows.append(row)
    return rows


def draw(by_epsilon: dict[str, Any], by_steps: list[dict[str, Any]], file: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, line in LINES.items():
        found = by_epsilon[name]
        for kind in ("finite", "after"):
            label = f"{'in lockstep' if kind == 'finite' else 'sums subtracted'}, {name}"
            left.loglog(by_epsilon["epsilon"], found[kind], line, color=COLOURS[kind], label=label)
        left.axhline(found["automatic"], color=COLOURS["finite"], lw=0.6, ls=":")
        rows = [row for row in by_steps if row["dtype"] == name]
        for kind in ("finite", "exact", "backpropagation"):
            error = [max(row[kind], 1e-17) for row in rows]
            if kind != "backpropagation" or name == "float32":  # in float64 it is the reference
                right.loglog([row["steps"] for row in rows], error, line, color=COLOURS[kind],
                             marker=".", label=f"{kind}, {name}")  # fmt: skip
    left.set(
        title=f"two echoes, {by_epsilon['steps']} steps (dotted: automatic)", xlabel=r"$\epsilon$",
        ylabel="relative error of the gradient", ylim=(1e-12, 10),
    )  # fmt: skip
    right.set(title="automatic epsilon, and exact", xlabel="steps")
    counts = sorted({row["steps"] for row in by_steps})
    right.set_xticks(counts, [str(count) for count in counts])
    right.minorticks_off()
    left.legend(frameon=False, fontsize=8, loc="lower right")
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(0.0, 0.22))
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--size", type=int, default=8, help="oscillators")
    parser.add_argument("--steps", type=int, nargs="+", default=[200, 1000, 5000])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epsilons", type=int, default=19, help="from 1e-8 to 10")
    parser.add_argument("--output", type=Path, default=Path("echo.png"))
    parser.add_argument("--results", type=Path, default=Path("echo.json"))
    arguments = parser.parse_args()
    for name in ("size", "seeds", "epsilons"):
        if getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(arguments, name)}")
    if min(arguments.steps) < 1:
        parser.error(f"--steps must be at least 1, got {min(arguments.steps)}")
    begin = time.perf_counter()
    with jax.enable_x64(True):
        rows = against_steps(arguments.size, arguments.steps, arguments.seeds)
        middle = arguments.steps[len(arguments.steps) // 2]
        by_epsilon = against_epsilon(arguments.size, middle, np.logspace(-8, 1, arguments.epsilons))
        for name in LINES:
            best = {kind: min(by_epsilon[name][kind]) for kind in ("finite", "after")}
            print(
                f"{middle} steps, {name}: best epsilon in lockstep {best['finite']:.1e}, sums "
                f"subtracted {best['after']:.1e}; automatic {by_epsilon[name]['automatic']:.1e}"
            )
        twisted = without_potential(arguments.size, arguments.steps[0])
    draw(by_epsilon, rows, arguments.output)
    report = {
        "command": " ".join(["python examples/echo.py", *sys.argv[1:]]),
        "device": f"cpu, {os.cpu_count()} cores",
        "python": platform.python_version(),
        "jax": jax.__version__,
        "seconds": round(time.perf_counter() - begin, 1),
        "size": arguments.size,
        "seeds": arguments.seeds,
        "steps": rows,
        "epsilon": by_epsilon,
        "without_potential": twisted,
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(report, indent=1) + "\n")
    print(f"picture: {arguments.output}, results: {arguments.results}")


if __name__ == "__main__":
    main()
