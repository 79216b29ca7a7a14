"""The table of implementations, asked of the dispatch itself rather than written down twice."""

import re
from typing import Any
from unittest import mock

from physnet import _dispatch

ANYTHING = {"xla": "nothing: it runs on every device, for every dtype that the function takes"}


class Failing(dict[str, Any]):
    """Facts of a call that no kernel serves: what is asked for is always out of range."""

    def __init__(self) -> None:
        super().__init__(
            dtype="int8", score_dtype="float64", pairs=0, block_size=1, weight_dropout=True
        )

    def __missing__(self, name: str) -> int:
        return 10**9


def needs(requirement: Any) -> str:
    """What a requirement of the dispatch asks for, in the words of its own error."""
    no_gpu = mock.patch.object(_dispatch, "_capability", return_value=(0, 0))
    no_package = mock.patch("importlib.util.find_spec", return_value=None)
    with no_gpu, no_package:
        text = requirement(Failing())
    assert text, f"{requirement} says nothing of a call that it cannot serve"
    return re.sub(r"'(pip [^']+|physnet\[[^']+)'", r"`\1`", re.sub(r", got \w+$", "", text))


def rows() -> list[tuple[list[str], list[tuple[str, str]]]]:
    """Operations with the same implementations, and each of these with what it needs."""
    groups: dict[int, tuple[list[str], Any]] = {}
    for operation, table in _dispatch._TABLE.items():
        groups.setdefault(id(table), ([], table))[0].append(operation)
    return [
        (
            operations,
            [(name, "; ".join(map(needs, what)) or ANYTHING[name]) for name, what in table.items()],
        )
        for operations, table in groups.values()
    ]


def render() -> str:
    """A Markdown table, fastest first within each group."""
    lines = ["| operation | implementation | needs |", "|---|---|---|"]
    for operations, table in rows():
        first = "<br>".join(f"`{operation}`" for operation in operations)
        for name, what in table:
            lines.append(f'| {first} | `"{name}"` | {what} |')
            first = ""
    return "\n".join(lines) + "\n"
