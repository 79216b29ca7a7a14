"""The table, its JSON, the picture and the yardstick."""

import json
import math

import numpy as np
import pytest
from lm import picture, ppmd, report
from lm.results import KINDS, Experts, Gate, Point, Result, kind_of
from rich.console import Console


def curve(*points):
    return tuple(Point(step, 10 * step, seconds, nats) for step, seconds, nats in points)


HEADS = np.diag([1.0, 1.0, 1.0, 1.0, 1.0])
HEADS[3, 1] = 0.5  # half of the heads keep this pair

TOOK = Experts(((0.2, 0.5, 0.3), (0.0, 1.0, 0.0)), {"vowels": (0, 1, 0), "spaces": (0.7, 0, 0.3)})

FAST = Result(
    "transformer", "plain transformer", nats=1.9, parameters=800_000, kept_pairs=1.0,
    tokens_per_second=40_000.0, seconds=20.0, layers=4, memory={2: 2**20, 4: 3 * 2**20},
    curve=curve((1, 10.0, 2.2), (2, 20.0, 1.9)), sample="[bold]To be\nor not", digest="ab",
)  # fmt: skip
SLOW = Result(
    "bk", "BK-Core", nats=1.7, parameters=801_000, kept_pairs=0.4, tokens_per_second=30_000.0,
    seconds=30.0, layers=4, memory={4: 2**21}, experts=TOOK,
    curve=curve((1, 15.0, 2.0), (2, 30.0, 1.7)),
    gate=Gate("to be", HEADS), sample="~", digest="cd",
)  # fmt: skip
YARDSTICK = Result("ppmd", "PPMd, order 6", nats=math.log(4.0))


def test_equal_time_is_where_the_curve_stood_when_the_fastest_row_was_done():
    assert report.equal_time([YARDSTICK, FAST, SLOW]) == 20.0
    assert FAST.nats_at(20.0) == 1.9
    assert SLOW.nats_at(20.0) == pytest.approx(2.0 - 0.3 * 5 / 15)
    assert SLOW.nats_at(14.9) is None  # not measured that early
    assert SLOW.nats_at(99.0) == 1.7
    assert YARDSTICK.nats_at(20.0) is None
    assert report.equal_time([YARDSTICK]) is None


def test_table_json_and_markdown_hold_the_same_figures(tmp_path, capsys):
    console = Console(markup=False, highlight=False, width=80)
    rows = [YARDSTICK, FAST, SLOW]
    report.write(tmp_path, rows, text="toy", console=console)
    printed = capsys.readouterr().out
    document = (tmp_path / "report.md").read_text()
    for line in (
        ["PPMd, order 6", "-", "1.386", "2.000", "-", "-", "-", "-"],
        ["plain transformer", "800,000", "1.900", "2.741", "1.900", "100.0%", "40,000", "3.0 MiB"],
        ["BK-Core", "801,000", "1.700", "2.453", "1.900", "40.0%", "30,000", "2.0 MiB"],
    ):
        assert "| " + " | ".join(line) + " |" in document
        (row,) = [found for found in printed.splitlines() if found.strip().startswith(line[0] + " ")
                  and "writes" not in found]  # fmt: skip
        assert row.split() == " ".join(line).split()
    assert "[bold]To be\nor not" in printed
    assert "[bold]To be\nor not" in document
    assert "report.png" in document
    found = json.loads((tmp_path / "report.json").read_text())
    assert found["equal_seconds"] == 20.0
    assert [row["nats_at_equal_time"] for row in found["rows"]] == [None, 1.9, pytest.approx(1.9)]
    assert found["rows"][0]["bits"] == pytest.approx(2.0)
    assert found["rows"][2]["memory"] == {"4": 2**21}
    assert found["rows"][2]["gate"] == {"text": "to be", "kept": HEADS.tolist()}
    assert (tmp_path / "report.png").read_bytes().startswith(b"\x89PNG")


def titles(*results):
    return [axes.get_title(loc="left") for axes in picture.draw(list(results)).axes]


def test_a_panel_for_what_there_is_and_none_that_is_empty():
    curves = ["Loss against characters read", "Loss against time in training steps"]
    assert titles(YARDSTICK) == []
    assert titles(YARDSTICK, FAST) == [*curves, "Memory against depth"]
    assert titles(FAST, SLOW) == [
        *curves,
        "Pairs kept by the last layer of BK-Core: 37% here",
        "Memory against depth",
        "Load of BK-Core: % of the tokens",
        "Which expert takes which characters: % of each kind",
    ]


def test_the_maps_of_experts_hold_their_shares():
    load, taken = picture.draw([SLOW]).axes[-2:]
    shares = lambda axes: [text.get_text() for text in axes.texts]  # noqa: E731
    names = lambda axes: [label.get_text() for label in axes.get_yticklabels()]  # noqa: E731
    assert shares(load) == ["50", "30", "20", "100"]
    assert names(load) == ["layer 1: 2.8 in use", "layer 2: 1.0 in use"]
    assert shares(taken) == ["100", "70", "30"]
    assert names(taken) == ["vowels", "spaces"]
    found = [kind_of(character) for character in "aßX7!\t\n"]
    assert found == list(KINDS)


def test_the_gate_map_shades_causal_pairs_by_the_heads_that_keep_them():
    axes = picture.draw([SLOW]).axes[2]
    (image,) = axes.get_images()
    pixels = np.asarray(image.get_array())
    assert (pixels[np.triu_indices(5, 1)] == 1.0).all()  # white: the future
    every, none, half = pixels[2, 2], pixels[2, 1], pixels[3, 1]
    assert not np.allclose(every, none)
    np.testing.assert_allclose(half, (every + none) / 2)
    assert (pixels[np.diag_indices(5)] == every).all()
    assert [label.get_text() for label in axes.get_xticklabels()] == list("to␣be")


def test_ppmd_spends_little_on_what_it_knows_and_log_n_on_noise():
    pytest.importorskip("pyppmd")
    noise = "".join(np.random.default_rng(0).choice(list("abcdefghijklmnop"), 40_000))
    assert ppmd.nats(noise[:20_000], noise[20_000:]) == pytest.approx(math.log(16), rel=0.08)
    assert ppmd.nats(noise[:20_000], noise[:20_000]) < 0.2 * math.log(16)
    # Twice the bytes a character must not halve the nats a character.
    wide = noise.translate({ord(c): chr(ord(c) + 0x3A0) for c in "abcdefghijklmnop"})
    assert ppmd.nats(wide[:20_000], wide[20_000:]) == pytest.approx(math.log(16), rel=0.1)
