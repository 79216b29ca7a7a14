"""What each mechanism does to the loss, the time and the memory, beside others."""

from pathlib import Path
from typing import Any

import ablation_plan as plan
import ablation_report as reports

COLOURS = {"helps": "tab:green", "costs": "tab:red", "neither": "tab:gray", "few seeds": "tab:gray"}


def draw(report: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    rows = plan.rows(plan.settings_in(report))
    labels = {row.name: row.label for row in rows}
    found = reports.effects(report, rows)
    done = [one for one in found if one.seeds >= 3]
    few, found = len(found) - len(done), done or found
    beside = list(dict.fromkeys(one.reference for one in found)) or ["bk"]
    heights = [1 + sum(one.reference == name for one in found) for name in beside]
    figure, axes = plt.subplots(
        len(beside), 2, figsize=(11, 1.2 + 0.32 * sum(heights) + 0.6 * len(beside)),
        squeeze=False, layout="constrained", height_ratios=heights,
    )  # fmt: skip
    for (loss, cost), name in zip(axes, beside, strict=True):
        own = [one for one in reversed(found) if one.reference == name]
        places = range(len(own))
        for place, one in zip(places, own, strict=True):
            error = reports.reach(one.seeds) * one.error if one.seeds > 1 else 0.0
            loss.errorbar(one.nats, place, xerr=error, fmt="o", color=COLOURS[one.verdict])
        cost.plot([one.time for one in own], places, "o", color="tab:blue", label="time")
        cost.plot([one.memory for one in own], places, "s", color="tab:orange", label="memory")
        for axis, line in ((loss, 0.0), (cost, 1.0)):
            axis.axvline(line, color="black", linewidth=0.6)
            axis.set_ylim(-0.6, len(own) - 0.4)
        loss.set_yticks(places, [one.mechanism for one in own])
        cost.set_yticks(places, [])
        loss.set_title(f"beside {labels[name]}: nats with it minus without")
        cost.set_title("with it over without")
        widest = max((max(one.time, one.memory) for one in own), default=1.0)
        cost.set_xlim(0.0, 1.05 * max(widest, 1.0))
        loss.locator_params(axis="x", nbins=6)
    note = "bars: 95% by Student's t"
    if done and few:
        note += f"; {few} with fewer than three seeds are left out"
    figure.supxlabel(note, fontsize="medium")
    axes[0, 1].legend(frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)
