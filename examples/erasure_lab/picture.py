"""Curves of the codes, recall of the memories, condition numbers."""

from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

from erasure_lab.memories import BUDGET, PAIRS
from erasure_lab.tilings import FAMILIES

COLOURS = (
    "#2b6cb0", "#dd6b20", "#2f855a", "#c53030", "#805ad5", "#4a5568", "#d53f8c", "#744210",
    "#0987a0",
)  # fmt: skip


def draw(report: dict, output: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(15, 8.4), layout="constrained")
    for axis, name in zip(axes.ravel()[[0, 1, 3, 4]], FAMILIES, strict=True):
        for row in report["erasures"]:
            if row["family"] != name:
                continue
            for curve in row["curves"]:
                optimal = row["decoder"] == "optimal"
                axis.errorbar(
                    curve["erasure"], curve["rate"], yerr=2 * np.array(curve["error"]),
                    color=COLOURS[curve["rings"]], ls="-" if optimal else "--",
                    lw=1.4 if optimal else 1, elinewidth=0.7,
                    label="" if optimal
                    else f"{curve['rings']} rings, [[{curve['n']}, {curve['k']}]]",
                )  # fmt: skip
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("erasure probability")
        axis.set_ylabel("central qubit recovered (solid optimal, dashed greedy)", fontsize=8)
        axis.set_xlim(0, 0.7)
        axis.legend(frameon=False, fontsize=8)
    for i, row in enumerate(report["recall"]):
        style = "-" if "coded" in row["memory"] else "--"
        axes[0, 2].errorbar(row["lost"], row["recall"], yerr=2 * np.array(row["error"]),
                            label=row["memory"], ls=style, color=f"C{i}")  # fmt: skip
    axes[0, 2].set_title(f"recall of {PAIRS} associations, {BUDGET // 1024} KiB", fontsize=10)
    axes[0, 2].set_xlabel("share of stored rows lost")
    axes[0, 2].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    axes[0, 2].set_ylim(0, 1.03)
    for i, name in enumerate(dict.fromkeys(row["code"] for row in report["conditions"])):
        rows = [row for row in report["conditions"] if row["code"] == name]
        axes[1, 2].semilogy([r["lost"] for r in rows], [r["median"] for r in rows], "o-",
                            color=COLOURS[i], label=name)  # fmt: skip
        axes[1, 2].semilogy([r["lost"] for r in rows], [r["in_a_row"] for r in rows], ":",
                            color=COLOURS[i])  # fmt: skip
    axes[1, 2].set_ylim(0.8, 1e5)
    axes[1, 2].set_title("condition of what is left, 64 in 128 (dotted: in a row)", fontsize=10)
    axes[1, 2].set_xlabel("share of stored rows lost")
    axes[1, 2].legend(frameon=False, fontsize=8)
    for axis in axes.ravel():
        axis.spines[["top", "right"]].set_visible(False)
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=100)
    plt.close(figure)
