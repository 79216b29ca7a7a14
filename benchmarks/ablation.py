"""What each mechanism of BK-Core is worth: added to it, left out of it, left out of everything.

    python benchmarks/ablation.py --preset smoke     # seconds a row, no download
    python benchmarks/ablation.py                    # the cpu preset: minutes a row and seed
    python benchmarks/ablation.py --preset gpu       # one GPU; also rows at a context of 2048
    python benchmarks/ablation.py --shard 0/2 --output a0.json       # every second row
    python benchmarks/ablation.py --merge a0.json a1.json --output a.json --picture a.png
    python benchmarks/ablation.py --preset gpu --only bk transformer -- --plays all   # its options

Rows are those of the main job (`examples/shakespeare.py`) with its preset and options, and its
training: equal parameters within 1%, the same batches at the same seed. Each difference is paired,
seed by seed. Runs go to benchmarks/results/ablation_PRESET.json one by one; those that are there
are not run again. Several shards on one GPU take turns with `--turns FILE`: while one trains, the
others compile.
"""

import argparse
import fnmatch
import math
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import ablation_plan as plan
import ablation_report as reports
from ablation_runs import run
from lm.texts import load
from rich.console import Console

RESULTS = Path(__file__).parent / "results"


def measure(options: argparse.Namespace, console: Console) -> None:
    """All runs that this shard has, until the budget is spent."""
    began = time.perf_counter()
    settings = plan.settings_of(options.preset, options.steps, options.main)
    rows = plan.rows(settings)
    corpus = load(settings, console)
    report = reports.load(options.output, reports.about(settings, corpus.name))
    part, parts = map(int, options.shard.split("/"))
    wanted = [row for row in rows if any(fnmatch.fnmatchcase(row.name, p) for p in options.only)]
    for row in wanted[part::parts]:
        seeds = [seed for seed in range(options.seeds) if reports.missing(report, row.name, [seed])]
        if not seeds:
            continue
        if time.perf_counter() - began > options.budget:
            console.print("the budget is spent; the runs that are missing will be made next time")
            break

        def keep(found: dict[str, Any], label: str = row.label) -> None:
            report["runs"].append(found)
            reports.save(options.output, report)
            console.print(
                f"{label}, seed {found['seed']}: {found['nats']:.4f} nats, "
                f"{found['tokens_per_s']:,.0f} tokens/s (at {time.perf_counter() - began:.0f} s)"
            )

        try:
            run(row, seeds, settings, corpus, turns=options.turns, kept=keep)
        except Exception as error:  # a run that fails must not cost the others
            report["failed"][row.name] = repr(error)[:500]
            console.print(f"{row.label} failed: {error!r}"[:500])
        else:
            report["failed"].pop(row.name, None)
        reports.save(options.output, report)
    print(reports.write(report, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("smoke", "cpu", "gpu"), default="cpu")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--steps", type=int, help="instead of the preset's")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th row from the i-th on")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of rows, or patterns")
    parser.add_argument(
        "--budget", type=float, default=math.inf, help="seconds, after which no row begins"
    )
    parser.add_argument("--turns", type=Path, help="a file that one process at a time holds")
    parser.add_argument("--output", type=Path, help="default benchmarks/results/")
    parser.add_argument("--merge", type=Path, nargs="+", help="reports to merge instead of running")
    parser.add_argument("--rows", action="store_true", help="list the rows and stop")
    parser.add_argument("--picture", type=Path, help="draw the results here")
    parser.add_argument("main", nargs="*", help="options of the main job, behind --")
    options = parser.parse_args()
    options.output = options.output or RESULTS / f"ablation_{options.preset}.json"
    if options.rows:
        for row in plan.rows(plan.settings_of(options.preset, options.steps, options.main)):
            print(f"{row.name:36}{row.label}")
        return
    if options.merge:
        report = reports.merge(options.merge)
        reports.save(options.output, report)
        rows = plan.rows(plan.settings_in(report))
        print(reports.write(report, rows))
    else:
        measure(options, Console(markup=False, highlight=False))
    if options.picture:
        import ablation_picture

        ablation_picture.draw(reports.merge([options.output]), options.picture)


if __name__ == "__main__":
    main()
