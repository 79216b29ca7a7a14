"""Ground states of spin rings by imaginary time: Adam, SR, minSR and SPRING on one network.

    python examples/ground_state.py                  # two rings of 12 spins, three seeds; a minute
    python examples/ground_state.py --preset smoke   # rings of six spins, seconds

A restricted Boltzmann machine of 312 real weights (alpha = 2), psi(s) = prod_j cosh(b_j + w_j s),
in float64, seeks the ground state of

    Ising        H = -sum s^z s^z - sum s^x, Pauli matrices, periodic, at its critical point;
    Heisenberg   H = sum S.S of spins 1/2, periodic, in the sector of S^z = 0, with the other
                 sublattice turned (Marshall's sign rule), where the ground state is positive.

    Adam      gradients of the energy, summed over the basis (4096 or 924 states); a cosine to 0
    SR        `optim.imaginary_time` on the same sums: more rows than weights: a matrix 312 x 312
    minSR     the same on 256 samples drawn from |psi|^2: a matrix 256 x 256
    SPRING    minSR with momentum

All start at the same weights. The error is that of the exact energy of the state, summed over the
basis, whatever the method saw. Damping falls geometrically to its floor. Rates, floors and SPRING's
momentum were chosen from three to six settings each, on seed 0 and 150 steps. Then one weight a
state of an Ising ring of eight, evolved by steps dt, against exp(-H tau) by eigenvectors: the
infidelity is O(dt^2).

Exact energies: eigsh of the sparse matrix, and for the Ising ring -2 / sin(pi / 2N) too. Writes
benchmarks/results/ground_state.json and docs/pictures/ground_state.png (see --results, --output).
"""

import argparse
import dataclasses
import functools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import optax
import scipy.sparse
from scipy.sparse.linalg import eigsh

from physnet import optim

matplotlib.use("Agg")
import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
COLOURS = {"Adam": "0.45", "SR": "C0", "minSR": "C1", "SPRING": "C2"}
TARGETS = {"Ising": 5e-6, "Heisenberg": 1e-5}
METHODS = {  # rate, floor of the damping, momentum
    "Adam": (5e-2, None, None),
    "SR": (0.1, 1e-5, 0.0),
    "minSR": (0.05, 1e-3, 0.0),
    "SPRING": (0.05, 1e-3, 0.95),
}


@dataclasses.dataclass(frozen=True)
class Preset:
    spins: int
    steps: int
    seeds: int
    samples: int
    tabular: int  # spins of the ring with one weight a state


PRESETS = {"full": Preset(12, 250, 3, 256, 8), "smoke": Preset(6, 30, 1, 24, 3)}


@dataclasses.dataclass(frozen=True)
class Ring:
    """A Hamiltonian on a basis: for each state its neighbours and their elements."""

    name: str
    states: np.ndarray  # (states, spins) of +-1
    neighbours: np.ndarray  # (states, links), the state itself first
    elements: np.ndarray  # (states, links)

    @functools.cached_property
    def matrix(self) -> scipy.sparse.csr_matrix:
        rows = np.repeat(np.arange(len(self.states)), self.neighbours.shape[1])
        entries = (self.elements.ravel(), (rows, self.neighbours.ravel()))
        return scipy.sparse.csr_matrix(entries, shape=(len(self.states),) * 2)

    @functools.cached_property
    def exact(self) -> float:
        start = np.ones(len(self.states))
        return float(eigsh(self.matrix, k=1, which="SA", v0=start, tol=1e-12)[0][0])


def ising(spins: int) -> Ring:
    index = np.arange(2**spins)
    states = 1 - 2.0 * ((index[:, None] >> np.arange(spins)) & 1)
    bonds = -np.sum(states * np.roll(states, -1, axis=1), axis=1)
    flips = index[:, None] ^ (1 << np.arange(spins))
    elements = np.concatenate([bonds[:, None], -np.ones(flips.shape)], axis=1)
    return Ring("Ising", states, np.concatenate([index[:, None], flips], axis=1), elements)


def heisenberg(spins: int) -> Ring:
    index = np.arange(2**spins)
    states = 1 - 2.0 * ((index[:, None] >> np.arange(spins)) & 1)
    kept = np.flatnonzero(states.sum(axis=1) == 0)
    place = np.zeros(2**spins, int)
    place[kept] = np.arange(len(kept))
    states, bond = states[kept], np.arange(spins)
    apart = states != np.roll(states, -1, axis=1)
    swapped = place[kept[:, None] ^ ((1 << bond) | (1 << np.roll(bond, -1)))]
    own = np.arange(len(kept))[:, None]
    neighbours = np.concatenate([own, np.where(apart, swapped, own)], axis=1)
    diagonal = np.sum(np.where(apart, -0.25, 0.25), axis=1, keepdims=True)
    return Ring("Heisenberg", states, neighbours, np.concatenate([diagonal, -0.5 * apart], axis=1))


def log_psi(params: dict[str, jax.Array], s: jax.Array) -> jax.Array:
    inside = jnp.abs(params["w"] @ s + params["b"])  # log cosh, safe for large arguments
    return jnp.sum(inside + jnp.log1p(jnp.exp(-2 * inside)) - jnp.log(2))


def start(spins: int, seed: int) -> dict[str, jax.Array]:
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(0.1 * rng.normal(size=shape))  # noqa: E731
    return {"w": draw(2 * spins, spins), "b": draw(2 * spins)}


def sums(ring: Ring) -> Callable[[Any], tuple[jax.Array, jax.Array, jax.Array]]:
    """All states' weights and local energies, and the energy."""
    states, elements = jnp.asarray(ring.states), jnp.asarray(ring.elements)

    def found(params):
        logs = jax.vmap(lambda s: log_psi(params, s))(states)
        weights = jax.nn.softmax(2 * logs)
        local = jnp.sum(elements * jnp.exp(logs[ring.neighbours] - logs[:, None]), axis=1)
        return weights, local, weights @ local

    return found


def optimiser(method: str, steps: int) -> Any:
    rate, floor, momentum = METHODS[method]
    if floor is None:
        return optax.adam(optax.cosine_decay_schedule(rate, steps))
    damping = lambda count: jnp.maximum(floor, 1e-2 * 0.95**count)  # noqa: E731
    return optim.imaginary_time(rate, damping=damping, momentum=momentum)


def run(
    ring: Ring,
    method: str,
    preset: Preset,
    seed: int,
) -> dict[str, Any]:
    """Relative errors after each step, and seconds."""
    states = jnp.asarray(ring.states)
    whole, rule = sums(ring), optimiser(method, preset.steps)

    def step(carry, key):
        params, state = carry
        weights, local, energy = whole(params)
        if method == "Adam":
            grads = jax.grad(lambda p: whole(p)[2])(params)
            updates, state = rule.update(grads, state, params)
        else:
            if method == "SR":
                rows = optim.wavefunction_rows(log_psi, params, states, local, weights=weights)
            else:
                marks = jax.random.uniform(key, (preset.samples,), weights.dtype)
                drawn = jnp.searchsorted(jnp.cumsum(weights), marks, method="sort")
                drawn = jnp.minimum(drawn, len(weights) - 1)  # the sum may end below 1
                linked = states[jnp.asarray(ring.neighbours)[drawn]]
                elements = jnp.asarray(ring.elements)[drawn]
                local = optim.local_energies(log_psi, params, states[drawn], linked, elements)
                rows = optim.wavefunction_rows(log_psi, params, states[drawn], local)
            updates, state = rule.update(None, state, params, **rows._asdict())
        return (optax.apply_updates(params, updates), state), energy

    params = start(ring.states.shape[1], seed)
    keys = jax.random.split(jax.random.key(seed), preset.steps)
    begun = time.perf_counter()

    @jax.jit
    def go(params):
        (params, state), energies = jax.lax.scan(step, (params, rule.init(params)), keys)
        return state, jnp.append(energies, whole(params)[2])

    compiled = go.lower(params).compile()
    ready, spent = time.perf_counter(), time.process_time()
    state, energies = jax.block_until_ready(compiled(params))
    seconds, spent = time.perf_counter() - ready, time.process_time() - spent
    errors = (np.asarray(energies) - ring.exact) / abs(ring.exact)
    skipped = 0 if method == "Adam" else int(state.skipped)
    return {
        "model": ring.name,
        "method": method,
        "seed": seed,
        "energy": float(energies[-1]),
        "error": float(errors[-1]),
        "errors": [float(f"{error:.4g}") for error in errors],
        "skipped": skipped,
        "seconds": seconds,
        "cpu_seconds": spent,
        "compilation": ready - begun,
    }


def evolution(spins: int) -> list[dict[str, float]]:
    """Infidelities of one weight a state against exp(-H tau), tau = 1, from a random state."""
    h = ising(spins).matrix.toarray()
    first = np.random.default_rng(0).normal(size=len(h)) / 2
    values, vectors = np.linalg.eigh(h)
    exact = vectors @ (np.exp(values[0] - values) * (vectors.T @ np.exp(first)))
    exact /= np.linalg.norm(exact)
    matrix, sites = jnp.asarray(h), jnp.arange(len(h))

    @jax.jit
    def evolve(dt, steps):
        def step(_, x):
            psi = jnp.exp(x - jnp.max(x))
            local = matrix @ psi / psi
            rows = optim.wavefunction_rows(lambda x, s: x[s], x, sites, local, weights=psi**2)
            rule = optim.imaginary_time(dt, damping=1e-12)
            return x + rule.update(None, rule.init(x), x, **rows._asdict())[0]

        psi = jnp.exp(jax.lax.fori_loop(0, steps, step, jnp.asarray(first)))
        return psi / jnp.linalg.norm(psi)

    dts = (0.02, 0.01, 0.005)
    found = [np.asarray(evolve(dt, round(1 / dt))) for dt in dts]
    return [
        {"dt": dt, "infidelity": float(1 - (exact @ psi) ** 2)}
        for dt, psi in zip(dts, found, strict=True)
    ]


def draw(report: dict[str, Any], output: Path) -> None:
    figure, axes = plt.subplots(
        1, 3, figsize=(13, 4.2), layout="constrained", width_ratios=[4, 4, 3]
    )
    for axis, model in zip(axes, report["exact"], strict=False):
        for method, colour in COLOURS.items():
            rows = [r for r in report["runs"] if (r["model"], r["method"]) == (model, method)]
            for row in rows:
                axis.semilogy(np.maximum(row["errors"], 1e-8), color=colour, lw=0.9, alpha=0.8,
                              label=method if row is rows[0] else None)  # fmt: skip
        axis.axhline(TARGETS[model], color="k", lw=0.8, ls=":")
        axis.annotate("target", (0, TARGETS[model]), fontsize=8, va="bottom")
        axis.set_title(f"{model} ring of {report['spins']} spins")
        axis.set_xlabel("step")
    axes[0].set_ylabel("relative error of the energy")
    axes[0].legend(frameon=False)
    rows = report["evolution"]
    dts = np.array([row["dt"] for row in rows])
    axes[2].loglog(dts, [row["infidelity"] for row in rows], "o-", color="C0", label="SR")
    axes[2].loglog(dts, rows[0]["infidelity"] * (dts / dts[0]) ** 2, "k:", label="dt$^2$")
    for row in rows:
        axes[2].annotate(f"{row['infidelity']:.2g}", (row["dt"], row["infidelity"]), ha="left",
                         xytext=(8, -6), textcoords="offset points", fontsize=8)  # fmt: skip
    axes[2].margins(x=0.25)
    axes[2].set_xticks(dts, [f"{dt:g}" for dt in dts])
    axes[2].minorticks_off()
    axes[2].set_title("One weight a state, against exp(-Hτ)")
    axes[2].set_xlabel("dt")
    axes[2].set_ylabel("infidelity at τ = 1")
    axes[2].legend(frameon=False)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="full")
    parser.add_argument("--output", type=Path, default=ROOT / "docs/pictures/ground_state.png")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks/results/ground_state.json"
    )
    arguments = parser.parse_args()
    preset = PRESETS[arguments.preset]
    with jax.enable_x64(True):
        rings = [ising(preset.spins), heisenberg(preset.spins)]
        runs = []
        print(f"{'':12}{'method':8}{'seed':>5}{'energy':>15}{'error':>10}{'seconds':>9}{'CPU':>7}")
        for ring in rings:
            print(f"{ring.name:12}{'exact':8}{'':5}{ring.exact:15.9f}")
            for method in METHODS:
                for seed in range(preset.seeds):
                    row = run(ring, method, preset, seed)
                    runs.append(row)
                    times = f"{row['seconds']:9.2f}{row['cpu_seconds']:7.2f}"
                    print(f"{ring.name:12}{method:8}{seed:5}{row['energy']:15.9f}"
                          f"{row['error']:10.1e}{times}", flush=True)  # fmt: skip
        steps = evolution(preset.tabular)
    print("infidelity:", "  ".join(f"dt {r['dt']}: {r['infidelity']:.2e}" for r in steps))
    report = {
        "command": f"python examples/ground_state.py --preset {arguments.preset}",
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "spins": preset.spins,
        "weights": 2 * preset.spins * (preset.spins + 1),
        "samples": preset.samples,
        "methods": {name: list(value) for name, value in METHODS.items()},
        "exact": {ring.name: ring.exact for ring in rings},
        "closed_form": -2 / np.sin(np.pi / (2 * preset.spins)),
        "runs": runs,
        "evolution": steps,
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(report) + "\n")
    draw(report, arguments.output)
    print(f"wrote {arguments.results} and {arguments.output}")


if __name__ == "__main__":
    main()
