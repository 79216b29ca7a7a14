"""The runs of `ablation.py` on disk, and what they say: helps, costs or neither."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
from ablation_plan import Row
from kv.results import environment, save
from lm.settings import Settings
from scipy import stats

Report = dict[str, Any]


def about(settings: Settings, text: str) -> Report:
    """An empty report of runs with these settings."""
    return {
        **environment(),
        "settings": {
            "preset": settings.preset,
            "text": text,
            "training": dataclasses.asdict(settings.training),
            "sizes": dataclasses.asdict(settings.sizes),
            "transformer": dataclasses.asdict(settings.transformer),
            "bk": dataclasses.asdict(settings.bk),
        },
        "runs": [],
        "failed": {},
    }


def load(path: Path, empty: Report) -> Report:
    """The report there, which must be of the same settings, or an empty one."""
    if not path.exists():
        return empty
    found = json.loads(path.read_text())
    if found["settings"] != json.loads(json.dumps(empty["settings"])):
        raise SystemExit(f"{path} holds runs with other settings: give another --output")
    return found


def merge(paths: list[Path]) -> Report:
    """One report of several of the same settings; a run that comes twice is kept once."""
    reports = [json.loads(path.read_text()) for path in paths]
    for path, report in zip(paths, reports, strict=True):
        if report["settings"] != reports[0]["settings"]:
            raise SystemExit(f"{path} has other settings than {paths[0]}")
    runs = {(run["row"], run["seed"]): run for report in reports for run in report["runs"]}
    failed = {name: why for report in reports for name, why in report["failed"].items()}
    return {**reports[0], "runs": list(runs.values()), "failed": failed}


def missing(report: Report, row: str, seeds: list[int]) -> bool:
    done = {run["seed"] for run in report["runs"] if run["row"] == row}
    return not set(seeds) <= done


def of(report: Report, row: str) -> dict[int, Report]:
    """The runs of a row, by seed."""
    return {run["seed"]: run for run in report["runs"] if run["row"] == row}


def mean(runs: dict[int, Report], name: str) -> tuple[float, float]:
    """Mean over seeds and its standard error, NaN with one."""
    return _spread([run[name] for run in runs.values()])


def paired(runs: dict[int, Report], others: dict[int, Report], name: str) -> tuple[float, float]:
    """Mean difference over the seeds that both have, and its standard error."""
    common = sorted(runs.keys() & others.keys())
    return _spread([runs[seed][name] - others[seed][name] for seed in common])


def _spread(values: list[float]) -> tuple[float, float]:
    x = np.asarray(values, np.float64)
    error = float(x.std(ddof=1) / len(x) ** 0.5) if len(x) > 1 else float("nan")
    return float(x.mean()) if len(x) else float("nan"), error


def reach(seeds: int) -> float:
    """Standard errors that a mean of paired differences keeps within in 95% of cases."""
    return float(stats.t.ppf(0.975, seeds - 1))


def verdict(effect: float, error: float, seeds: int) -> str:
    """Of a mechanism that changes the loss by this, by Student's t of three seeds or more."""
    if seeds < 3:
        return "few seeds"
    if abs(effect) <= reach(seeds) * error:
        return "neither"
    return "helps" if effect < 0 else "costs"


@dataclasses.dataclass(frozen=True)
class Effect:
    """What a mechanism does to the loss beside others, and to the time and memory of a step."""

    mechanism: str
    reference: str
    nats: float
    error: float
    seeds: int
    time: float
    memory: float

    @property
    def verdict(self) -> str:
        return verdict(self.nats, self.error, self.seeds)


def effects(report: Report, rows: list[Row]) -> list[Effect]:
    """With less without, of every row that leaves out or adds one mechanism."""
    found = []
    for row in rows:
        own, other = of(report, row.name), of(report, row.reference)
        common = own.keys() & other.keys()
        if not row.mechanism or not common:
            continue
        own, other = ({seed: runs[seed] for seed in common} for runs in (own, other))
        sign = 1.0 if row.added else -1.0
        nats, error = paired(own, other, "nats")
        time, memory = (
            (mean(own, name)[0] / mean(other, name)[0]) ** sign
            for name in ("seconds", "temporary_bytes")
        )
        effect = sign * nats, error, len(common), time, memory
        found.append(Effect(row.mechanism, row.reference, *effect))
    return found


def write(report: Report, rows: list[Row]) -> str:
    """All rows, and each mechanism beside the others."""
    lines = [
        "| row | parameters | nats | less the reference's | pairs kept | tokens/s | MiB a step |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        own = of(report, row.name)
        if not own:
            continue
        first = next(iter(own.values()))
        nats = _shown(*mean(own, "nats"))
        apart = ""
        if row.reference != row.name and (other := of(report, row.reference)).keys() & own.keys():
            apart = _shown(*paired(own, other, "nats"), sign="+")
        lines.append(
            f"| {row.label} | {first['parameters']:,} | {nats} | {apart} "
            f"| {mean(own, 'kept_pairs')[0]:.0%} | {mean(own, 'tokens_per_s')[0]:,.0f} "
            f"| {mean(own, 'temporary_bytes')[0] / 2**20:,.0f} |"
        )
    lines += [
        "",
        "| mechanism | beside | nats with less without | | time | memory |",
        "|---|---|---:|---|---:|---:|",
    ]
    labels = {row.name: row.label for row in rows}
    for one in effects(report, rows):
        apart = _shown(one.nats, one.error, sign="+")
        lines.append(
            f"| {one.mechanism} | {labels[one.reference]} | {apart} | {one.verdict} "
            f"| {one.time:.2f}x | {one.memory:.2f}x |"
        )
    lines += [f"\n{name} failed: {why}" for name, why in report["failed"].items()]
    return "\n".join(lines)


def _shown(value: float, error: float, *, sign: str = "-") -> str:
    spread = f" ± {error:.4f}" if np.isfinite(error) else ""
    return f"{value:{sign}.4f}{spread}"


__all__ = ["about", "effects", "load", "mean", "merge", "missing", "of", "paired", "save", "write"]
