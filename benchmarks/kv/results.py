"""Rows on disk: written one by one, taken up again, merged, compared."""

import json
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np


def environment() -> dict[str, Any]:
    return {
        "device": jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "python": platform.python_version()},
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def identity(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row.get(k) for k in ("data", "method", "loop", "ratio", "way", "lost"))


def load(path: Path, settings: dict[str, Any], kinds: tuple[str, ...]) -> list[dict[str, Any]]:
    """Rows that the same settings have measured already; those of a kind of data have their own."""
    if not path.exists():
        return []
    old, new = json.loads(path.read_text()), json.loads(json.dumps(settings))
    same = [kind for kind in kinds if old["settings"].pop(kind) == new.pop(kind)]
    return [row for row in old["rows"] if row["data"] in same] if old["settings"] == new else []


def save(path: Path, report: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    spare = path.with_suffix(".part")
    spare.write_text(json.dumps(report, indent=1) + "\n")
    spare.replace(path)


def merge(paths: list[Path], identity: Callable[..., Any] = identity) -> dict[str, Any]:
    """One report of several of the same settings; a row that comes twice is kept once.

    `identity(row)` is what no two rows share.
    """
    reports = [json.loads(path.read_text()) for path in paths]
    for path, report in zip(paths, reports, strict=True):
        if report["settings"] != reports[0]["settings"]:
            raise SystemExit(f"{path} has other settings than {paths[0]}")
    rows = {identity(row): row for report in reports for row in report["rows"]}
    return {**reports[0], "rows": list(rows.values())}


def mean_error(values: list[float]) -> tuple[float, float]:
    """Mean over seeds and its standard error."""
    x = np.asarray(values, np.float64)
    return float(x.mean()), float(x.std(ddof=1) / len(x) ** 0.5) if len(x) > 1 else 0.0


def paired(row: dict[str, Any], other: dict[str, Any], name: str) -> tuple[float, float]:
    """Difference of two rows, seed by seed: mean and standard error."""
    return mean_error([a - b for a, b in zip(row[name], other[name], strict=True)])


def front(rows: list[dict[str, Any]], name: str, *, least: bool = False) -> list[dict[str, Any]]:
    """Rows that no other one beats with as few bytes: the Pareto front, by bytes."""
    sign = -1 if least else 1
    found: list[dict[str, Any]] = []
    for row in sorted(rows, key=lambda r: (r["bytes"], -sign * mean_error(r[name])[0])):
        if not found or sign * mean_error(row[name])[0] > sign * mean_error(found[-1][name])[0]:
            found.append(row)
    return found
