"""Do experts that hyperbolic distance chooses specialise, on verbs or nouns, names or operators?

    python examples/specialisation.py                         # minutes on two cores, one seed
    python examples/specialisation.py --preset smoke          # under a minute, Python's source only
    python examples/specialisation.py --preset gpu            # three seeds, one GPU
    python examples/specialisation.py --draw runs/specialisation.json

BK-Core language models over words whose feed-forward is a mixture of the same eight experts, one a
token, chosen by the nearest hyperbolic or Euclidean centroid, with and without a balance loss, by a
linear router with a balance loss, or by a hash of the token; and one with a single feed-forward of
an expert's width. All have as many products a token in their experts, start equal and see the same
batches at a seed. Centroids of both geometries start at k-means and are placed anew in the first
fifth of the steps; then gradients move them along geodesics.

On held-out words it is counted which expert takes words of which class: the kinds of token of
`tokenize` in Python's standard library, parts of speech in the glosses of WordNet. Measures are
normalised mutual information and purity, for the word that is read ("here") and for the one to be
predicted ("next"), the number of experts in use, the largest load, and the loss. A hash knows words
and nothing of their classes: what its experts share with them is what counts as none.

References: Fedus et al., "Switch transformers" (2022), for the linear router; Roller et al., "Hash
layers for large sparse models" (2021).
"""

import argparse
import dataclasses
import json
import platform
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from lm import classed, mixtures, specialise
from lm.agreement import agreement, by_chance, ceiling
from lm.classed import Classed
from lm.errors import UserError
from lm.specialise import Recipe

from physnet.models.bk_core import BKCoreConfig

OUTPUT = Path("runs") / "specialisation.json"
BASES = ("hyperbolic", "hyperbolic-balanced")
MEASURES = ("nats", "nmi", "purity", "nmi_next", "purity_next", "effective", "imbalance")


@dataclasses.dataclass(frozen=True)
class Preset:
    """Sizes of a run."""

    config: BKCoreConfig
    recipe: Recipe
    train: int
    held: int
    seeds: int
    corpora: tuple[str, ...] = ("python", "wordnet")
    rules: tuple[str, ...] = tuple(mixtures.RULES)


PRESETS = {
    "smoke": Preset(
        BKCoreConfig(256, layers=1, heads=2, width=32, chains=4, attention=True, experts=4),
        Recipe(steps=20, batch=4, block=32, calibrate_every=10, sample=4),
        train=20_000, held=2_048, seeds=1, corpora=("python",),
        rules=("hyperbolic", "hash"),
    ),
    "cpu": Preset(
        BKCoreConfig(1024, layers=2, heads=2, width=64, chains=8, experts=8),
        Recipe(steps=300, batch=16, block=64),
        train=400_000, held=32_768, seeds=1,
    ),
    "gpu": Preset(
        BKCoreConfig(4096, layers=3, heads=4, width=128, chains=16, experts=8),
        Recipe(steps=1000, batch=32, block=128),
        train=1_200_000, held=131_072, seeds=3,
    ),
}  # fmt: skip


def corpus(name: str, preset: Preset, wordnet: Path) -> Classed:
    """The text of that name, with one word more held out: the last one's next."""
    sizes = {
        "vocab_size": preset.config.vocab_size,
        "train": preset.train,
        "held": preset.held + 1,
    }
    if name == "python":
        return classed.standard_library(**sizes)
    return classed.glosses(wordnet, **sizes)


def measured(here: np.ndarray, following: np.ndarray, nats: float) -> dict[str, Any]:
    """Of one seed: the measures as means over layers, those of each layer, and its tables."""
    row: dict[str, Any] = {"nats": nats}
    if not here.any():  # no experts
        return row
    layers = []
    for own, after in zip(here, following, strict=True):
        one, other = agreement(own), agreement(after)
        chance = by_chance(own, np.random.default_rng(0)).nmi
        layers.append(
            one._asdict()
            | {"nmi_next": other.nmi, "purity_next": other.purity}
            | {"nmi_by_chance": chance, "nmi_ceiling": ceiling(own)}
        )
    means = {name: float(np.mean([layer[name] for layer in layers])) for name in layers[0]}
    tables = {"here": here.tolist(), "next": following.tolist()}
    return row | means | {"layers": layers} | tables


def mean_and_error(values: list[float]) -> list[float | None]:
    """Mean and standard error; of one value without the error."""
    error = float(np.std(values, ddof=1) / len(values) ** 0.5) if len(values) > 1 else None
    return [float(np.mean(values)), error]


def summarised(rows: list[dict[str, Any]]) -> None:
    """Add means over seeds, and to each row what `BASES` have more, as paired differences."""
    names = (*MEASURES, "nmi_by_chance", "nmi_ceiling")
    for row in rows:
        seeds = row["seeds"]
        row["mean"] = {
            name: mean_and_error([seed[name] for seed in seeds])
            for name in names
            if name in seeds[0]
        }
        row["less_than"] = {
            base["rule"]: {
                name: mean_and_error(
                    [a[name] - b[name] for a, b in zip(base["seeds"], seeds, strict=True)]
                )
                for name in row["mean"]
            }
            for base in rows
            if base["corpus"] == row["corpus"] and base["rule"] in BASES and base is not row
        }


def run(preset: Preset, options: argparse.Namespace) -> dict[str, Any]:
    """Train and measure all rows; what is written as JSON."""
    texts = {name: corpus(name, preset, options.wordnet) for name in preset.corpora}
    for text in texts.values():
        print(
            f"{text.name}: {text.documents:,} documents, {len(text.train):,} words to train on, "
            f"{len(text.held):,} held out",
            flush=True,
        )
    classes = max(len(text.classes) for text in texts.values())
    seeds = jnp.arange(preset.seeds, dtype=jnp.int32)
    shared = len({(len(t.train), len(t.word_class)) for t in texts.values()}) == 1

    def arguments(text: Classed) -> tuple[jax.Array, ...]:
        # A text with fewer words than the table leaves the last ones unused.
        spare = preset.config.vocab_size - len(text.word_class)
        return seeds, *map(
            jnp.asarray, (text.train, text.held, np.pad(text.word_class, (0, spare)))
        )

    def build(rule: str) -> dict[str, Any]:
        began = time.perf_counter()
        train = specialise.trained_and_measured(rule, preset.config, preset.recipe, classes=classes)
        lower = jax.jit(train).lower
        first = lower(*arguments(next(iter(texts.values())))).compile()
        programs = {
            name: first if shared else lower(*arguments(text)).compile()
            for name, text in texts.items()
        }
        return programs | {"seconds": time.perf_counter() - began}

    found: list[dict[str, Any]] = []
    with ThreadPoolExecutor(options.threads) as pool:
        for rule, programs in zip(preset.rules, pool.map(build, preset.rules), strict=True):
            for name, text in texts.items():
                began = time.perf_counter()
                outcome = jax.tree.map(np.asarray, programs[name](*arguments(text)))
                seconds = time.perf_counter() - began
                kinds = len(text.classes)
                row = {
                    "corpus": name,
                    "rule": rule,
                    "seconds": seconds,
                    "compilation": programs["seconds"],
                    "training": outcome.training.tolist(),
                    "seeds": [
                        measured(here[..., :kinds], after[..., :kinds], float(nats))
                        for nats, here, after in zip(
                            outcome.nats, outcome.here, outcome.next, strict=True
                        )
                    ],
                }
                found.append(row)
                print(f"{name}, {mixtures.RULES[rule]}: {seconds:.1f} s", flush=True)
    order = {name: index for index, name in enumerate(preset.corpora)}
    found.sort(key=lambda row: order[row["corpus"]])
    summarised(found)
    shares = {
        name: np.bincount(t.word_class[t.held], minlength=len(t.classes))
        for name, t in texts.items()
    }
    return {
        "command": " ".join(["python", "examples/specialisation.py", *sys.argv[1:]]),
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "config": dataclasses.asdict(preset.config),
        "recipe": dataclasses.asdict(preset.recipe),
        "corpora": {
            name: {
                "name": text.name,
                "classes": text.classes,
                "class_counts": shares[name].tolist(),
                "unknown": float(np.mean(text.held < len(text.classes))),
                "documents": text.documents,
                "train": len(text.train),
                "held": len(text.held) - 1,
                "sha256": text.sha256,
            }
            for name, text in texts.items()
        },
        "rows": found,
    }


def print_table(results: dict[str, Any]) -> None:
    """Means over seeds with standard errors, and the first row's paired differences to the rest."""
    heads = ("nats", "NMI", "purity", "NMI next", "purity next", "in use", "max load")
    names = MEASURES

    def cells(values: dict[str, list], sign: str) -> str:
        texts = []
        for name in names:
            mean, error = values.get(name, (None, None))
            text = "" if mean is None else f"{mean:{sign}.3f}"
            texts.append(f"{text + (f' ±{error:.3f}' if error is not None else ''):>15}")
        return "".join(texts)

    for corpus, facts in results["corpora"].items():
        counts = np.array(facts["class_counts"])
        print(f"\n{facts['name']}: the commonest class has {counts.max() / counts.sum():.3f}")
        chance = max(
            row["mean"]["nmi_by_chance"][0]
            for row in results["rows"]
            if row["corpus"] == corpus and "nmi_by_chance" in row["mean"]
        )
        print(f"NMI of experts with these loads that are drawn by chance: at most {chance:.4f}")
        print(f"{'':42}" + "".join(f"{head:>15}" for head in heads))
        rows = [row for row in results["rows"] if row["corpus"] == corpus]
        for row in rows:
            print(f"{mixtures.RULES[row['rule']]:42}{cells(row['mean'], '')}")
        for base in BASES:
            for row in rows:
                if base in row["less_than"]:
                    label = f"{base} less {row['rule']}"
                    print(f"{label:42}{cells(row['less_than'][base], '+')}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--seeds", type=int, help="how many")
    parser.add_argument("--steps", type=int, help="of training, a multiple of 50")
    parser.add_argument("--rules", nargs="+", choices=mixtures.RULES)
    parser.add_argument("--corpora", nargs="+", choices=("python", "wordnet"))
    parser.add_argument("--wordnet", type=Path, default=classed.WORDNET, help="WordNet's folder")
    parser.add_argument("--threads", type=int, default=1, help="that compile at once")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="print and draw a finished run")
    parser.add_argument("--picture", type=Path, help="PNG for --draw; None: next to the JSON")
    options = parser.parse_args()
    try:
        if options.draw:
            from lm import composition  # matplotlib is for pictures alone

            results = json.loads(options.draw.read_text())
            print_table(results)
            picture = options.picture or options.draw.with_suffix(".png")
            print(f"\nwritten: {composition.save(results, picture)}")
            return
        preset = PRESETS[options.preset]
        changes = {name: getattr(options, name) for name in ("seeds", "rules", "corpora")}
        preset = dataclasses.replace(preset, **{k: v for k, v in changes.items() if v is not None})
        if options.steps is not None:
            recipe = dataclasses.replace(preset.recipe, steps=options.steps)
            preset = dataclasses.replace(preset, recipe=recipe)
        options.output.parent.mkdir(parents=True, exist_ok=True)
        results = run(preset, options)
    except (UserError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    options.output.write_text(json.dumps(results, separators=(",", ":")) + "\n")
    print_table(results)
    print(f"\nwritten: {options.output}")


if __name__ == "__main__":
    main()
