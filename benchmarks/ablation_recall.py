"""The scattering gate against a sliding window of equal kept share, on recall at two contexts.

    python benchmarks/ablation_recall.py --preset smoke    # seconds a row
    python benchmarks/ablation_recall.py                   # minutes a row on two cores
    python benchmarks/ablation_recall.py --preset gpu      # longer training, for a GPU

Two kinds of sequences. near: those of `recall.py`, whose pairs come again and again, mostly within
the window's reach. far: a table of pairs, each shown twice, fills the first quarter; its keys are
asked once each in the last quarter, beyond the window's reach; filler lies between. The rows have
equal parameters within 1%, the same sequences at the same seed, and all seeds in one program;
contexts grow in stages, the window's width is that of the last. Rows go to
benchmarks/results/ablation_recall.json one by one; those that are there are not run again.
"""

import argparse
import dataclasses
import fnmatch
import json
import math
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

import recall
from kv.results import environment, mean_error, merge, paired, save
from lm.ablations import window
from lm.rows import match_hidden, parameters
from recall import Task

from physnet.models import bk_core

RESULTS = Path(__file__).parent / "results" / "ablation_recall.json"
SHARE, BAND, WIDTH = 0.5, 8, 64
KINDS = ("near", "far")
REFERENCE = "gate"


def far(task: Task, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    """Tokens (batch, context) and the value to name at each place, -1 where there is none."""
    quarter = task.context // 8  # places for two tokens in a quarter

    def one(key):
        parts = jax.random.split(key, 6)
        keys = task.filler + jax.random.permutation(parts[0], task.keys)[: task.pairs]
        values = jax.random.randint(parts[1], (task.pairs,), 0, task.values, jnp.int32)
        values = values + task.filler + task.keys
        tokens = jax.random.randint(parts[2], (task.context,), 0, task.filler, jnp.int32)
        shown = 2 * jax.random.permutation(parts[3], quarter)[: 2 * task.pairs]
        asked = task.context - 2 * quarter
        asked = asked + 2 * jax.random.permutation(parts[4], quarter)[: task.pairs]
        twice = jnp.concatenate([keys, keys]), jnp.concatenate([values, values])
        tokens = tokens.at[shown].set(twice[0]).at[shown + 1].set(twice[1])
        order = jax.random.permutation(parts[5], task.pairs)
        tokens = tokens.at[asked].set(keys[order])
        return tokens, jnp.full_like(tokens, -1).at[asked].set(values[order])

    return jax.vmap(one)(jax.random.split(key, batch))


DRAWS = {"near": recall.sequences, "far": far}


def stages(preset: str, context: int) -> tuple[tuple[Task, ...], int]:
    """Growing contexts up to this one, and the steps of a compiled call."""
    if preset == "smoke":
        small = {"pairs": 2, "keys": 8, "values": 4, "filler": 4, "batch": 4, "steps": 4}
        return (Task(context=context, **small),), 4
    lengths = [c for c in (64, 256, 1024) if c < context] + [context]
    steps = {"cpu": (600, 150, 60, 30), "gpu": (3000, 800, 400, 300)}[preset]
    found = []
    for index, length in enumerate(lengths):
        batch, pairs = max(2, 4096 // length), min(32, max(4, length // 16))
        found.append(Task(context=length, pairs=pairs, batch=batch, steps=steps[index]))
    return tuple(found), {"cpu": 30, "gpu": 100}[preset]


def models(task: Task, width: int) -> dict[str, bk_core.BKCoreConfig]:
    """Rows of equal size; the reference is the gate."""
    full = bk_core.BKCoreConfig(
        task.vocab_size,
        layers=2,
        heads=2,
        width=width,
        chains=16 if width >= 64 else 4,
        density=SHARE,
        local_window=BAND,
    )
    near = window(task.context, SHARE)
    changes: dict[str, dict[str, Any]] = {
        "gate": {},
        "window": {"density": 0.0, "local_window": near},
        "soft gate": {"soft_gate": True},
        "all pairs": {"density": 1.0},
        "mixer only": {"attention": False},
        "gate, no mixer": {"mixer": False},
        "window, no mixer": {"density": 0.0, "local_window": near, "mixer": False},
    }
    target = parameters(bk_core.init, full)
    return {
        name: match_hidden(bk_core.init, dataclasses.replace(full, **change), target)
        for name, change in changes.items()
    }


def run(kind: str, context: int, name: str, preset: str, seeds: int) -> dict[str, Any]:
    """One row, all seeds side by side."""
    plan, call = stages(preset, context)
    config = models(plan[-1], 32 if preset == "smoke" else WIDTH)[name]
    began = time.perf_counter()
    numbers = jnp.arange(seeds, dtype=jnp.int32)
    program = recall.accuracy(config, plan, call, DRAWS[kind]).lower(numbers).compile()
    compiled = time.perf_counter()
    right, kept, training = (np.asarray(x, np.float64) for x in program(numbers))
    return {
        "kind": kind,
        "context": context,
        "row": name,
        "parameters": parameters(bk_core.init, config),
        "local_window": config.local_window,
        "accuracy": right[:, -1].tolist(),
        "kept_pairs": float(kept[:, -1].mean()),
        "curve": right.mean(0).tolist(),
        "training": training.mean(0).tolist(),
        "compilation_seconds": compiled - began,
        "seconds": time.perf_counter() - compiled,
    }


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return row["kind"], row["context"], row["row"]


def load(path: Path, settings: dict[str, Any]) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    found = json.loads(path.read_text())
    if found["settings"] != json.loads(json.dumps(settings)):
        raise SystemExit(f"{path} holds rows of other settings: give another --output")
    return found["rows"]


def write(report: dict[str, Any]) -> str:
    """A table; differences to the gate are paired, seed by seed."""
    lines = [
        "| kind | context | row | right | less the gate's | pairs kept |",
        "|---|---:|---|---:|---:|---:|",
    ]
    found = {identity(row): row for row in report["rows"]}
    for (kind, context, name), row in found.items():
        right = "{:.3f} ± {:.3f}".format(*mean_error(row["accuracy"]))
        gate, apart = found.get((kind, context, REFERENCE)), ""
        if gate is not None and name != REFERENCE:
            apart = "{:+.3f} ± {:.3f}".format(*paired(row, gate, "accuracy"))
        lines.append(
            f"| {kind} | {context} | {name} | {right} | {apart} | {row['kept_pairs']:.0%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=("smoke", "cpu", "gpu"), default="cpu")
    parser.add_argument("--contexts", type=int, nargs="+", help="default 256 2048")
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th row from the i-th on")
    parser.add_argument("--only", nargs="+", default=["*"], help="names of rows, or patterns")
    parser.add_argument(
        "--budget", type=float, default=math.inf, help="seconds, after which no row begins"
    )
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--merge", type=Path, nargs="+", help="reports to merge instead of running")
    options = parser.parse_args()
    if options.merge:
        report = merge(options.merge, identity)
        save(options.output, report)
        print(write(report))
        return
    contexts = options.contexts or ([64] if options.preset == "smoke" else [256, 2048])
    settings = {"preset": options.preset, "seeds": options.seeds, "width": WIDTH, "share": SHARE}
    rows = load(options.output, settings)
    names = list(models(Task(), WIDTH))
    part, parts = map(int, options.shard.split("/"))
    # The gate and the window first, at every context and of every kind.
    work = [(kind, at, name) for name in names for at in contexts for kind in options.kinds]
    began = time.perf_counter()
    for kind, context, name in work[part::parts]:
        wanted = any(fnmatch.fnmatchcase(name, pattern) for pattern in options.only)
        if not wanted or (kind, context, name) in set(map(identity, rows)):
            continue
        if time.perf_counter() - began > options.budget:
            print("the budget is spent; the rows that are missing will be run next time")
            break
        row = run(kind, context, name, options.preset, options.seeds)
        rows.append(row)
        print(
            f"{kind} {context} {name}: {np.round(row['accuracy'], 3)}, kept "
            f"{row['kept_pairs']:.0%}, {row['seconds']:.1f} s",
            flush=True,
        )
        save(options.output, {**environment(), "settings": settings, "rows": rows})
    print(write({"rows": rows}))


if __name__ == "__main__":
    main()
