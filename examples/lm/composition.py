"""A picture of what experts are made of: loads by class, and how far they tell classes apart."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm.mixtures import RULES

COLOURS = ("#4c6a92", "#c8553d", "#e0a458", "#5f8a6b", "#8a6fa8", "#6fb0b8", "#b9b9b9")
INK = "#2b2b2b"


def save(results: dict[str, Any], output: Path) -> Path:
    """Draw the results of `examples/specialisation.py` into a PNG."""
    output.parent.mkdir(parents=True, exist_ok=True)
    draw(results).savefig(output)
    return output


def draw(results: dict[str, Any]) -> Figure:
    """For each text a row: the experts of the last layer for each rule, and NMI of all rules."""
    corpora = results["corpora"]
    with_experts = [row for row in results["rows"] if "here" in row["seeds"][0]]
    columns = max(sum(row["corpus"] == name for row in with_experts) for name in corpora)
    size = (2.6 * columns + 4.2, 3.6 * len(corpora))
    figure = Figure(figsize=size, dpi=110, layout="constrained")
    grid = figure.add_gridspec(len(corpora), columns + 1, width_ratios=[1.0] * columns + [1.5])
    for line, (name, facts) in enumerate(corpora.items()):
        rows = [row for row in with_experts if row["corpus"] == name]
        first = None
        for column, row in enumerate(rows):
            axes = figure.add_subplot(grid[line, column], sharey=first)
            first = first or axes
            _experts(axes, np.array(row["seeds"][0]["here"][-1]), facts["classes"])
            axes.set_title(RULES[row["rule"]], fontsize=9, color=INK)
            if column == 0:
                axes.set_ylabel(f"{facts['name']}\n% of the words", color=INK, fontsize=9)
            else:
                axes.tick_params(labelleft=False)
        handles, labels = first.get_legend_handles_labels()
        axes = figure.add_subplot(grid[line, columns])
        _information(axes, rows)
        axes.legend(
            handles[::-1], labels[::-1], frameon=False, fontsize=8, loc="upper left",
            bbox_to_anchor=(1.0, 1.0),
        )  # fmt: skip
    figure.suptitle(
        "Which expert of the last layer takes which words (one seed), and what experts tell of "
        "classes (mean over layers)",
        fontsize=10,
        color=INK,
    )
    return figure


def _experts(axes: Axes, table: np.ndarray, classes: list[str]) -> None:
    """Stacked shares of each expert, those that take most of one class side by side."""
    kind = (table / np.maximum(table.sum(1, keepdims=True), 1)).argmax(1)
    share = 100 * table[np.lexsort((-table.sum(1), kind))] / table.sum()
    place, base = np.arange(len(share)), np.zeros(len(share))
    for column, name in enumerate(classes):
        axes.bar(place, share[:, column], 0.8, bottom=base, color=COLOURS[column], label=name)
        base += share[:, column]
    axes.set_xticks([])
    axes.set_xlabel("experts", color=INK, fontsize=9)
    _plain(axes)


def _information(axes: Axes, rows: list[dict[str, Any]]) -> None:
    place = np.arange(len(rows))[::-1]
    for shift, measure, colour, label in (
        (0.2, "nmi", COLOURS[0], "word here"),
        (-0.2, "nmi_next", COLOURS[2], "next word"),
    ):
        values = [row["mean"][measure] for row in rows]
        axes.barh(
            place + shift, [mean for mean, _ in values], 0.36, color=colour,
            xerr=[error or 0.0 for _, error in values], error_kw={"lw": 1.0}, label=label,
        )  # fmt: skip
        axes.annotate(
            label, (values[-1][0] + (values[-1][1] or 0.0), place[-1] + shift), xytext=(6, 0),
            textcoords="offset points", va="center", fontsize=7, color=INK,
        )  # fmt: skip
    axes.set_yticks(place, [row["rule"] for row in rows], fontsize=8)
    axes.set_xlabel("NMI of experts and classes", color=INK, fontsize=9)
    axes.set_xlim(0, 1.25 * max(row["mean"]["nmi"][0] for row in rows))
    _plain(axes)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#888888")
    axes.tick_params(colors=INK, labelsize=8, length=3)
