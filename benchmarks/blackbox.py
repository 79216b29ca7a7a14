"""Expected running time of path-integral clouds against evosax's strategies, by losses alone.

    pip install evosax scikit-learn                     # the peers, and the digits
    python benchmarks/blackbox.py                       # all rows; goes on where it was stopped
    python benchmarks/blackbox.py --preset smoke        # seconds, without evosax
    python benchmarks/blackbox.py --only ours --problems "sphere 10" "Rosenbrock 10"

ERT is the number of evaluations of all runs, failed ones too, over the number of runs that got
below the target. Fifteen starts a problem, the same for every method, each with the same initial
step size; evosax's methods have its defaults and 4 + 3 ln D particles, the clouds what
`path_integral.defaults` says for the dimension (all have 100 where the problem says so). Open_ES
keeps its width, so that it ends where the width ends. Rows:

    path integral     the default: full covariance up to 64 parameters, diagonal beyond
    antithetic        the same with particles in pairs W + e, W - e
    step size alone   effective sample size and step-size adaptation, C = 1
    low rank          eight directions and a diagonal
    lambda = 1        fixed temperature and step size: W <- sum_k P_k W_k and nothing else
    CMA_ES ...        of evosax

Then every method on the ten-dimensional sphere for 3,000 generations, long past float32's end:
whether losses and parameters stay finite. Writes benchmarks/results/blackbox.json row by row, where
rows that are there are not run again, and docs/pictures/blackbox.png.
"""

import argparse
import importlib.metadata
import json
import platform
import time
from pathlib import Path
from typing import Any

import jax
import matplotlib
from minimise import methods, problems, running

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "blackbox.json"
PICTURE = ROOT / "docs" / "pictures" / "blackbox.png"
COLOURS = {
    "path integral": "#c53030",
    "antithetic": "#ed8936",
    "step size alone": "#d69e2e",
    "low rank": "#b83280",
    "CMA_ES": "#2b6cb0",
    "Sep_CMA_ES": "#319795",
    "SNES": "#718096",
    "CR_FM_NES": "#2f855a",
    "Open_ES": "#a0aec0",
}


def reference(problem: str, rows: dict[str, dict]) -> tuple[str, float] | None:
    """Whose ERT the default is held against, and how much more of it may take.

    CMA_ES where it gets there, else the better of the two for many parameters.
    """
    found = []
    for names in (("CMA_ES",), ("Sep_CMA_ES", "CR_FM_NES")):
        found += [(rows[name]["ert"], name) for name in names if rows.get(name, {}).get("ert")]
        if found:
            break
    near = problem.startswith(("sphere", "Rosenbrock", "ellipsoid 100", "digits"))
    return (min(found)[1], 1.3 if near else 1.7) if found else None


def by_problem(rows: list[dict]) -> dict[str, dict[str, dict]]:
    found: dict[str, dict[str, dict]] = {}
    for row in rows:
        found.setdefault(row["problem"], {})[row["method"]] = row
    return found


def summary(rows: list[dict]) -> list[dict[str, Any]]:
    """Of each problem: ERT of the default over that of its reference and of the best peer."""
    found = []
    for problem, ways in by_problem(rows).items():
        own = ways.get("path integral", {}).get("ert")
        peers = [(row["ert"], name) for name, row in ways.items() if row["peer"] and row["ert"]]
        held = reference(problem, ways)
        if own is None or not peers or held is None:
            continue
        found.append(
            {
                "problem": problem,
                "ert": own,
                "reference": held[0],
                "ratio": own / ways[held[0]]["ert"],
                "limit": held[1],
                "best_peer": min(peers)[1],
                "ratio_to_best": own / min(peers)[0],
            }
        )
    return found


def table(rows: list[dict]) -> str:
    """ERT by problem and method; successes where not all runs had it."""
    names = list(dict.fromkeys(row["method"] for row in rows))
    lines = ["| | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for problem, ways in by_problem(rows).items():
        cells = []
        for name in names:
            row = ways.get(name)
            cell = "-"
            if row is not None:
                cell = "fails" if row["ert"] is None else f"{row['ert']:,.0f}"
                if 0 < row["successes"] < row["runs"]:
                    cell += f" ({row['successes']}/{row['runs']})"
                if not row["finite"]:
                    cell += ", NaN"
            cells.append(cell)
        lines.append(f"| {problem} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def draw(rows: list[dict], output: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    found = by_problem(rows)
    figure, axis = plt.subplots(figsize=(9, 0.42 * len(found) + 1.6), layout="constrained")
    far = 40.0
    for place, (_, ways) in enumerate(found.items()):
        unit = ways.get("path integral", {}).get("ert")
        erts = {name: row["ert"] for name, row in ways.items() if name in COLOURS}
        if unit is None:
            unit = min((ert for ert in erts.values() if ert), default=1.0)
        failed = 0
        for name, ert in erts.items():
            own = name == "path integral"
            if ert is None:
                x, mark = far * 1.13**failed, "x"
                failed += 1
            else:
                x, mark = min(ert / unit, far * 0.8), "o" if not ways[name]["peer"] else "s"
            size = 60 if own else 30
            axis.scatter(x, -place, size, COLOURS[name], marker=mark, zorder=4 if own else 3)
    for name, colour in COLOURS.items():
        own = name in ("path integral", "antithetic", "step size alone", "low rank")
        axis.scatter([], [], 40, colour, marker="o" if own else "s", label=name)
    axis.scatter([], [], 30, "0.3", marker="x", label="never got there")
    axis.axvline(1, color=COLOURS["path integral"], lw=0.8, zorder=1)
    axis.axvspan(far * 0.9, far * 2.2, color="0.96", zorder=0)
    axis.set_xscale("log")
    ticks = [0.5, 1, 2, 4, 8, 16]
    axis.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axis.minorticks_off()
    axis.set(xlim=(0.35, far * 2.2), ylim=(-len(found) + 0.4, 0.6))
    axis.set_yticks([-place for place in range(len(found))], list(found))
    axis.grid(axis="both", color="0.92")
    axis.set_axisbelow(True)
    axis.set_title("evaluations until the target, over those of the path integral's default")
    axis.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    plt.close(figure)


def chosen(options: argparse.Namespace) -> tuple[list, list]:
    smoke = options.preset == "smoke"
    every = problems.problems()
    if not smoke:
        every.append(problems.network())
    wanted = options.problems or (["sphere 10"] if smoke else [p.name for p in every])
    ways = [w for w in methods.methods() if not (w.peer and (smoke or options.only == "ours"))]
    if options.methods or smoke:
        names = options.methods or ["path integral"]
        ways = [w for w in ways if w.name in names]
    return [p for p in every if p.name in wanted], ways


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=("smoke", "cpu"), default="cpu")
    parser.add_argument("--only", choices=("ours",), help="no peers: runs without evosax")
    parser.add_argument("--problems", nargs="+", help="by name; all of them")
    parser.add_argument("--methods", nargs="+", help="by name; all of them")
    parser.add_argument("--seeds", type=int, default=15)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    smoke = options.preset == "smoke"
    if smoke:  # not over what was measured
        options.seeds = min(options.seeds, 3)
        if options.output == RESULTS:
            options.output = Path("blackbox-smoke.json")
        if options.picture == PICTURE:
            options.picture = Path("blackbox-smoke.png")
    device = jax.devices()[0]
    packages = ("jax", "numpy", "optax", *(() if smoke or options.only else ("evosax",)))
    report = {
        "command": f"python benchmarks/blackbox.py --preset {options.preset}",
        "device": f"{device.platform}: {device.device_kind}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {package: importlib.metadata.version(package) for package in packages},
        "rows": [],
        "past_convergence": [],
    }
    if options.output.exists():
        before = json.loads(options.output.read_text())
        report |= {name: before[name] for name in ("rows", "past_convergence")}

    def write():
        report["summary"] = summary(report["rows"])
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(report, indent=1) + "\n")

    begun = time.perf_counter()
    searched, ways = chosen(options)
    there = {(row["problem"], row["method"]) for row in report["rows"]}
    for way in ways:
        for problem in searched:
            if not way.fits(problem) or (problem.name, way.name) in there:
                continue
            row = running.to_target(problem, way, options.seeds)
            report["rows"].append(row)
            ert = "fails" if row["ert"] is None else f"{row['ert']:,.0f}"
            print(
                f"{problem.name:28} {way.name:16} {ert:>10}  {row['successes']}/{row['runs']}"
                f"{'' if row['finite'] else ' NaN'}  {row['seconds']:.0f} s",
                flush=True,
            )
            write()
    places = {p.name: index for index, p in enumerate(problems.problems())}
    order = {w.name: index for index, w in enumerate(methods.methods())}
    report["rows"].sort(key=lambda r: (places.get(r["problem"], 99), order[r["method"]]))
    sphere = problems.problems()[0]
    there = {row["method"] for row in report["past_convergence"]}
    for way in ways:
        if way.fits(sphere) and way.name not in there:
            row = running.past_convergence(sphere, way, 300 if smoke else 3000)
            report["past_convergence"].append(row)
    write()
    print(table(report["rows"]))
    for row in report["past_convergence"]:
        print(f"{row['method']:16} past convergence: {'finite' if row['finite'] else 'NaN'}")
    for row in report["summary"]:
        print(
            f"{row['problem']:28} {row['ratio']:.2f} x {row['reference']} (limit {row['limit']}), "
            f"{row['ratio_to_best']:.2f} x the best, {row['best_peer']}"
        )
    draw(report["rows"], options.picture)
    took = time.perf_counter() - begun
    print(f"{took:.0f} s; written: {options.output}, {options.picture}")


if __name__ == "__main__":
    main()
