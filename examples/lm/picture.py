"""report.png: validation curves, the gate map, memory against depth, the experts."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from lm.results import Experts, Gate, Result

COLOURS = (
    "#4c6a92", "#c8553d", "#e0a458", "#5f8a6b", "#8a6fa8", "#5b5b5b", "#6fb0b8", "#c98fa9",
    "#a3b18a",
)  # fmt: skip
INK, FAINT = "#2b2b2b", "#d9d9d9"


def draw(results: list[Result]) -> Figure:
    """A panel for each thing that the results hold; there are no empty ones."""
    trained = [result for result in results if result.curve]
    yardsticks = [result for result in results if result.parameters is None]
    gated = next((result for result in trained if result.gate is not None), None)
    experts = next((result for result in trained if result.experts), None)

    panels = []
    if trained:
        panels += [
            lambda axes: _curves(axes, trained, yardsticks, against="tokens"),
            lambda axes: _curves(axes, trained, yardsticks, against="seconds"),
        ]
    if gated is not None:
        panels.append(lambda axes: _gate(axes, gated.label, gated.gate))
    if any(len(result.memory) > 1 for result in trained):
        panels.append(lambda axes: _memory(axes, trained))
    if experts is not None:
        panels += [
            lambda axes: _load(axes, experts.label, experts.experts),
            lambda axes: _taken(axes, experts.experts),
        ]
    rows = max(1, -(-len(panels) // 2))
    figure = Figure(figsize=(12.0, 5.0 * rows), dpi=150, layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12, wspace=0.04, hspace=0.04)
    grid = figure.add_gridspec(rows, 2)
    for index, panel in enumerate(panels):
        alone = index == len(panels) - 1 and index % 2 == 0
        axes = figure.add_subplot(grid[index // 2, :] if alone else grid[index // 2, index % 2])
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color("#888888")
        axes.tick_params(colors=INK, labelsize=9, length=3)
        panel(axes)
    return figure


def _title(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11, color=INK, pad=10)


def _curves(axes: Axes, trained: list[Result], yardsticks: list[Result], *, against: str) -> None:
    for colour, result in zip(_colours(trained), trained, strict=True):
        x = [getattr(point, against) for point in result.curve]
        y = [point.nats for point in result.curve]
        axes.plot(x, y, color=colour, lw=1.8, marker="o", ms=3.5, label=result.label)
    for result in yardsticks:
        axes.axhline(result.nats, color=INK, lw=1.0, ls=(0, (1, 2)), label=result.label)
    axes.grid(axis="y", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_ylabel("held-out nats per character", color=INK)
    if against == "tokens":
        _title(axes, "Loss against characters read")
        axes.set_xlabel("characters of training", color=INK)
        axes.xaxis.set_major_formatter(lambda value, _: _thousands(value))
        axes.legend(frameon=False, fontsize=9)
    else:
        _title(axes, "Loss against time in training steps")
        axes.set_xlabel("seconds", color=INK)
        end = min(result.curve[-1].seconds for result in trained)
        if len(trained) > 1:
            axes.axvline(end, color="#888888", lw=0.8, ls=(0, (4, 3)))
            top = axes.get_ylim()[1]
            axes.annotate(
                "the fastest row is done", (end, top), xytext=(-4, -2), textcoords="offset points",
                rotation=90, ha="right", va="top", fontsize=8, color="#666666",
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
            )  # fmt: skip
    axes.set_xlim(left=0)


def _gate(axes: Axes, label: str, gate: Gate) -> None:
    size = len(gate.text)
    causal = np.tril(np.ones((size, size), bool))
    none, every = (np.array(to_rgb(colour)) for colour in ("#ededed", COLOURS[1]))
    share = np.where(causal, gate.kept, 0.0)[..., None]
    shade = np.where(causal[..., None], (1.0 - share) * none + share * every, 1.0)
    axes.imshow(shade, interpolation="nearest", aspect="equal")
    visible = {" ": "␣", "\n": "↵"}
    letters = [visible.get(c, c if c.isprintable() else "·") for c in gate.text]
    font = {"fontsize": min(8.0, 300.0 / size), "family": "DejaVu Sans Mono"}
    axes.set_xticks(range(size), letters, **font)
    axes.set_yticks(range(size), letters, **font)
    axes.tick_params(length=0, pad=2)
    axes.set_xlabel("attended character (darker: kept by more heads)", color=INK)
    axes.set_ylabel("attending character", color=INK)
    here = share.sum() / causal.sum()
    _title(axes, f"Pairs kept by the last layer of {label}: {here:.0%} here")


def _memory(axes: Axes, trained: list[Result]) -> None:
    for colour, result in zip(_colours(trained), trained, strict=True):
        depths = sorted(result.memory)
        sizes = [result.memory[depth] / 2**20 for depth in depths]
        axes.plot(depths, sizes, color=colour, lw=1.8, marker="o", ms=3.5, label=result.label)
    axes.set_xticks(sorted({depth for result in trained for depth in result.memory}))
    axes.set_xlim(left=0)
    axes.set_ylim(bottom=0)
    axes.grid(axis="y", color=FAINT, lw=0.6)
    axes.set_axisbelow(True)
    axes.set_xlabel("layers", color=INK)
    axes.set_ylabel("temporary memory of a training step, MiB", color=INK)
    axes.legend(frameon=False, fontsize=9)
    _title(axes, "Memory against depth")


def _load(axes: Axes, label: str, experts: Experts) -> None:
    table = -np.sort(-np.asarray(experts.load), axis=1)
    safe = np.where(table > 0, table, 1.0)
    in_use = np.exp(-(table * np.log(safe)).sum(1))
    names = [f"layer {i + 1}: {count:.1f} in use" for i, count in enumerate(in_use)]
    _shares(axes, table, names)
    axes.set_xlabel("experts, busiest first (in use: exp of the entropy)", color=INK)
    _title(axes, f"Load of {label}: % of the tokens")


def _taken(axes: Axes, experts: Experts) -> None:
    table = np.asarray(list(experts.taken.values()))
    order = np.lexsort((-table.max(axis=0), table.argmax(axis=0)))  # a diagonal, if they specialise
    _shares(axes, table[:, order], list(experts.taken))
    axes.set_xlabel("experts of the last layer", color=INK)
    _title(axes, "Which expert takes which characters: % of each kind")


def _shares(axes: Axes, table: np.ndarray, names: list[str]) -> None:
    none, every = (np.array(to_rgb(colour)) for colour in ("#f4f4f4", COLOURS[1]))
    axes.imshow((1.0 - table[..., None]) * none + table[..., None] * every, aspect="auto")
    for (row, column), share in np.ndenumerate(table):
        if share >= 0.005:
            axes.text(
                column, row, f"{100 * share:.0f}", color="white" if share > 0.5 else INK,
                ha="center", va="center", fontsize=8,
            )  # fmt: skip
    axes.set_yticks(range(len(names)), names)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _colours(trained: list[Result]) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(len(trained))]


def _thousands(value: float) -> str:
    if value >= 1e6:
        return f"{value / 1e6:g}M"
    return f"{value / 1e3:g}k" if value >= 1e3 else f"{value:g}"
