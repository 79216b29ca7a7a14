"""A report in words: tables, Pareto fronts, differences seed by seed."""

from typing import Any

from kv.losses import WAYS
from kv.results import front, mean_error, paired
from kv.tasks import KINDS

OURS = "boundary"


def label(row: dict[str, Any]) -> str:
    return row["method"] + ("" if row["loop"] else ", post hoc")


def value(values: list[float]) -> str:
    return "{:.3f} ± {:.3f}".format(*mean_error(values))


def table(rows: list[dict[str, Any]], names: tuple[str, ...]) -> str:
    lines = [f"{'':36}{'ratio':>6}{'bytes':>8}  " + "".join(f"{name:>16}" for name in names)]
    whole = max(row["bytes"] for row in rows)
    for row in sorted(rows, key=lambda r: (label(r), -r["bytes"])):
        cells = "".join(f"{value(row[name]):>16}" for name in names)
        lines.append(f"{label(row):36}{whole / row['bytes']:6.1f}{row['bytes']:8}  {cells}")
    return "\n".join(lines)


def fronts(rows: list[dict[str, Any]], name: str, *, least: bool = False) -> str:
    found = front(rows, name, least=least)
    parts = (f"{label(r)} ({r['bytes']} B: {mean_error(r[name])[0]:.3f})" for r in found)
    return f"front of {name}: " + "; ".join(parts)


def against(rows: list[dict[str, Any]], name: str) -> list[str]:
    """Each row of ours against every peer that was given as many bytes."""
    lines = []
    for own in (r for r in rows if r["method"].startswith(OURS)):
        for peer in rows:
            if peer["ratio"] == own["ratio"] and not peer["method"].startswith(OURS):
                mean, error = paired(own, peer, name)
                lines.append(
                    f"{name}, {own['ratio']:.0f}x: {label(own)} - {label(peer)}: "
                    f"{mean:+.4f} ± {error:.4f}"
                )
    return lines


def lost(rows: list[dict[str, Any]], name: str) -> list[str]:
    """Coded against the other ways at equal bytes, by the share that is lost."""
    lines = []
    for coded in (r for r in rows if r["way"] == "coded"):
        for way in WAYS[:2]:
            for peer in rows:
                same = abs(peer["bytes"] / coded["bytes"] - 1) < 0.02
                if peer["way"] == way and peer["lost"] == coded["lost"] and same:
                    mean, error = paired(coded, peer, name)
                    lines.append(
                        f"{name}, {coded['lost']:.0%} lost, {coded['bytes']} B: coded "
                        f"{value(coded[name])}, - {way}: {mean:+.4f} ± {error:.4f}"
                    )
    return lines


def write(report: dict[str, Any]) -> str:
    lines = []
    for data, names, least in (("recall", (*KINDS, "mean"), False), ("text", ("bits",), True)):
        rows = [r for r in report["rows"] if r["data"] == data]
        gone = [r for r in rows if r.get("way") is not None]
        rows = [r for r in rows if r.get("way") is None]
        if not rows:
            continue
        lines += [f"\n{data}", table(rows, names)]
        fair = [r for r in rows if "shown" not in r["method"]]
        lines += [fronts(fair, name, least=least) for name in names]
        lines += against(fair, names[-1])
        lines += [line for name in names[:1] for line in lost(gone, name)]
    return "\n".join(lines)
