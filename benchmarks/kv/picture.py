"""Bytes against recall and bits per character, and what is left when entries get lost."""

from pathlib import Path
from typing import Any

from kv.losses import WAYS
from kv.results import mean_error
from kv.tasks import KINDS

# Name of a family: colour, marker.
STYLES = {
    "full cache": ("black", "*"),
    "boundary, scored 4": ("tab:red", "o"),
    "boundary, scored 2": ("firebrick", "s"),
    "boundary, scored bf16": ("salmon", "D"),
    "boundary, scored biased 4": ("tab:pink", "o"),
    "boundary, scored biased aged 4": ("crimson", "P"),
    "boundary, recent 4": ("tab:orange", "o"),
    "boundary, recent biased 4": ("peru", "o"),
    "boundary, means": ("gold", "v"),
    "window + sinks": ("tab:blue", "o"),
    "window + sinks, 4 bits": ("tab:cyan", "s"),
    "window + sinks, 2 bits": ("steelblue", "v"),
    "bits": ("tab:green", "P"),
    "H2O": ("tab:purple", "^"),
    "SnapKV": ("tab:brown", "<"),
    "SnapKV, shown the questions": ("tab:brown", ">"),
    "SVD": ("tab:gray", "x"),
    "low rank": ("tab:gray", "X"),
    "log-linear levels": ("tab:olive", "d"),
}


def family(row: dict[str, Any]) -> str:
    name = row["method"]
    return "bits" if name.endswith("bits") and "," not in name else name


def panel(axis: Any, rows: list[dict[str, Any]], name: str, title: str) -> None:
    full = max((row["bytes"] for row in rows), default=1)
    for style, (colour, marker) in STYLES.items():
        for loop in (True, False):
            own = [r for r in rows if family(r) == style and r["loop"] is loop]
            if not own:
                continue
            own.sort(key=lambda row: row["bytes"])
            values = [mean_error(row[name]) for row in own]
            label = "2, 3, 4 bits" if style == "bits" else style
            axis.errorbar(
                [row["bytes"] / 1024 for row in own],
                [m for m, _ in values],
                [e for _, e in values],
                color=colour,
                marker=marker,
                markersize=5,
                linewidth=1,
                linestyle="-" if loop else ":",
                markerfacecolor=colour if loop else "none",
                label=label if loop else f"{label} (post hoc)",
            )
    axis.axvline(full / 8 / 1024, color="black", linewidth=0.6, linestyle="--")
    axis.set(title=title, xscale="log", xlabel="KiB of a head's cache (dashed: 1/8 of the full)")
    ticks = [2**k for k in range(20) if rows and 0.5 <= 2**k * 1024 * 64 / full <= 64]
    axis.set_xticks(ticks, map(str, ticks))
    axis.minorticks_off()


def lost(axis: Any, rows: list[dict[str, Any]], name: str, title: str) -> None:
    """The three ways at equal bytes, over the share that is lost."""
    for way, marker in zip(WAYS, "vso", strict=True):
        size = max((r["bytes"] for r in rows if r["way"] == way), default=0)
        own = sorted(
            (r for r in rows if r["way"] == way and r["bytes"] == size), key=lambda r: r["lost"]
        )
        if own:
            values = [mean_error(row[name]) for row in own]
            share = [row["lost"] for row in own]
            axis.errorbar(share, *zip(*values, strict=True), marker=marker, label=way)
    axis.set(title=title, xlabel="share of packets lost")


def draw(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows = [row for row in report["rows"] if row.get("way") is None]
    gone = [row for row in report["rows"] if row.get("way") is not None]
    kinds = {d: [r for r in rows if r["data"] == d] for d in ("recall", "text")}
    figure, axes = plt.subplots(2, 4, figsize=(18, 8.5), layout="constrained")
    titles = ("associative recall", "copying", "needles", "tables without filler")
    for axis, kind, title in zip(axes.flat, KINDS, titles, strict=False):
        panel(axis, kinds["recall"], kind, f"{title}: right answers")
    panel(axes[1, 0], kinds["text"], "bits", "Shakespeare: bits per character")
    bits = [mean_error(r["bits"])[0] for r in kinds["text"] if "means" not in r["method"]]
    if bits:
        axes[1, 0].set_ylim(min(bits) - 0.01, sorted(bits)[int(0.9 * len(bits))] + 0.02)
    lost(axes[1, 1], [r for r in gone if r["data"] == "recall"], "recall", "recall, entries lost")
    lost(axes[1, 2], [r for r in gone if r["data"] == "text"], "bits", "bits, entries lost")
    axes[1, 3].axis("off")
    for axis in axes[1, 1:3]:
        if axis.has_data():
            axis.legend(frameon=False)
    handles, labels = axes[0, 0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
