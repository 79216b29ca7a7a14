"""What information_density.py reports: the verdict, the tables and the picture."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ensemble import spread

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

TARGETS = {"received": "attention received", "gradient": "gradient norm"}
BLUE, ORANGE, GREY, GREEN = "#2b6cb0", "#dd6b20", "0.6", "#2f855a"


def verdict(rows: list[dict]) -> str:
    """Whether hiding the low scores hurts least, by paired differences over seeds."""
    cost = {row["hidden"]: np.array(row["above_whole_by_seed"]) for row in rows}
    low, low_error = spread(cost["random"] - cost["lowest score"])
    high, high_error = spread(cost["highest score"] - cost["random"])
    sentence = (
        f"hiding the lowest scores costs {low:+.4f} +- {low_error:.4f} nats less than hiding "
        f"random tokens, hiding the highest {high:+.4f} +- {high_error:.4f} more"
    )
    if low > 2 * low_error and high > 2 * high_error:
        return f"a low score means little information: {sentence}"
    if low < -2 * low_error and high < -2 * high_error:
        return f"the score is turned around, a low one means much information: {sentence}"
    return f"the score does not order tokens by information: {sentence}"


def show(title: str, found: list[dict], rows: list[dict], sentence: str) -> None:
    print(
        f"\n{title}\n{'rank correlation':22} {'with':20} {'all tokens':>19} {'same position':>19}"
    )
    for row in found:
        if row["at_equal_position"]:
            continue
        line = f"{row['predictor']:22} {TARGETS[row['target']]:20} {_pm(row)}"
        for other in found:
            same = all(other[k] == row[k] for k in ("predictor", "target"))
            if same and other["at_equal_position"]:
                layers = " ".join(f"{x:+.2f}" for x in other["by_layer"])
                line += f" {_pm(other)}   by layer {layers}"
        print(line)
    print(f"{'hidden half':22} {'nats':>8} {'above the whole':>19} {'kept pairs':>11}")
    for row in rows:
        print(
            f"{row['hidden']:22} {row['nats']:8.4f} {row['above_whole']:+9.4f} +- "
            f"{row['above_whole_error']:.4f} {row['kept_share']:10.1%}"
        )
    print(sentence)


def _pm(row: dict) -> str:
    return f"{row['mean']:+9.3f} +- {row['error']:.3f}"


def draw(report: dict[str, Any], titles: list[str], output: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout="constrained")
    first = titles[0]
    colors = {"score": BLUE, "key norm": ORANGE, "frequency": GREEN, "random": GREY}
    for axis, (target, label) in zip(axes, TARGETS.items(), strict=False):
        for row in report[first]["correlations"]:
            if row["target"] == target and row["at_equal_position"] and row["predictor"] in colors:
                layers = np.arange(len(row["by_layer"])) + 1
                color, name = colors[row["predictor"]], row["predictor"]
                axis.errorbar(
                    layers, row["by_layer"], row["by_layer_error"], color=color, label=name,
                    marker="o", ms=4, capsize=2, lw=1.4,
                )  # fmt: skip
        axis.axhline(0, color="0.8", lw=0.8, zorder=0)
        axis.set(title=f"rank correlation with {label}", xlabel="layer", ylim=(-1, 1))
        axis.set_xticks(layers)
    axes[0].legend(frameon=False, ncols=2, loc="lower left")
    for shift, color, title in zip((-0.19, 0.19), (BLUE, ORANGE), titles, strict=True):
        rows = report[title]["hiding"][1:]
        place = np.arange(len(rows))[::-1] - shift
        cost, error = ([row[k] for row in rows] for k in ("above_whole", "above_whole_error"))
        axes[2].barh(place, cost, 0.36, xerr=error, color=color, label=title, capsize=2)
    axes[2].set_yticks(np.arange(len(rows))[::-1], [row["hidden"] for row in rows])
    axes[2].set(title="half of the tokens hidden: nats lost", xlabel="nats above the whole")
    axes[2].legend(frameon=False, ncols=2, loc="upper center", bbox_to_anchor=(0.4, -0.18))
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    plt.close(figure)
