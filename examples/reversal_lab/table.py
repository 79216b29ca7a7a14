"""A finished run as text."""

from typing import Any

from stacks.statistics import mean_and_error

from reversal_lab import fields, heads, oscillators, texts
from reversal_lab.comparisons import shown

Row = dict[str, Any]


def show(results: Row) -> None:
    parts = {"oscillators": _oscillators, "heads": _heads, "fields": _fields, "text": _text}
    for part, print_part in parts.items():
        rows = [row for row in results["rows"] if row["part"] == part]
        if rows:
            print_part(rows, [c for c in results["comparisons"] if c["part"] == part])
    print(f"\n{len(results['comparisons'])} comparisons; p of a paired test, corrected for all")


def _means(row: Row, names: tuple[str, ...]) -> str:
    return "".join("{:9.4f} ±{:6.4f}".format(*mean_and_error(row["values"][n])) for n in names)


def _ratio(c: Row) -> str:
    """exp of a difference of logarithms, its error in per cent."""
    mean, error = 2.718281828 ** c["mean"], 100 * c["error"]
    return f"x {mean:.3f} ±{error:.0f}% (p {c['p_holm']:.3f})"


def _line(comparisons: list[Row], row: Row, names: dict[str, str]) -> None:
    for against in dict.fromkeys(c["against"] for c in comparisons):
        own = [
            c
            for c in comparisons
            if (c["setting"], c["row"], c["weight"], c["against"])
            == (row["setting"], row["row"], row.get("weight"), against)
        ]
        if own:
            cells = "  ".join(f"{names[c['measure']]} {_ratio(c)}" for c in own)
            print(f"    against {against}: {cells}")


def _heads(rows: list[Row], comparisons: list[Row]) -> None:
    _oscillators(rows, comparisons, title="two heads", labels=heads.ROWS)


def _oscillators(
    rows: list[Row],
    comparisons: list[Row],
    *,
    title: str = "oscillators",
    labels: dict[str, str] = oscillators.ROWS,
) -> None:
    names = {"near": f"at {oscillators.NEAR}", "far": f"at {oscillators.FAR}", "energy": "energy"}
    for setting in dict.fromkeys(row["setting"] for row in rows):
        print(
            f"\n{f'{title}, friction {setting}':<30}{'weight':>17} {'MSE at 10':>15} "
            f"{'at 100':>16} {'energy error':>17} {'asymmetry':>16}"
        )
        for row in rows:
            if row["setting"] == setting and shown(row):
                star = "*" if row["edge"] else " "
                label = labels[row["row"]] + ("" if row["own"] else " (weight of 0)")
                weight = f"{row['weight']:g}{star}" if row["row"] != "base" else ""
                print(
                    f"{label:42} {weight:>5} {_means(row, ('near', 'far', 'energy', 'asymmetry'))}"
                )
                _line(comparisons, row, names)


def _fields(rows: list[Row], comparisons: list[Row]) -> None:
    names = {"one_step": "one step", "rollout": f"{fields.ROLLOUT} steps"}
    first = rows[0]
    print(
        f"\nreaction-diffusion: variance {first['variance']:.4f}, "
        f"mean square of a step {first['moved']:.4f}"
    )
    for setting in dict.fromkeys(row["setting"] for row in rows):
        print(
            f"\n{f'trajectories: {setting}':40} {'rate':>6} {'one step':>16} "
            f"{f'{fields.ROLLOUT} steps':>16} {'one step back':>17}"
        )
        for row in rows:
            if row["setting"] == setting:
                rate = f"{row['rate']:.0e}{'*' if row['edge'] else ' '}"
                print(f"{fields.ROWS[row['row']]:40} {rate:>6}{_means(row, fields.MEASURES)}")
                _line(comparisons, row, names)


def _text(rows: list[Row], comparisons: list[Row]) -> None:
    for setting in dict.fromkeys(row["setting"] for row in rows):
        own = [row for row in rows if row["setting"] == setting]
        title = f"text: {own[0]['characters']:,} characters"
        print(
            f"\n{title:24} {'forward':>16} {'backward':>16} "
            f"{'forward at end':>17} {'backward at end':>16}   nats a character"
        )
        for row in own:
            names = ("forward", "backward", "forward_end", "backward_end")
            print(f"{texts.ROWS[row['row']]:24}{_means(row, names)}")
        for c in comparisons:
            if c["setting"] == setting:
                what = c["measure"] if c["row"] == "mixed" else "its own way"
                print(
                    f"    {c['row']} less {c['against']}, {what}: {c['mean']:+.4f} "
                    f"±{c['error']:.4f} (p {c['p_holm']:.3f})"
                )
