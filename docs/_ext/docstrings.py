"""From the house's docstrings to reStructuredText, before napoleon reads their sections.

Formulas stand indented and are shown as they are typed; a bar or a star in the text is just that.
"""

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sphinx.application import Sphinx

SECTION = re.compile(r"^(Args|Attributes|Returns|Raises|Example|References):$")
SPANS = re.compile(r"(:[a-z:]+:`[^`]+`|``[^`]+``|`[^`]+`)")


def escaped(text: str) -> str:
    """Text whose bars, stars and trailing underscores mean nothing to docutils."""
    text = re.sub(r"\\\((.+?)\\\)", r":math:`\1`", text)
    parts = SPANS.split(text)
    parts[::2] = [re.sub(r"([|*]|(?<=\w)_(?!\w))", r"\\\1", part) for part in parts[::2]]
    return "".join(parts)


def converted(lines: list[str]) -> list[str]:
    """The lines of one docstring, for napoleon."""
    done: list[str] = []
    section, opened = None, False  # opened: within a block of formulas
    for index, line in enumerate(lines):
        if found := SECTION.match(line):
            section, opened = found[1], False
            done.append("Fields:" if section == "Attributes" else line)
        elif section == "Example" or not line.strip():
            done.append(line)
        elif section is None:
            done += _prose(lines, index, done, opened)
            opened = line.startswith("    ") and (opened or done[-1] != escaped(line))
        elif section == "Returns" and lines[index - 1] == "Returns:":
            done += _first_of_returns(line)
        elif section in ("Args", "Attributes") and re.match(r"\s*\*", line):
            name, colon, rest = line.partition(":")
            done.append(name + colon + escaped(rest))
        else:
            done.append(escaped(line))
    return _mathematics(done)


def _prose(lines: list[str], index: int, done: list[str], opened: bool) -> list[str]:
    """A line in front of the sections: of a paragraph, or of an indented block."""
    line = lines[index]
    if not line.startswith("    "):
        return [line if line.startswith((".. ", "$$")) else escaped(line)]
    if opened:
        return [line]
    above = next((text for text in reversed(lines[:index]) if text and text[0] != " "), "")
    if (index and lines[index - 1].strip()) or above.startswith((".. ", "- ")):
        return [line if above.startswith(".. ") else escaped(line)]
    return [".. code-block:: text", "", line]


def _first_of_returns(line: str) -> list[str]:
    """Without a colon in its first line, which napoleon would take for the end of a type."""
    head, colon, _ = line.partition(": ")
    cut = head.rfind(" ")
    if not colon or not head[:cut].strip():
        return [escaped(line)]
    indent = line[: len(line) - len(line.lstrip())]
    return [escaped(line[:cut]), indent + escaped(line[cut + 1 :])]


def _mathematics(lines: list[str]) -> list[str]:
    """$$ ... $$ as a directive."""
    text = "\n".join(lines)
    return re.sub(
        r"^( *)\$\$\s*(.+?)\s*\$\$$",
        lambda m: f"{m[1]}.. math::\n\n{m[1]}   " + m[2].replace("\n", f"\n{m[1]}   "),
        text,
        flags=re.MULTILINE | re.DOTALL,
    ).split("\n")


def _process(
    app: "Sphinx", what: str, name: str, value: Any, options: Any, lines: list[str]
) -> None:
    lines[:] = converted(lines)


def setup(app: "Sphinx") -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process, priority=100)  # napoleon has 500
    return {"parallel_read_safe": True, "parallel_write_safe": True}
