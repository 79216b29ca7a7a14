"""Rates, curves of recovery and thresholds of the holographic codes."""

import itertools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from physnet.holography import codes

Row = dict[str, Any]
Families = dict[str, tuple[Any, dict[Any, tuple[int, ...]]]]
FAMILIES: Families = {  # kind, and of each decoder the rings at which it ends alike
    "pentagon": ("pentagon", {"greedy": (1, 2, 3, 4, 5), "optimal": (1, 2, 3, 4)}),
    "single-qubit": ("single-qubit", {"greedy": (1, 2, 3, 4, 5), "optimal": (1, 2, 3)}),
    "pentagon-hexagon, pentagons last": (
        "pentagon-hexagon",
        {"greedy": (0, 2, 4, 6, 8), "optimal": (0, 2, 4)},
    ),
    "pentagon-hexagon, hexagons last": (
        "pentagon-hexagon",
        {"greedy": (1, 3, 5, 7), "optimal": (1, 3)},
    ),
}


def short(values: Any) -> list[float]:
    """To four digits."""
    return np.asarray(values, float).round(4).tolist()


def erasures(samples: dict[str, int], most: int | None) -> list[Row]:
    """Curves and thresholds of every family and decoder, from so many samples by the decoder."""
    grid = jnp.linspace(0, 0.7, 36, dtype=jnp.float32)
    rows = []
    for name, (kind, by_decoder) in FAMILIES.items():
        for decoder, rings in by_decoder.items():
            start = time.perf_counter()
            family = [codes.happy_code(kind, r) for r in rings if most is None or r <= most]
            many = samples[decoder]
            row = {"family": name, "decoder": decoder, "samples": many, "curves": []}
            for code in family:
                key = jax.random.key(code.layers)
                rate, error = codes.erasure_recovery(
                    code, grid, key=key, samples=many, decoder=decoder, return_error=True
                )
                row["curves"].append({
                    "rings": code.layers, "n": code.physical, "k": code.logical,
                    "erasure": short(grid), "rate": short(rate), "error": short(error),
                })  # fmt: skip
            if len(family) > 1:
                found = codes.erasure_threshold(
                    family, key=jax.random.key(99), samples=many, decoder=decoder
                )
                row["thresholds"] = {k: short(v) for k, v in found._asdict().items()}
                row["pairs"] = [[a.layers, b.layers] for a, b in itertools.pairwise(family)]
                crossings = ", ".join(
                    f"{a}-{b}: {p:.4f} ± {e:.4f} (gain {g:.1f})"
                    for (a, b), p, e, g in zip(row["pairs"], *found, strict=True)
                )
                print(f"{name:34}{decoder:8} {crossings}  [{time.perf_counter() - start:.0f} s]",
                      flush=True)  # fmt: skip
            rows.append(row)
    return rows


def rates() -> list[Row]:
    """Logical over physical qubits; the limits are those of infinitely many rings."""
    limits = {"pentagon": 5**-0.5, "pentagon-hexagon, pentagons last": 0.299,
              "pentagon-hexagon, hexagons last": 0.088, "single-qubit": 0.0}  # fmt: skip
    rows = []
    for name, (kind, _) in FAMILIES.items():
        for rings in (5, 7) if "hexagons last" in name else (4, 6):
            code = codes.happy_code(kind, rings)
            rows.append({"family": name, "rings": rings, "k": code.logical, "n": code.physical,
                         "rate": code.rate, "published": limits[name]})  # fmt: skip
            print(f"{name:34}{rings} rings: {code.logical:5} / {code.physical:5} = {code.rate:.4f}"
                  f"   published {limits[name]:.3f}")  # fmt: skip
    return rows
