"""The table of natural_gradient.py, and its picture by steps and by seconds."""

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from natural_methods import METHODS

matplotlib.use("Agg")  # a file, no window

import matplotlib.pyplot as plt

PLAIN = ("SGD, momentum", "Adam", "Muon", "Sophia")


def table(name: str, task: dict[str, Any]) -> None:
    print(f"\n{name}, {task['parameters']:,} weights, {task['settings']['seeds']} seeds")
    print(f"{'':30}{'test loss':>18}{'above Adam':>19}{'ms a step':>11}{'s in all':>10}"
          f"{'steps to':>10}{'s to':>7}")  # fmt: skip
    for key, found in sorted(task["rows"].items(), key=lambda item: item[1]["end"]["test"][0]):
        (end, error), (apart, bar) = found["end"]["test"], found["above_adam"]["test"]
        steps, took = found["steps_to_adams_best"], found["seconds_to_adams_best"]
        once = found["seconds_a_step"]
        to = f"{np.mean(steps):.0f}" if took is not None else "-"
        print(f"{key:30}{end:9.4f} +- {error:.4f}{apart:+10.4f} +- {bar:.4f}{1e3 * once:11.2f}"
              f"{once * found['steps'][-1]:10.3f}{to:>10}"
              f"{'-' if took is None else f'{took:.3f}':>7}")  # fmt: skip


def line(key: str) -> dict[str, Any]:
    """Colour and dashes of a method's line: natural gradients are solid."""
    base = key.removesuffix(", more steps")
    plain: list[str] = list(PLAIN)
    natural = [n for n in METHODS["digits"] | METHODS["text"] if n not in PLAIN]
    group, colours = (plain, "Set1") if base in PLAIN else (natural, "Dark2")
    palette = [*plt.get_cmap(colours)(range(8)), "k"]  # Dark2 has eight, natural gradients are nine
    style = ":" if base != key else "--" if base in PLAIN else "-"
    return {"color": palette[group.index(base)], "ls": style}


def draw(report: dict, output: Path) -> None:
    plt.rcParams.update({"font.size": 9, "axes.titlesize": 10, "axes.titlelocation": "left"})
    tasks = report["tasks"]
    figure, axes = plt.subplots(
        len(tasks), 2, figsize=(12, 4.4 * len(tasks)), layout="constrained", squeeze=False
    )
    for pair, (name, task) in zip(axes, tasks.items(), strict=True):
        which = "train" if "train" in task["sets"] else "test"
        order = sorted(task["rows"].items(), key=lambda item: item[1]["end"][which][0])
        starts = [np.mean(found["curves"][which], 0)[1] for _, found in order]
        for axis, by_seconds in zip(pair, (False, True), strict=True):
            shown = [(k, f) for k, f in order if by_seconds or not k.endswith("more steps")]
            for key, found in shown:
                once = found["seconds_a_step"] if by_seconds else 1
                mean = np.mean(found["curves"][which], 0)
                axis.plot(
                    np.array(found["steps"][1:]) * once, mean[1:], lw=1.7, label=key, **line(key)
                )
            best = min(f["end"][which][0] for k, f in order if not k.endswith("more steps"))
            if by_seconds:
                axis.set_xscale("log")
                best = max(best / 4, shown[0][1]["end"][which][0])
            if name == "digits":
                axis.set_yscale("log")
            axis.set_ylim(0.85 * best if name == "digits" else best - 0.05, 1.1 * np.median(starts))
            axis.set_xlabel("processor seconds" if by_seconds else "steps")
            axis.set_ylabel(f"{which} loss, nats")
            axis.spines[["top", "right"]].set_visible(False)
            title = f"{name}, {task['parameters']:,} weights: natural gradients solid"
            axis.set_title("dotted: more steps" if by_seconds else title)
        pair[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    output.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(output, dpi=120)
    plt.close(figure)
