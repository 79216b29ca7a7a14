"""A finished run as text."""

from typing import Any

import numpy as np

from stacks import pipeline, statistics
from stacks.comparisons import values
from stacks.methods import METHODS


def show(results: dict[str, Any]) -> None:
    for name in dict.fromkeys(row["stack"] for row in results["rows"]):
        print(f"\n{name:36} {'rate':>7}  {'accuracy':>14} {'a quarter':>14} {'nats':>7} {'s':>7}")
        for row in results["rows"]:
            if row["stack"] == name:
                print(_line(row))
    for name in dict.fromkeys(row["stack"] for row in results["pipeline"]):
        own = [row for row in results["pipeline"] if row["stack"] == name]
        title = f"{name}, to {own[0]['target']} nats"
        print(
            f"\n{title:45} {'delay':>5} {'rate':>7}  "
            f"{'accuracy':>8} {'reached':>7} {'steps':>7} {'time':>7}"
        )
        for row in own:
            print("\n".join(_times(row)))
    print(f"\n{len(results['comparisons'])} comparisons; what moved by more than 2 errors,")
    print("p alone and for all of them; and the trial on other seeds, p for all repeated")
    for c in results["comparisons"]:
        if abs(c["mean"]) > 2 * c["error"]:
            print(_comparison(c))
    if results["left_out"]:
        print(f"left out, for want of time: {results['left_out']}")


def _times(row: dict[str, Any]) -> list[str]:
    """Steps of the runs that reached the target; time of all, with the horizon for those that miss.

    A line for each number of microbatches, where there are such: the run is the same.
    """
    steps = [s for s in row["steps"] if s is not None]
    lines = []
    for parts in pipeline.MICROBATCHES if row["method"] == "synchronous" else (None,):
        label = pipeline.SCHEMES[row["method"]] + (f", {parts} microbatches" if parts else "")
        units = pipeline.units_per_step(row["method"], row["stages"], *([parts] if parts else []))
        times = [units * s if s else row["horizon"] for s in row["steps"]]
        lines.append(
            f"{label:45} {row['delay'] or '':>5} {_rate(row)} "
            f"{np.mean(values(row, 'end')):8.3f} {len(steps):5d}/{len(times)} "
            f"{np.mean(steps) if steps else np.nan:7.1f} {np.mean(times):7.0f}"
        )
    return lines


def _rate(row: dict[str, Any]) -> str:
    return f"{row['rate']:7.0e}{'*' if row['edge'] else ' '}"


def _line(row: dict[str, Any]) -> str:
    cells = "".join(
        " {:6.3f} ±{:6.4f}".format(*statistics.mean_and_error(values(row, measure)))
        for measure in ("end", "early")
    )
    nats = np.mean(np.asarray(row["nats"])[:, -1])
    return (
        f"{METHODS[row['method']].label:36} {_rate(row)}{cells} "
        f"{nats:7.3f} {row['seconds_per_run']:7.2f}"
    )


def _comparison(c: dict[str, Any]) -> str:
    stack = f"{c['stack']} {c['delay'] or ''}" if c["measure"] == "time" else c["stack"]
    digits = 0 if c["measure"] == "time" else 3
    text = (
        f"{stack:23} {c['method']:17} less {c['against']:11} {c['measure']:5} "
        f"{c['mean']:+.{digits}f} ±{c['error']:.{digits}f}  p {c['p']:.4f} ({c['p_holm']:.3f})"
    )
    if not c["again"]:
        return text + ("  not repeated, for want of time" if statistics.helps(c) else "")
    again = c["again"]
    return (
        f"{text}  again {again['mean']:+.{digits}f} ±{again['error']:.{digits}f} "
        f"({again['seeds']} seeds), p {again['p_holm']:.4f}, "
        f"{'confirmed' if c['confirmed'] else 'not confirmed'}"
    )
