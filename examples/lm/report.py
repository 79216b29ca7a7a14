"""What a run leaves behind: a table, its figures as JSON, samples of text and a picture."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from lm import files, picture
from lm.results import Part, Result

COLUMNS = (
    "model",
    "parameters",
    "nats",
    "bits",
    "nats at\nequal time",
    "pairs\nkept",
    "tokens/s",
    "step\nmemory",
)

COMPARED = ("model", "nats", "accuracy", "pairs kept")


def write(folder: Path, results: list[Result], *, text: str, console: Console) -> None:
    """Print the table and the samples; write report.json, report.md and report.png."""
    finish = equal_time(results)
    rows = [cells(result, finish) for result in results]
    table = Table(
        title=f"Loss per character of held-out text: {text}",
        box=SIMPLE_HEAD,
        padding=0,  # eight columns in eighty characters
    )
    for index, name in enumerate(COLUMNS):
        table.add_column(name, justify="right" if index else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    if compared := comparison(results):
        finer = Table(title="Rows and what they are compared with", box=SIMPLE_HEAD, padding=0)
        for index, name in enumerate(COMPARED):
            finer.add_column(name, justify="right" if index else "left", no_wrap=True)
        for row in compared:
            finer.add_row(*row)
        console.print(finer)
    for result in results:
        if result.sample:
            console.print(f"\n{result.label} writes:", style="bold")
            console.print(result.sample)
    files.replace(folder / "report.json", json.dumps(figures(results, text), indent=2) + "\n")
    files.replace(folder / "report.md", markdown(results, rows, text))
    picture.draw(results).savefig(folder / "report.png")
    console.print(f"\nThe table, the samples and a picture are in {folder}/report.md")


def equal_time(results: list[Result]) -> float | None:
    """Seconds of training after which the fastest row was done."""
    return min((row.seconds for row in results if row.seconds is not None), default=None)


def figures(results: list[Result], text: str) -> dict[str, Any]:
    """All figures as JSON values."""
    finish = equal_time(results)
    rows = []
    for result in results:
        row = dataclasses.asdict(result) | {"bits": result.bits}
        row["nats_at_equal_time"] = None if finish is None else result.nats_at(finish)
        if result.gate is not None:
            row["gate"] = {"text": result.gate.text, "kept": result.gate.kept.tolist()}
        rows.append(row)
    return {"text": text, "equal_seconds": finish, "rows": rows}


def cells(result: Result, finish: float | None) -> tuple[str, ...]:
    """A row of the table, in the order of COLUMNS."""
    at_finish = None if finish is None else result.nats_at(finish)
    step_memory = result.memory.get(result.layers) if result.layers is not None else None
    return (
        result.label,
        _format(result.parameters, "{:,}"),
        f"{result.nats:.3f}",
        f"{result.bits:.3f}",
        _format(at_finish, "{:.3f}"),
        _format(result.kept_pairs, "{:.1%}"),
        _format(result.tokens_per_second, "{:,.0f}"),
        "-" if step_memory is None else f"{step_memory / 2**20:.1f} MiB",
    )


def comparison(results: list[Result]) -> list[tuple[str, ...]]:
    """Lines for every row of a model and its parts, where some row has parts; in COMPARED's order.

    After the parts of an ensemble stands their mean.
    """
    if not any(result.parts for result in results):
        return []
    lines = []
    for result in results:
        if result.accuracy is None:
            continue
        lines.append(_compared(result.label, result))
        lines += [_compared(f"  {one.label}", one) for one in result.parts]
        if len(result.parts) > 1:
            nats, accuracy, kept = (
                sum(getattr(one, name) for one in result.parts) / len(result.parts)
                for name in ("nats", "accuracy", "kept_pairs")
            )
            lines.append(_compared("  mean of these", Part("", nats, accuracy, kept)))
    return lines


def _compared(label: str, figures: Result | Part) -> tuple[str, ...]:
    kept = _format(figures.kept_pairs, "{:.1%}")
    return label, f"{figures.nats:.4f}", _format(figures.accuracy, "{:.2%}"), kept


def markdown(results: list[Result], rows: list[tuple[str, ...]], text: str) -> str:
    """The table with a line about each column, the picture, and the samples."""
    lines = [f"# Language models on {text}", ""]
    header = " | ".join(COLUMNS).replace("\n", " ")
    lines += [f"| {header} |", "|---" + "|---:" * (len(COLUMNS) - 1) + "|"]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    notes = NOTES + (EXPERTS if any(result.experts for result in results) else "")
    notes += "".join(note for name, note in DEPTH if any(row.name == name for row in results))
    if compared := comparison(results):
        lines += ["", f"| {' | '.join(COMPARED)} |", "|---" + "|---:" * (len(COMPARED) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in compared]
    lines += ["", notes, "", "![curves, gate map and memory](report.png)", ""]
    for result in results:
        if result.sample:
            lines += [f"## {result.label} writes", "", "~~~text", result.sample, "~~~", ""]
    return "\n".join(lines)


NOTES = """\
Nats and bits are means over every held-out character; models see windows that each start afresh,
PPMd all of the text before. At equal time: where a row's validation curve stood when the fastest
row had finished its schedule (seconds in training steps alone). Pairs kept: the share of causal
pairs that attention computes. Step memory: what a training step needs beside parameters,
optimiser and batch, read from the compiled program."""
EXPERTS = """
The row with experts computes as many products a token as BK-Core, with the parameters of all its
experts."""
DEPTH = (
    ("bk-teleport", "\nTeleport: BK-Core trained by gradients that also jump over its blocks."),
    (
        "bk-isometry",
        "\nIsometry: BK-Core with a penalty on blocks that change lengths, in no loss shown here.",
    ),
    (
        "bk-reversible",
        "\nReversible: BK-Core that rebuilds the activations of each block in its backward pass.",
    ),
    (
        "bk-refined",
        "\nRefined: the trained BK-Core with a threshold for each head, chosen on text held back.",
    ),
    (
        "bk-ensemble",
        "\nMixed: the mean of the probabilities of models of several seeds; its tokens/s count the"
        " text that each of them reads.",
    ),
    ("bk-forward", "\nForward KL: a BK-Core that also learns that mixture, KL(mixture || it)."),
    ("bk-reverse", "\nReverse KL: a BK-Core that also learns that mixture, KL(it || mixture)."),
)
"""What the table says of rows with these names."""


def _format(value: float | None, template: str) -> str:
    return "-" if value is None else template.format(value)
