"""Errors against those without reversal, and losses of text in both directions."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt
from matplotlib.ticker import LogLocator, NullFormatter
from stacks.statistics import mean_and_error

from reversal_lab import fields, heads, oscillators, texts

Row = dict[str, Any]
COLOURS = {
    "base": "0.45", "reversed": "#c05621", "euclidean": "#2b6cb0", "hyperbolic": "#805ad5",
    "flagged": "#2f855a", "forward": "0.45", "backward": "#c05621", "mixed": "#2b6cb0",
}  # fmt: skip


def save(results: Row, path: Path) -> Path:
    draws = []
    parts = {row["part"] for row in results["rows"]}
    if "oscillators" in parts:
        draws += [(_ratios, measure) for measure in ("far", "energy")]
    if "heads" in parts:
        draws += [(_heads, measure) for measure in ("near", "far")]
    if "fields" in parts:
        draws += [(_fields, measure) for measure in ("one_step", "rollout")]
    if "text" in parts:
        shares = dict.fromkeys(r["setting"] for r in results["rows"] if r["part"] == "text")
        draws += [(_text, share) for share in shares]
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    columns = min(len(draws), 2 if len(draws) % 3 else 3)
    shape = (-(-len(draws) // columns), columns)
    figure, axes = plt.subplots(
        *shape, figsize=(4.6 * columns, 3.8 * shape[0]), layout="constrained", squeeze=False
    )
    for axis in axes.flat:
        axis.set_axis_off()
    for axis, (draw, of) in zip(axes.flat, draws, strict=False):
        axis.set_axis_on()
        axis.spines[["top", "right"]].set_visible(False)
        draw(axis, results, of)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _decades(axis: Any) -> None:
    """Plain numbers on a logarithmic axis that may be shorter than a decade."""
    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_minor_locator(LogLocator(subs=range(1, 10)))
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter(NullFormatter())


def _heads(axis: Any, results: Row, measure: str) -> None:
    _ratios(axis, results, measure, part="heads", title="two heads", labels=heads.ROWS)


def _ratios(
    axis: Any,
    results: Row,
    measure: str,
    *,
    part: str = "oscillators",
    title: str = "two oscillators",
    labels: dict[str, str] = oscillators.ROWS,
) -> None:
    """Ratios to the row without reversal, at the weights that friction 0 asks for."""
    chosen = {
        (row["setting"], row["row"], row["weight"])
        for row in results["rows"]
        if row["part"] == part and row["frictionless"]
    }
    found = [
        c
        for c in results["comparisons"]
        if (c["part"], c["measure"], c["against"]) == (part, measure, "base")
        and (c["setting"], c["row"], c["weight"]) in chosen
    ]
    settings = list(dict.fromkeys(c["setting"] for c in found))
    kinds = list(dict.fromkeys(c["row"] for c in found))
    for k, kind in enumerate(kinds):
        for c in found:
            if c["row"] == kind:
                x = settings.index(c["setting"]) + 0.2 * (k - (len(kinds) - 1) / 2)
                low, mid, high = np.exp(c["mean"] + 2 * c["error"] * np.array([-1, 0, 1]))
                label = labels[kind] if c["setting"] == settings[0] else None
                axis.errorbar(
                    x, mid, yerr=[[mid - low], [high - mid]], fmt="o", ms=4, color=COLOURS[kind],
                    label=label,
                )  # fmt: skip
    axis.axhline(1, color="0.7", lw=0.8, zorder=0)
    axis.set_xticks(range(len(settings)), [f"{s:g}" for s in settings])
    what = {
        "near": f"square error after {oscillators.NEAR} steps",
        "far": f"square error after {oscillators.FAR} steps",
        "energy": "error of the energy",
    }
    axis.set(
        title=f"{title}: {what[measure]}\nagainst {labels['base']}, ±2 standard errors",
        xlabel="friction", ylabel="ratio (below 1: reversal helps)", yscale="log",
    )  # fmt: skip
    _decades(axis)
    axis.legend(frameon=False, fontsize=7)


def _fields(axis: Any, results: Row, measure: str) -> None:
    for kind, label in fields.ROWS.items():
        own = [r for r in results["rows"] if r["part"] == "fields" and r["row"] == kind]
        logs = np.array([mean_and_error(np.log(r["values"][measure])) for r in own])
        low, mid, high = np.exp(logs[:, :1] + 2 * logs[:, 1:] * np.array([-1, 0, 1])).T
        axis.errorbar(
            [r["setting"] for r in own], mid, yerr=[mid - low, high - mid], fmt="o-", ms=4, lw=1.3,
            color=COLOURS[kind], label=label,
        )  # fmt: skip
    settings = list(dict.fromkeys(r["setting"] for r in results["rows"] if r["part"] == "fields"))
    axis.set(xscale="log", yscale="log", xlabel="trajectories to train on", ylabel="square error")
    axis.set_xticks(settings, [str(s) for s in settings], minor=False)
    axis.minorticks_off()
    _decades(axis)
    steps = {"one_step": "the next state", "rollout": f"{fields.ROLLOUT} steps"}
    axis.set_title(f"reaction and diffusion: {steps[measure]},\nforward, ±2 standard errors")
    axis.legend(frameon=False, fontsize=7)


def _text(axis: Any, results: Row, share: float) -> None:
    rows = [r for r in results["rows"] if r["part"] == "text" and r["setting"] == share]
    for row in rows:
        curve = np.asarray(row["curve"])
        steps = row["every"] * np.arange(1, len(curve) + 1)
        for way, style in enumerate(("-", "--")):
            name = ("forward", "backward")[way]
            if row["row"] in (name, "mixed"):
                label = f"{texts.ROWS[row['row']]}, read {name}"
                axis.plot(
                    steps, curve[:, way], style, lw=1.3, color=COLOURS[row["row"]], label=label
                )
    ends = [min(r["values"]["forward"] + r["values"]["backward"]) for r in rows]
    axis.set_ylim(min(ends) - 0.03, min(ends) + 0.6)
    axis.set(
        title=f"text of {rows[0]['characters']:,} characters: nats held out\n(equal tokens)",
        xlabel="updates",
    )
    axis.legend(frameon=False, fontsize=7)
