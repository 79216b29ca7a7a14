"""What distillation.py reports: rows, paired differences, the table and the picture."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from ensemble import spread

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

SCORES = ("accuracy", "nats", "ece")
FORWARD, REVERSE = (
    tuple(f"{name}, {shown}" for shown in ("labelled inputs", "transfer set"))
    for name in ("KL(mix || s)", "KL(s || mix)")
)
ROWS = (
    "single",
    "ensemble",
    "mean of weights",
    "mean, one run",
    FORWARD[0],
    REVERSE[0],
    FORWARD[1],
    REVERSE[1],
    "all labels",
)
COMPARED = (
    (REVERSE[0], FORWARD[0]),
    (REVERSE[1], FORWARD[1]),
    (FORWARD[1], FORWARD[0]),
    (REVERSE[1], REVERSE[0]),
    (FORWARD[1], "ensemble"),
)


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over seeds, and differences to "single", paired, with standard errors."""
    rows = []
    for name in ROWS:
        row: dict[str, Any] = {"row": name}
        for score in SCORES:
            own = [one["rows"][name][score] for one in runs]
            base = [one["rows"]["single"][score] for one in runs]
            row[score], row[f"{score}_error"] = spread(own)
            row[f"{score}_gain"], row[f"{score}_gain_error"] = spread(np.subtract(own, base))
        rows.append(row)
    comparisons = []
    for one, other in COMPARED:
        row = {"row": one, "minus": other}
        for score in SCORES:
            pair = [[run["rows"][name][score] for run in runs] for name in (one, other)]
            row[score], row[f"{score}_error"] = spread(np.subtract(*pair))
        comparisons.append(row)
    signs = {
        name: {
            sign: float(np.mean([one["collapse"][name][sign] for one in runs]))
            for sign in ("spread", "loss", "mean_loss", "barrier", "one_basin")
        }
        for name in ("mean of weights", "mean, one run")
    }
    return {"seeds": len(runs), "rows": rows, "comparisons": comparisons, "collapse": signs}


def show(report: dict[str, Any]) -> None:
    for name, task in report["tasks"].items():
        recipe = task["recipe"]
        print(f"\n{name}: {recipe['members']} networks of {task['parameters']} parameters, "
              f"{recipe['steps']} steps, {task['seeds']} seeds")  # fmt: skip
        print(f"{'':31}{'accuracy':>16}{'(minus single)':>18}{'nats':>16}{'(minus single)':>18}"
              f"{'ECE':>16}{'(minus single)':>18}")  # fmt: skip
        for row in task["rows"]:
            cells = [
                f"{row[s]:9.4f} ±{row[f'{s}_error']:.4f}"
                f" {row[f'{s}_gain']:+9.4f} ±{row[f'{s}_gain_error']:.4f}"
                for s in SCORES
            ]
            print(f"{row['row']:31}" + " ".join(cells))
        for row in task["comparisons"]:
            cells = [f"{s} {row[s]:+.4f} ±{row[f'{s}_error']:.4f}" for s in SCORES]
            print(f"{row['row']}, minus {row['minus']}: " + ", ".join(cells))
        for title, signs in task["collapse"].items():
            print(f"{title}: spread {signs['spread']:.2f}, loss {signs['loss']:.3f} against "
                  f"{signs['mean_loss']:.3f} of the networks, barrier {signs['barrier']:.3f}, "
                  f"one basin in {signs['one_basin']:.0%} of seeds")  # fmt: skip


def draw(report: dict[str, Any], output: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    tasks = report["tasks"]
    figure, axes = plt.subplots(
        len(tasks), 3, figsize=(12, 3.1 * len(tasks)), layout="constrained", squeeze=False
    )
    colours = {"labelled inputs": "#dd6b20", "transfer set": "#2b6cb0"}
    titles = {"accuracy": "accuracy", "nats": "nats", "ece": "calibration error"}
    for line, (name, task) in zip(axes, tasks.items(), strict=True):
        shown = [row for row in task["rows"] if row["row"] != "single"]
        single = task["rows"][0]
        for axis, score in zip(line, SCORES, strict=True):
            near = [row for row in shown if row["row"] not in ("mean of weights", "all labels")]
            reach = max(abs(row[f"{score}_gain"]) + row[f"{score}_gain_error"] for row in near)
            for place, row in enumerate(shown):
                colour = colours.get(row["row"].rpartition(", ")[2], "#4a5568")
                gain, error = row[f"{score}_gain"], row[f"{score}_gain_error"]
                if abs(gain) > 1.6 * reach:  # off the axis: said by a number
                    side = 1.35 * reach * np.sign(gain)
                    axis.plot(side, -place, ">" if gain > 0 else "<", color=colour, ms=6)
                    axis.annotate(
                        f"{gain:+.2g}", (side, -place), (-9 * np.sign(gain), 0),
                        textcoords="offset points", va="center", color=colour,
                        ha="right" if gain > 0 else "left",
                    )  # fmt: skip
                    continue
                axis.errorbar(gain, -place, xerr=error, fmt="o", ms=5, capsize=2, color=colour)
            axis.set_yticks(
                -np.arange(len(shown)), [row["row"] for row in shown] if axis is line[0] else []
            )
            axis.set(xlim=(-1.5 * reach, 1.5 * reach), ylim=(0.6 - len(shown), 0.6))
            axis.locator_params(axis="x", nbins=5)
            axis.axvline(0, color="0.6", lw=0.8)
            axis.grid(axis="y", color="0.93")
            better = "right" if score == "accuracy" else "left"
            axis.set_title(f"{name}: {titles[score]} (better: {better})")
            axis.set_xlabel(f"minus that of a single network, {single[score]:.3f}")
            axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    plt.close(figure)
