"""Learning curves of each stack, differences that teleportation makes, and pipelines in time."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

from stacks.methods import METHODS
from stacks.pipeline import MICROBATCHES, SCHEMES, units_per_step

PALETTE = [plt.get_cmap(name)(i) for name in ("tab10", "Dark2", "Set2") for i in range(8)]


def save(results: dict[str, Any], path: Path) -> Path:
    stacks = list(dict.fromkeys(row["stack"] for row in results["rows"]))
    hard = [name for name in stacks if not name.startswith("residual")][:2]
    draws = [(name, False) for name in stacks] + [(name, True) for name in hard]
    lines = list(dict.fromkeys(row["stack"] for row in results["pipeline"]))
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    rows = -(-(len(draws) + 1) // 4)
    figure = plt.figure(figsize=(15, 3.2 * rows + 5), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(3.2 * rows, 5))
    axes = list(above.subplots(rows, 4, squeeze=False).flat)
    for axis, (name, seconds) in zip(axes, draws, strict=False):
        own = [row for row in results["rows"] if row["stack"] == name]
        _curves(axis, name, own, seconds=seconds)
    _legend(axes[len(draws)], {row["method"] for row in results["rows"]})
    for axis in axes[len(draws) :]:
        axis.set_axis_off()
    others = list(below.subplots(1, 1 + len(lines), squeeze=False).flat)
    _differences(others[0], results["comparisons"])
    for axis, name in zip(others[1:], lines, strict=True):
        _pipeline(axis, [row for row in results["pipeline"] if row["stack"] == name])
    for axis in axes + others:
        axis.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _curves(axis: Any, name: str, rows: list[dict[str, Any]], *, seconds: bool) -> None:
    for row in rows:
        curve = np.mean(row["accuracy"], 0)
        last = row["seconds_per_run"] if seconds else row["every"] * len(curve)
        axis.plot(
            last * np.arange(1, len(curve) + 1) / len(curve), curve, lw=1.3, **_style(row["method"])
        )
    unit = "seconds a run" if seconds else "step"
    axis.set(title=name, xlabel=unit, ylabel="test accuracy", ylim=(0, 1))
    axis.locator_params(axis="x", nbins=5)


def _style(method: str) -> dict[str, Any]:
    index = list(METHODS).index(method)
    dashed = METHODS[method].against is not None
    return {"ls": "--" if dashed else "-", "color": PALETTE[index % len(PALETTE)]}


def _legend(axis: Any, methods: set[str]) -> None:
    """All methods once, dashed where they teleport."""
    for method in METHODS:
        if method in methods:
            axis.plot([], [], label=method, **_style(method))
    axis.legend(frameon=False, fontsize=7, ncols=2, loc="center")


def _differences(axis: Any, comparisons: list[dict[str, Any]]) -> None:
    chosen = [c for c in comparisons if c["measure"] == "end"]
    for i, c in enumerate(chosen):
        colour = "#dd6b20" if c["confirmed"] else "0.45"
        axis.errorbar(c["mean"], -i, xerr=2 * c["error"], fmt="o", ms=3, lw=1, color=colour)
    axis.axvline(0, color="0.7", lw=0.8, zorder=0)
    axis.set_yticks(
        [-i for i in range(len(chosen))],
        [f"{c['stack']}: {c['method']} - {c['against']}" for c in chosen],
        fontsize=6,
    )
    axis.set(
        title="accuracy gained at the end, ±2 standard errors\n(orange: confirmed on fresh seeds)"
    )


def _pipeline(axis: Any, rows: list[dict[str, Any]]) -> None:
    """Time to the target: the mean, and each run; hollow where it missed, at the horizon."""
    colours = dict(
        zip(
            SCHEMES,
            ("0.2", "#2b6cb0", "#63b3ed", "#9c4221", "#c05621", "#dd6b20", "#ecc94b"),
            strict=True,
        )
    )
    labels = []
    for row in rows:
        for parts in MICROBATCHES if row["method"] == "synchronous" else (None,):
            units = units_per_step(row["method"], row["stages"], *([parts] if parts else []))
            times = np.array([units * s if s else row["horizon"] for s in row["steps"]], float)
            there = np.array([s is not None for s in row["steps"]])
            y, colour = -len(labels), colours[row["method"]]
            axis.barh(y, times.mean(), color=colour, height=0.7, alpha=0.5)
            spread = y + np.linspace(-0.2, 0.2, len(times))
            axis.scatter(times[there], spread[there], s=10, color=colour, zorder=2)
            axis.scatter(times[~there], spread[~there], s=10, fc="white", ec=colour, zorder=2)
            detail = f"{parts} microbatches" if parts else f"delay {row['delay']}"
            steps = [s for s in row["steps"] if s is not None]
            taken = f"{np.mean(steps):.0f} steps" if steps else "missed"
            if 0 < len(steps) < len(times):
                taken += f" ({len(steps)}/{len(times)})"
            labels.append(f"{row['method']}, {detail}: {taken}")
    axis.set_yticks([-i for i in range(len(labels))], labels, fontsize=7)
    axis.set(
        title=f"{rows[0]['stack']}\ntime to {rows[0]['target']} nats (hollow: missed)",
        xlabel="passes of a batch through a stage",
    )
