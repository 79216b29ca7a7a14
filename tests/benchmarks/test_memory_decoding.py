"""The smoke preset of benchmarks/memory_decoding.py, and what its rows must have in common."""

import json
import sys

import memory_decoding
import pytest


@pytest.mark.slow
def test_smoke_preset(tmp_path, monkeypatch, capsys):
    output = tmp_path / "out.json"
    arguments = ["memory_decoding.py", "--preset", "smoke", "--output", str(output)]
    monkeypatch.setattr(sys, "argv", arguments)
    memory_decoding.main()
    result = json.loads(output.read_text())
    rows = {(row["way"], row["tokens"]): row for row in result["rows"]}
    short, long = memory_decoding.LENGTHS["smoke"]
    for way, config in memory_decoding.ways("smoke").items():
        one, two = rows[way, short], rows[way, long]
        if config is None:
            assert two["bytes"] > 3 * one["bytes"]
            assert two["entries"] == long + 32
        else:
            assert two["bytes"] == one["bytes"] == config.nbytes(64)
            assert two["entries"] < 300
        assert two["us"] > 0
    equal = rows["window", long]["bytes"] / rows["memory", long]["bytes"]
    assert 0.9 < equal <= 1
    assert rows["bk_core, memory", long]["bytes"] == rows["bk_core, memory", short]["bytes"]
    assert rows["bk_core, full", long]["bytes"] > 3 * rows["bk_core, full", short]["bytes"]
    assert "entries" in capsys.readouterr().out
