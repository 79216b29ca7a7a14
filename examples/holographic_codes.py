"""Holographic codes: thresholds of erasure, and their classical cousin under a memory.

    python examples/holographic_codes.py                  # some minutes on two cores
    python examples/holographic_codes.py --preset smoke   # seconds

Codes. For each tiling, decoder and number of rings, one tolerance a sample (the largest erasure
probability that the central logical qubit survives) gives the whole curve of recovery; thresholds
are crossings of the curves of codes that follow one another in size, with bootstrap errors.

Recall. A memory of 128 associations (unit keys, unit values) in 32 KiB, of which a share is lost.
At equal bytes, scales included: 128 float32 slots as they are; 64 merged pairs of them twice, or
coded (`holography.protect`); all 128 in bfloat16 twice, with random parities, under a low-pass DCT,
or coded; all 128 in 4 bits, repeated or coded. Queries are noisy keys; recall is the share of
queries whose output is nearest to the right value. Codes are compared with copies in the same
precision draw by draw, of which the errors are.

What it finds. "pentagon-hexagon" has a greedy threshold of 0.2754(4) where pentagons are outermost
(an even number of rings, rate 0.299) and of 0.338(1) where hexagons are (odd, rate 0.088): a last
ring of hexagons, of which any three legs give the one or two that the pentagons below need, adds
physical qubits and no logical ones. The published 0.26 lies a little below all crossings of the
former (0.280, 0.272, 0.275, 0.275 as codes grow). Optimal decoding lifts them to 0.311(2) (2 and
4 rings) and 0.374(5) (1 and 3). "single-qubit" is at 0.473(1) greedy, and optimal at 1/2: 0.502(4);
of what is lost and what is left exactly one has the qubit. "pentagon" has none: a larger code
gains nothing at any probability.

Of the memories the coded ones lose nothing until the code's share is lost: in bfloat16 recall is 1
with half of the rows lost, where float32 slots as they are have 0.5 and two copies 0.76 (0.943 with
a quarter lost: 0.057(3) less). Random parities do as well up to a half. Precision that recall does
not need is what pays for the code: where slots must be merged to make room for it, the merge costs
more than it saves. Seven copies in 4 bits are 1 at a quarter lost too; the code in 4 bits is ahead
of them from a half on, by 0.007(2), and by 0.212(5) at 80%, where it still has 1. Recall asks
little of the numbers: a damped low-pass DCT holds it as well under random losses, but is singular
(condition number 8e7) once a tenth of its rows is lost in a row, where the code has 2.1.
"""

import argparse
import json
import os
import platform
from pathlib import Path

# Threads of many small factorisations only wait for one another; before JAX loads LAPACK.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
from erasure_lab import picture, recall, tilings

PRESETS = {  # samples of each decoder, rings at most, draws of memories
    "smoke": ({"optimal": 100, "greedy": 100}, 2, 2),
    "cpu": ({"optimal": 1500, "greedy": 4500}, None, 32),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=tuple(PRESETS), default="cpu")
    parser.add_argument("--output", type=Path, default=Path("holographic_codes.png"))
    parser.add_argument("--results", type=Path, default=Path("holographic_codes.json"))
    arguments = parser.parse_args()
    samples, most, draws = PRESETS[arguments.preset]
    report = {
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "jax": jax.__version__,
        "preset": arguments.preset,
        "samples": samples,
        "draws": draws,
        "rates": tilings.rates(),
        "erasures": tilings.erasures(samples, most),
        "recall": recall.robustness(draws),
        "conditions": recall.conditions(min(draws, 20)),
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(report, indent=1) + "\n")
    picture.draw(report, arguments.output)
    print(f"wrote {arguments.results} and {arguments.output}")


if __name__ == "__main__":
    main()
