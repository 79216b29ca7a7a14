"""What reversal changes, seed by seed."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from stacks import statistics

Row = dict[str, Any]
MEASURES = {
    "oscillators": ("near", "far", "energy"),
    "heads": ("near", "far", "energy"),
    "fields": ("one_step", "rollout"),
}


def pairs(rows: list[Row]) -> Iterator[tuple[Row, Row, str, str]]:
    """(row, row that it is compared with, measure of the one, measure of the other)."""
    for row in rows:
        others = {
            other["row"]: other
            for other in rows
            if (other["part"], other["setting"]) == (row["part"], row["setting"])
            and other.get("own", True)
        }
        if row["part"] == "text":
            ways = [w for w in ("forward", "backward") if row["row"] == "mixed" and w in others]
            for way in ways:
                yield row, others[way], way, way
            if row["row"] == "backward" and "forward" in others:
                yield row, others["forward"], "backward", "forward"
            continue
        if row["row"] != "base" and shown(row) and "base" in others:
            for measure in MEASURES[row["part"]]:
                yield row, others["base"], measure, measure
        if row["row"] == "hyperbolic" and row["own"] and "euclidean" in others:
            for measure in MEASURES[row["part"]]:
                yield row, others["euclidean"], measure, measure


def shown(row: Row) -> bool:
    """Rows at weights that no tuning chose are in the JSON alone."""
    return row.get("own", True) or row["frictionless"]


def compared(rows: list[Row]) -> list[Row]:
    """Paired differences: of logarithms, but of nats as they are; p corrected for all of them."""
    found = []
    for row, other, measure, against in pairs(rows):
        a, b = np.asarray(row["values"][measure]), np.asarray(other["values"][against])
        if row["part"] != "text":
            a, b = np.log(a), np.log(b)
        names = {name: row[name] for name in ("part", "setting", "row")}
        names |= {"weight": row.get("weight"), "against": other["row"], "measure": measure}
        found.append(names | statistics.paired(a, b))
    for c, p in zip(found, statistics.holm([c["p"] for c in found]), strict=True):
        c["p_holm"] = p
    return found
