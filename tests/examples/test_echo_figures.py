"""Errors of echoes: what the example writes, on a small problem."""

import json

import echo as example
import pytest


@pytest.mark.slow
def test_it_reproduces_the_laws_of_the_errors(tmp_path, monkeypatch, capsys):
    picture, results = tmp_path / "new" / "p.png", tmp_path / "new" / "r.json"
    arguments = ["--size", "3", "--steps", "50", "100", "--seeds", "1", "--epsilons", "7"]
    files = ["--output", str(picture), "--results", str(results)]
    monkeypatch.setattr("sys.argv", ["echo.py", *arguments, *files])
    example.main()
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "automatic" in capsys.readouterr().out
    report = json.loads(results.read_text())
    wide, narrow = report["steps"][0], report["steps"][1]
    assert wide["exact"] < 1e-13 < wide["finite"] < 1e-8
    assert narrow["exact"] < 1e-5
    assert narrow["finite"] < 1e-3
    found = report["epsilon"]["float64"]
    assert found["automatic"] < 1e-8 < min(found["finite"][0], found["finite"][-1])
    exact, *twisted = report["without_potential"]
    assert exact["error"] < 1e-12
    errors = [row["error"] for row in twisted]
    assert errors == sorted(errors)
    assert errors[-1] > 0.1  # an antisymmetric part of 0.1


def test_refuses(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["echo.py", "--steps", "0"])
    with pytest.raises(SystemExit):
        example.main()
    assert "--steps must be at least 1, got 0" in capsys.readouterr().err
