"""The three gradients side by side: accuracy, agreement, memory, time."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

COLOURS = {
    "frozen": "0.7",
    "backpropagation": "#2b6cb0",
    "echo": "#dd6b20",
    "finite": "#2f855a",
}


def draw(rows: list[dict[str, Any]], published: dict[str, dict[str, float]], file: Path) -> None:
    """Bars for each data set and kind of layer; lines are published accuracies."""
    groups = sorted({(row["data"], row["kind"]) for row in rows})
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    titles = {
        "accuracy": "test accuracy (bars: standard error)",
        "memory_mib": "temporary memory of an update, MiB",
        "seconds_per_update": "seconds an update",
    }
    for axis, (measure, title) in zip(axes, titles.items(), strict=True):
        for place, group in enumerate(groups):
            own = {r["gradient"]: r for r in rows if (r["data"], r["kind"]) == group}
            names = [name for name in COLOURS if name in own]
            for i, name in enumerate(names):
                value = np.asarray(own[name][measure], float)
                error = value.std(ddof=1) / value.size**0.5 if value.size > 1 else 0.0
                at = place + 0.2 * (i - (len(names) - 1) / 2)
                axis.bar(at, value.mean(), 0.18, yerr=error, color=COLOURS[name])
            if measure == "accuracy":
                for value in published.get(group[0], {}).values():
                    axis.plot([place - 0.45, place + 0.45], [value] * 2, color="0.3", lw=0.8)
        axis.set_xticks(range(len(groups)), ["\n".join(group) for group in groups])
        axis.set_title(title)
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylim(0, 1)
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS.values()]
    axes[2].legend(handles, list(COLOURS), frameon=False)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=110)
    plt.close(figure)
