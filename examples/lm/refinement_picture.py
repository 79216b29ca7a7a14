"""The picture of a refinement: loss against kept pairs, what is gained, who keeps the pairs."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lm.picture import COLOURS, INK


def draw(report: dict[str, Any], methods: dict[str, str]) -> Figure:
    """Three panels: the trade-off, gains at equal pairs, shares of the heads.

    Args:
        report: as the example writes it.
        methods: label of each method.
    """
    figure = Figure(figsize=(15.0, 4.6), dpi=150, layout="constrained")
    axes = figure.subplots(1, 3, width_ratios=(1.25, 1.1, 1.0))
    for one in axes:
        one.spines[["top", "right"]].set_visible(False)
        one.spines[["left", "bottom"]].set_color("#888888")
        one.tick_params(colors=INK, labelsize=9, length=3)
    densities = list(dict.fromkeys(row["density"] for row in report["summary"]))
    colours = dict(zip(methods, COLOURS[1:], strict=False))
    _trade(axes[0], report, densities, methods, colours)
    _gains(axes[1], report, densities, methods, colours)
    _shares(axes[2], report, densities[-1])
    return figure


def _mean(report: dict[str, Any], name: str) -> np.ndarray:
    """Kept pairs and nats, means over models, of a method's cases or of the curve's points."""
    each = [report["cases"][f"{index}{name}"] for index in range(report["models"])]
    each = [case if isinstance(case, list) else [case] for case in each]
    return np.mean([[(point["kept"], point["nats"]) for point in case] for case in each], axis=0)


def _trade(axes: Axes, report: dict, densities: list, methods: dict, colours: dict) -> None:
    curve = _mean(report, "")
    axes.plot(100 * curve[:, 0], curve[:, 1], "-o", color=COLOURS[0], markersize=3.5, linewidth=1.4,
              label="one density for all heads")  # fmt: skip
    for method, label in methods.items():
        points = np.concatenate([_mean(report, f" {density} {method}") for density in densities])
        axes.plot(100 * points[:, 0], points[:, 1], "D", color=colours[method], markersize=6,
                  label=label)  # fmt: skip
    _title(axes, "Loss against pairs that attention computes")
    axes.set_xlabel("kept pairs of held-out text, %", fontsize=9, color=INK)
    axes.set_ylabel("nats per held-out character", fontsize=9, color=INK)
    axes.legend(frameon=False, fontsize=9)


def _gains(axes: Axes, report: dict, densities: list, methods: dict, colours: dict) -> None:
    width = 0.8 / len(methods)
    for number, method in enumerate(methods):
        rows = [row for row in report["summary"] if row["method"] == method]
        place = np.arange(len(densities)) + width * (number - (len(methods) - 1) / 2)
        mean = [1000 * row["nats"]["mean"] for row in rows]
        error = [1000 * row["nats"]["error"] for row in rows]
        axes.bar(place, mean, 0.92 * width, yerr=error, color=colours[method], ecolor=INK,
                 capsize=3, error_kw={"linewidth": 1})  # fmt: skip
        for x, row, top in zip(place, rows, np.add(mean, error), strict=True):
            axes.annotate(f"{row['pairs']['mean']:.0%}", (x, max(top, 0.0)), (0, 4), ha="center",
                          textcoords="offset points", fontsize=9, color=INK)  # fmt: skip
    axes.axhline(0.0, color="#888888", linewidth=0.8)
    axes.set_xticks(range(len(densities)), [f"{density:.0%} of the pairs" for density in densities])
    axes.margins(y=0.12)
    axes.set_ylabel("millinats gained at equal pairs", fontsize=9, color=INK)
    _title(axes, "Gain; above, pairs saved at equal loss")


def _shares(axes: Axes, report: dict, density: float) -> None:
    cases = [report["cases"][f"{i} {density} full"]["shares"] for i in range(report["models"])]
    shares = np.mean(cases, axis=0)
    image = axes.imshow(100 * shares, cmap="BuPu", vmin=0, aspect="auto")
    dark = 60 * shares.max()
    for (layer, head), share in np.ndenumerate(shares):
        axes.text(head, layer, f"{100 * share:.0f}", ha="center", va="center", fontsize=9,
                  color="white" if 100 * share > dark else INK)  # fmt: skip
    image.set_clim(0, 100 * shares.max())
    axes.set_xticks(range(shares.shape[1]), [f"{head + 1}" for head in range(shares.shape[1])])
    axes.set_yticks(range(shares.shape[0]), [f"{layer + 1}" for layer in range(shares.shape[0])])
    axes.set_xlabel("head", fontsize=9, color=INK)
    axes.set_ylabel("layer", fontsize=9, color=INK)
    axes.spines[:].set_visible(False)
    _title(axes, f"% of far pairs that a head keeps, at {density:.0%}")


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10)
