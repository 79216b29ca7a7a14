"""The badges of README.md, from what .ci/run has run: pictures that need no network.

    python .ci/badges.py LOG            # .ci/tested from what .ci/run printed, and as below
    python .ci/badges.py                # the pictures and their line in README.md, from .ci/tested
    python .ci/badges.py --line LOG     # the line of one suite, run by this interpreter
    python .ci/badges.py --check LOG    # whether the suites of a run bear the badges out

A line reads "tested: Python 3.11.7, jax 0.10.2: 6000 passed", one for each run of all tests. A run
that fails prints none: its line is entered by hand, ", 4 failed" behind it, and the badges say so.
"""

import argparse
import platform
import re
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
RECORD = ROOT / ".ci" / "tested"
README = ROOT / "README.md"
PICTURES = "docs/pictures"
LINE = re.compile(
    r"^tested: Python ([\d.]+), jax (\S+): (\d+) passed(?:, (\d+) failed)?$", re.MULTILINE
)
COLOURS = {"tests": "#2f855a", "Python": "#2b6cb0", "JAX": "#2b6cb0"}


class Run(NamedTuple):
    """One run of all tests."""

    python: str
    jax: str
    passed: int
    failed: int = 0

    @property
    def minor(self) -> str:
        return minor(self.python)


def minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def runs(text: str) -> list[Run]:
    found = LINE.findall(text)
    return [Run(python, jax, int(ok), int(bad or 0)) for python, jax, ok, bad in found]


def line(text: str) -> str:
    """What the output of one run or several says together, with this interpreter's versions."""
    summary = r"\b(?:passed|failed|skipped|errors?|no tests ran)\b.* in \d+\.\d+s\b"
    ends = [end for end in text.splitlines() if re.search(summary, end)]
    passed = [re.search(r"\b(\d+) passed\b", end) for end in ends]
    if not all(passed) or not passed or any(re.search(r"\d+ (failed|errors?)\b", e) for e in ends):
        raise SystemExit("the suite did not pass")
    count = sum(int(found[1]) for found in passed if found)
    jax = metadata.version("jax")
    return f"tested: Python {platform.python_version()}, jax {jax}: {count} passed"


def claimed(record: list[Run]) -> int:
    """A number of tests that stays true while tests come and few go: whole hundreds."""
    return (min(run.passed for run in record if not run.failed) - 1) // 100 * 100


def failing(run: Run) -> str:
    return f" ({run.failed} fail)" if run.failed else ""


def texts(record: list[Run]) -> dict[str, str]:
    return {
        "tests": f"more than {claimed(record):,} pass",
        "Python": ", ".join(run.minor + failing(run) for run in record),
        "JAX": ", ".join(run.jax + failing(run) for run in record),
    }


def picture(label: str, text: str) -> str:
    """An SVG; `textLength` fits the words whatever the font."""
    left, right = (round(6.6 * len(words)) + 12 for words in (label, text))
    words = "".join(
        f'<text x="{x}" y="14" textLength="{width - 12}">{what}</text>'
        for x, width, what in ((6, left, label), (left + 6, right, text))
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="20" role="img">'
        f"<title>{label}: {text}</title>"
        f'<rect width="{left + right}" height="20" rx="3" fill="{COLOURS[label]}"/>'
        f'<path d="M3 0H{left}V20H3A3 3 0 0 1 0 17V3A3 3 0 0 1 3 0Z" fill="#4a5568"/>'
        '<g fill="#fff" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">'
        f"{words}</g></svg>\n"
    )


def made(record: list[Run]) -> tuple[str, dict[str, str]]:
    """The line of README.md, and the pictures by their paths."""
    named = {f"{PICTURES}/badge_{label.lower()}.svg": label for label in COLOURS}
    said = texts(record)
    line = " ".join(f"![{label}: {said[label]}]({path})" for path, label in named.items())
    return line, {path: picture(label, said[label]) for path, label in named.items()}


def write(record: list[Run]) -> None:
    line, pictures = made(record)
    for path, svg in pictures.items():
        (ROOT / path).write_text(svg, encoding="utf-8")
    before = README.read_text(encoding="utf-8")
    after, count = re.subn(r"^!\[tests: .*$", line, before, flags=re.MULTILINE)
    if count != 1:
        raise SystemExit(f"README.md has {count} lines of badges, not one")
    README.write_text(after, encoding="utf-8")


def check(found: list[Run], record: list[Run]) -> list[str]:
    """What the badges say that the runs do not bear out."""
    fewer = [
        f"the badge says more than {claimed(record)} tests, {run.passed} passed on {run.python}"
        for run in found
        if run.passed <= claimed(record)
    ]
    return fewer if found else ["no suite passed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("log", nargs="?", type=Path)
    parser.add_argument("--line", action="store_true")
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    text = options.log.read_text(encoding="utf-8") if options.log else ""
    if options.line:
        print(line(text))
        return
    record = runs(RECORD.read_text(encoding="utf-8"))
    if options.check:
        if wrong := check(runs(text), record):
            raise SystemExit("; ".join(wrong) + ": python .ci/badges.py LOG")
        return
    if options.log:
        record = runs(text)
        if not record:
            raise SystemExit(f"{options.log} has no line of a suite that passed")
        RECORD.write_text("".join(m.group() + "\n" for m in LINE.finditer(text)), encoding="utf-8")
    write(record)


if __name__ == "__main__":
    main()
