"""What teleportation gains over the same method without it, first and again on fresh seeds."""

from collections.abc import Callable
from typing import Any

import numpy as np

from stacks import pipeline, statistics
from stacks.methods import METHODS
from stacks.training import Curves

Row = dict[str, Any]
PARALLEL = ("highway", "staged")


def steps_to(curve: Any, every: int, target: float) -> int | None:
    """Steps until nats are first at most the target, if ever."""
    there = np.flatnonzero(np.asarray(curve) <= target)
    return int(every * (there[0] + 1)) if len(there) else None


def values(row: Row, measure: str) -> np.ndarray:
    """Of each seed, larger is better.

    Accuracy at the "end", or "early", after a quarter of the steps, or "parallel", in the time that
    backpropagation takes for a third of them if what can be at once is at once; "time": minus the
    simulated time to the target, and where that is missed the horizon, the same for all schemes.
    """
    accuracy = np.asarray(row["accuracy"])
    count = accuracy.shape[1]
    if measure == "time":
        steps = [steps_to(c, row["every"], row["target"]) for c in row["nats"]]
        return -np.array([row["units"] * s if s else row["horizon"] for s in steps], float)
    share = {"end": 1.0, "early": 0.25}
    if measure == "parallel":
        share["parallel"] = row["depth"] / row["sequential"]
    return accuracy[:, max(int(count * share[measure]) - 1, 0)]


def _pairs(rows: list[Row], pipelines: list[Row]) -> list[tuple[Row, Row, str]]:
    """(row that teleports, row that it is measured against, measure)."""
    found = []
    for row in rows:
        for other in rows:
            if (other["stack"], other["method"]) == (row["stack"], METHODS[row["method"]].against):
                found += [(row, other, measure) for measure in ("end", "early")]
            if row["method"] in PARALLEL and (other["stack"], other["method"]) == (
                row["stack"],
                "adam",
            ):
                found.append((row, other, "parallel"))
    for row in pipelines:
        for other in pipelines if row["method"] in pipeline.TELEPORTING else ():
            peer = other["method"] not in pipeline.TELEPORTING
            if peer and other["stack"] == row["stack"] and other["delay"] in (row["delay"], None):
                found.append((row, other, "time"))
    return found


NAMES = ("stack", "method", "against", "measure", "delay", "delay_against")


def compared(rows: list[Row], pipelines: list[Row], before: list[Row]) -> list[Row]:
    """Paired differences, with p corrected for the number of all.

    Repetitions of comparisons `before` are kept.
    """
    repeated = {tuple(c.get(name) for name in NAMES): c["again"] for c in before}
    found = []
    for row, other, measure in _pairs(rows, pipelines):
        names = {"stack": row["stack"], "method": row["method"], "against": other["method"]}
        if measure == "time":
            names |= {"delay": row["delay"], "delay_against": other["delay"]}
        difference = statistics.paired(values(row, measure), values(other, measure))
        names["measure"] = measure
        again = repeated.get(tuple(names.get(name) for name in NAMES))
        found.append(names | difference | {"again": again, "confirmed": False})
    for c, p in zip(found, statistics.holm([c["p"] for c in found]), strict=True):
        c["p_holm"] = p
    return found


def confirm(
    comparisons: list[Row], rows: list[Row], pipelines: list[Row],
    again: Callable[[Row], Curves | None],
) -> None:  # fmt: skip
    """Repeat on other seeds what helped by more than two standard errors.

    `again(row)` are curves of other seeds, or None for want of time.
    """
    runs: dict[int, Row | None] = {}

    def repeated(row: Row) -> Row | None:
        if id(row) not in runs:
            curves = again(row)
            there = curves and {"accuracy": curves.accuracy, "nats": curves.nats}
            runs[id(row)] = row | there if there else None
        return runs[id(row)]

    tried = []
    for c, (row, other, measure) in zip(comparisons, _pairs(rows, pipelines), strict=True):
        if not statistics.helps(c):
            continue
        if c["again"]:
            tried.append(c)
            continue
        new, peer = repeated(row), repeated(other)
        if new and peer:
            found = values(new, measure), values(peer, measure)
            c["again"] = statistics.paired(*found) | {"seeds": len(found[0])}
            tried.append(c)
    for c, p in zip(tried, statistics.holm([c["again"]["p"] for c in tried]), strict=True):
        c["again"]["p_holm"] = p
        c["confirmed"] = statistics.helps(c["again"]) and p < 0.05
