"""Local minima: how often the path integral, Adam and SGD end in the lowest basin, at equal cost.

    python examples/basins.py                    # all problems, basins.png and basins.json
    python examples/basins.py --preset smoke     # a small one, seconds

Every method gets the same number of evaluations of the loss, restarts from the same distribution,
and a grid of settings (18 for Adam and SGD, 12 for the clouds), of which the best over 10 seeds is
run again on 20 others. A loss with its gradient counts as three evaluations (one forward, a
backward of twice that).

    path integral    `superposition.path_integral`: sigma, number of particles, number of runs
    λ = 1, fixed     the same with a fixed temperature and step size, P_k = exp(-L_k) / sum
    Adam, SGD        learning rate (SGD with momentum 0.9), number of runs
    random starts    the start distribution alone: what needs no search

Success is a value below half the gap to the second lowest minimum, of functions; a mean logistic
loss below what any undecided example leaves, of networks. Intervals are Wilson's, 95%.

What it finds, as shares of 20 searches: where small minima lie on a large basin (Rastrigin, Ackley,
Lévy, a tilt over 2^10 wells) a cloud wider than the ripples sees the basin, and succeeds in 0.75 to
1.0 where Adam and SGD with up to 32 restarts succeed in at most 0.35 in two dimensions and 0.10 in
ten. Where the lowest minimum gives no sign from afar (Schwefel) the cloud fails as well, 0.05.
Networks are the other way round: cloud and Adam always learn XOR (SGD 0.85 with ReLU units), Adam
at half the evaluations; of spirals the cloud learns 0.5, Adam and SGD all, with a thirtieth and an
eleventh of the evaluations. The fixed λ = 1 does well on Rastrigin's plane and nearly nowhere else.
"""

import argparse
import json
import math
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from basin_lab import methods, picture
from basin_lab.problems import Problem, problems

SEEDS = 10  # of one call; evaluation takes two of them


def wilson(hits: int, runs: int, z: float = 1.96) -> tuple[float, float]:
    """95% interval of a share, also where all or none succeed."""
    share, unit = hits / runs, 1 + z**2 / runs
    middle = (share + z**2 / (2 * runs)) / unit
    half = z / unit * math.sqrt(share * (1 - share) / runs + z**2 / (4 * runs**2))
    return max(middle - half, 0.0), min(middle + half, 1.0)


def compare(
    problem: Problem, method: str, grid: list[methods.Setting], seeds: int, batches: int
) -> dict[str, Any]:
    """A method's best setting over one batch of seeds, and its rate of success on others."""
    compiled = {
        particles: jax.jit(
            jax.vmap(methods.search(method, problem, particles), in_axes=(0, None, None))
        )
        for particles in {setting.particles for setting in grid}
    }

    def run(setting: methods.Setting, batch: int) -> tuple[np.ndarray, np.ndarray]:
        keys = jax.random.split(jax.random.key(batch), seeds)
        found, lowest = compiled[setting.particles](
            keys, jnp.float32(setting.size), jnp.int32(setting.runs)
        )
        return np.asarray(found), np.asarray(lowest)

    def score(setting: methods.Setting) -> tuple[float, float, float]:
        found, lowest = run(setting, 0)
        late = np.minimum(found, problem.budget).mean()
        return float(np.isfinite(found).mean()), -late, -float(np.nan_to_num(lowest).mean())

    best = max(grid, key=score)
    found, lowest = (
        np.concatenate(x) for x in zip(*(run(best, 1 + b) for b in range(batches)), strict=True)
    )
    hit = np.isfinite(found)
    hits = int(hit.sum())
    spent = np.minimum(found, problem.budget).sum()
    return {
        "problem": problem.name,
        "kind": problem.kind,
        "dimension": problem.dimension,
        "budget": problem.budget,
        "target": problem.target,
        "method": method,
        "size": best.size,
        "runs": best.runs,
        "particles": best.particles,
        "seeds": len(found),
        "hits": hits,
        "share": hits / len(found),
        "interval": wilson(hits, len(found)),
        "evaluations": float(spent / hits) if hits else None,  # expected, until a success
        "lowest": float(np.median(lowest)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=("full", "smoke"), default="full")
    parser.add_argument("--output", type=Path, default=Path("basins.png"))
    parser.add_argument("--results", type=Path, default=Path("basins.json"))
    arguments = parser.parse_args()
    smoke = arguments.preset == "smoke"
    rows: list[dict[str, Any]] = []
    report = {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "versions": {
            "jax": jax.__version__,
            "optax": optax.__version__,
            "python": platform.python_version(),
        },
        "preset": arguments.preset,
        "gradient_counts_as": methods.GRADIENT,
        "settings": {
            method: len(methods.settings(method, problems(arguments.preset)[0]))
            for method in methods.METHODS
        },
        "rows": rows,
    }
    for path in (arguments.results, arguments.output):
        path.parent.mkdir(parents=True, exist_ok=True)
    for problem in problems(arguments.preset):
        for method in methods.METHODS:
            grid = methods.settings(method, problem)
            if smoke:
                row = compare(problem, method, grid[::6], 4, 1)
            else:
                row = compare(problem, method, grid, SEEDS, 2)
            rows.append(row)
            low, high = row["interval"]
            cost = "-" if row["evaluations"] is None else f"{row['evaluations']:,.0f}"
            print(
                f"{row['problem']:27} {method:14} {row['share']:5.2f} [{low:.2f}, {high:.2f}]  "
                f"{cost:>9} evaluations   size {row['size']:g}, {row['runs']} runs, "
                f"K = {row['particles']}",
                flush=True,
            )
        arguments.results.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    picture.draw(rows, arguments.output)
    print(f"wrote {arguments.results} and {arguments.output}")


if __name__ == "__main__":
    main()
