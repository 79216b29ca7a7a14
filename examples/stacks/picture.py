"""Learning curves of each stack, differences that teleportation makes, and pipelines in time."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

from stacks.methods import METHODS
from stacks.pipeline import SCHEMES

PALETTE = plt.get_cmap("tab20").colors


def save(results: dict[str, Any], path: Path) -> Path:
    stacks = list(dict.fromkeys(row["stack"] for row in results["rows"]))
    hard = [name for name in stacks if not name.startswith("residual")][-2:]
    draws = [(name, False) for name in stacks] + [(name, True) for name in hard]
    panels = len(draws) + 2
    columns = min(3, panels)
    rows = -(-panels // columns)
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    figure, axes = plt.subplots(
        rows, columns, figsize=(5 * columns, 4 * rows), layout="constrained", squeeze=False
    )
    axes = list(axes.flat)
    for axis, (name, seconds) in zip(axes, draws, strict=False):
        own = [row for row in results["rows"] if row["stack"] == name]
        _curves(axis, name, own, seconds=seconds)
    _differences(axes[len(draws)], results["comparisons"])
    _pipeline(axes[len(draws) + 1], results)
    for axis in axes[panels:]:
        axis.set_axis_off()
    for axis in axes[:panels]:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _curves(axis: Any, name: str, rows: list[dict[str, Any]], *, seconds: bool) -> None:
    for row in rows:
        curve = np.mean(row["accuracy"], 0)
        last = row["seconds_per_run"] if seconds else row["every"] * len(curve)
        index = list(METHODS).index(row["method"])
        axis.plot(
            last * np.arange(1, len(curve) + 1) / len(curve), curve, lw=1.3, label=row["method"],
            ls="--" if METHODS[row["method"]].against else "-", color=PALETTE[index % 20],
        )  # fmt: skip
    unit = "seconds a run" if seconds else "step"
    axis.set(title=name, xlabel=unit, ylabel="test accuracy", ylim=(0, 1))
    axis.legend(frameon=False, fontsize=6, ncols=2)


def _differences(axis: Any, comparisons: list[dict[str, Any]]) -> None:
    chosen = [c for c in comparisons if c["measure"] == "end"]
    for i, c in enumerate(chosen):
        colour = "#dd6b20" if c["confirmed"] else "0.45"
        axis.errorbar(c["mean"], -i, xerr=2 * c["error"], fmt="o", ms=3, lw=1, color=colour)
    axis.axvline(0, color="0.7", lw=0.8, zorder=0)
    axis.set_yticks(
        [-i for i in range(len(chosen))],
        [f"{c['stack']}: {c['method']} - {c['against']}" for c in chosen],
        fontsize=5,
    )
    axis.set(
        title="accuracy gained at the end, ±2 standard errors\n(orange: confirmed on fresh seeds)"
    )


def _pipeline(axis: Any, results: dict[str, Any]) -> None:
    colours = dict(zip(SCHEMES, ("0.2", "#2b6cb0", "#ecc94b", "#dd6b20", "#c53030"), strict=True))
    delays = {row["delay"] or 0 for row in results["pipeline"]}
    for row in results["pipeline"]:
        curve = np.mean(row["nats"], 0)
        time = row["units"] * row["every"] * np.arange(1, len(curve) + 1)
        longest = row["delay"] in (None, max(delays))
        axis.semilogy(
            time, curve, color=colours[row["method"]], lw=1.3, ls="-" if longest else ":",
            label=row["method"] + (f", delay {row['delay']}" if row["delay"] else ""),
        )  # fmt: skip
    axis.set(title="pipeline", xlabel="simulated time", ylabel="test nats")
    if results["pipeline"]:
        axis.legend(frameon=False, fontsize=6)
