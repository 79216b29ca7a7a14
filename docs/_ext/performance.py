"""Every result of benchmarks/results as a section: what it was, where it ran, its numbers.

`performance.toml` says for each file a title, a sentence and which columns matter. A file that it
does not name is shown all the same, by whatever tables of numbers it holds.
"""

import json
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SPECIFICATION = Path(__file__).parents[1] / "performance.toml"
PLUS_MINUS = "\u00a0±\u00a0"  # no line ends in front of an error
SHORT, LONG = 12, 60  # rows shown open, and rows shown at all
PLACE = ("device", "machine", "platform", "processor", "cpu", "cores")
LIBRARIES = ("python", "jax", "jaxlib", "flax", "optax", "numpy", "torch", "triton", "jax-triton")


def render(folder: Path = RESULTS) -> str:
    """All results as Markdown, by parts, those without a specification last."""
    parts: dict[str, Any] = tomllib.loads(SPECIFICATION.read_text(encoding="utf-8"))
    files = {path.stem: path for path in sorted(folder.glob("*.json"))}
    text = []
    for part, results in parts.items():
        named = [name for name in results if name in files]
        if named:
            text.append(f"## {part}\n")
            text += [section(files.pop(name), results[name]) for name in named]
    if files:
        text.append("## Further results\n")
        text += [section(path, {}) for path in files.values()]
    return "\n".join(text)


def section(path: Path, specification: dict[str, Any]) -> str:
    """One result: title, what it shows, how it was made, tables."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data = data if isinstance(data, dict) else {"rows": data}
    title = specification.get("title", path.stem.replace("_", " ").capitalize())
    lines = [f"(result-{path.stem.replace('_', '-')})=", f"### {title}", ""]
    if says := specification.get("says"):
        lines += [says, ""]
    if picture := specification.get("picture"):
        lines += [f"[Picture](pictures/{picture}.png)", ""]
    lines += [made(path, data, specification.get("command")), ""]
    tables = [found for t in specification.get("tables", []) if (found := chosen(data, t))]
    for caption, header, body in tables or list(found_in(data)):
        lines += table(caption, header, body)
    return "\n".join(lines)


def made(path: Path, data: dict[str, Any], command: str | None = None) -> str:
    """Device, versions and command (that of the specification first), whatever there is of it."""
    where = [f"{_plain(data[key])}" for key in PLACE if key in data]
    versions = data.get("versions")
    versions = dict(versions) if isinstance(versions, dict) else {}
    versions |= {key: data[key] for key in LIBRARIES if isinstance(data.get(key), str)}
    facts = []
    if where:
        facts.append("device: " + ", ".join(dict.fromkeys(where)))
    if versions:
        facts.append("versions: " + ", ".join(f"{k} {_plain(v)}" for k, v in versions.items()))
    if data.get("setup"):
        facts.append(f"set-up: {_plain(data['setup'])}")
    for key in ("date", "preset", "seeds", "seconds"):
        if isinstance(data.get(key), str | int | float):
            facts.append(f"{key}: {number(data[key])}")
    if command := command or data.get("command"):
        facts.append(f"command: `{command}`")
    return "\n".join(f"- {fact}" for fact in [*facts, f"file: `benchmarks/results/{path.name}`"])


Table = tuple[str, list[str], list[list[str]]]


def chosen(data: dict[str, Any], specification: dict[str, Any]) -> Table | None:
    """The table that a specification asks for; None where the result has no such rows."""
    rows = at(data, specification["path"])
    if isinstance(rows, dict):
        rows = [{"": key, **value} for key, value in rows.items() if isinstance(value, dict)]
    if not isinstance(rows, list):
        return None
    for key, value in specification.get("where", {}).items():
        rows = [row for row in rows if at(row, key) == value]
    columns = specification["columns"]
    body = [[cell(row, key) for key in columns.values()] for row in rows]
    return (specification.get("caption", ""), list(columns), body) if body else None


def found_in(data: dict[str, Any], name: str = "") -> Iterator[Table]:
    """Every list of records within a result, with the columns that hold single values."""
    for key, value in data.items():
        caption = f"{name} / {key}" if name else key
        if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
            rows = [dict(_flat(row)) for row in value]
            columns = list(dict.fromkeys(key for row in rows for key in row))
            if columns:
                yield caption, columns, [[cell_of(row.get(c)) for c in columns] for row in rows]
        elif isinstance(value, dict) and key not in ("versions", "settings", "config"):
            inner = {k: v for k, v in value.items() if isinstance(v, dict)}
            rows = [{"": k, **dict(_flat(v))} for k, v in inner.items()]
            columns = list(dict.fromkeys(key for row in rows for key in row))
            if len(columns) > 1:
                yield caption, columns, [[cell_of(row.get(c)) for c in columns] for row in rows]
            yield from found_in(value, caption)


def _flat(row: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Single values of a record, those of records within it under joined names."""
    for key, value in row.items():
        if isinstance(value, dict):
            yield from ((f"{key}: {k}", v) for k, v in value.items() if _single(v))
        elif _single(value):
            yield key, value


def _single(value: Any) -> bool:
    return value is None or (isinstance(value, str) and len(value) < 60) or _number(value)


def _number(value: Any) -> bool:
    return isinstance(value, int | float)


def at(data: Any, path: str) -> Any:
    """What stands at a path of keys; None where there is nothing."""
    for key in path.split("/"):
        data = data.get(key) if isinstance(data, dict) else None
    return data


def cell(row: dict[str, Any], key: str) -> str:
    """A value; after "~" the mean of a list and its standard error; "a ± b" two of them."""
    if " ± " in key:
        mean, error = (at(row, part) for part in key.split(" ± "))
        return "" if mean is None else number(mean) + PLUS_MINUS + number(error, digits=2)
    value = at(row, key.removeprefix("~"))
    if key.startswith("~") and isinstance(value, list) and value:
        values = [v[-1] if isinstance(v, list) else v for v in value]
        return spread([v for v in values if _number(v)])
    return cell_of(value)


def spread(values: list[float]) -> str:
    """Mean ± standard error."""
    if not values:
        return ""
    mean = sum(values) / len(values)
    if len(values) == 1:
        return number(mean)
    variance = sum((v - mean) ** 2 for v in values) / (len(values) - 1)
    error = math.sqrt(variance / len(values))
    return number(mean) + PLUS_MINUS + number(error, digits=2)


def cell_of(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, list):
        short = len(value) <= 4 and all(map(_single, value))
        return " x ".join(_plain(v) for v in value) if short else ""
    return number(value) if _number(value) else _plain(value)


def number(value: Any, *, digits: int = 4) -> str:
    """A number as one reads it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int) or not _number(value):
        return f"{value:,}" if isinstance(value, int) else _plain(value)
    if not math.isfinite(value) or value == 0:
        return str(value) if value else "0"
    if 1e-4 <= abs(value) < min(1000, 10**digits):
        return f"{value:.{digits}g}"
    return f"{value:,.0f}" if 1 <= abs(value) < 1e7 else f"{value:.{max(digits - 2, 1)}e}"


def _plain(value: Any) -> str:
    """Text that means nothing to Markdown."""
    if isinstance(value, dict):
        return "; ".join(f"{k}: {_plain(v)}" for k, v in value.items())
    text = str(value).replace("\n", " ").replace("|", "\\|")
    return text.replace("<", "&lt;").replace("*", "\\*").replace("_", "\\_").replace("$", "\\$")


def table(caption: str, header: list[str], body: list[list[str]]) -> list[str]:
    """A Markdown table; a long one is folded, a very long one cut, and says so."""
    keep = [i for i in range(len(header)) if any(row[i] for row in body)]
    header = [_plain(header[i]) or " " for i in keep]
    shown = [[row[i] or " " for i in keep] for row in body[:LONG]]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(keep) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in shown]
    if len(body) > LONG:
        lines += ["", f"The first {LONG} of {len(body)} rows; the file has all of them."]
    if len(body) > SHORT:
        return [f":::{{dropdown}} {caption or 'rows'} ({len(body)} rows)", *lines, ":::", ""]
    return ([f"*{_plain(caption)}*", ""] if caption else []) + [*lines, ""]
