"""The example runs as its first lines say and shows that nothing leaks."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "greens_ldos.py"


@pytest.mark.slow
def test_the_example_draws_and_shows_no_leak(tmp_path):
    picture = tmp_path / "ldos.png"
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), "--sites", "40", "--output", str(picture)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "causal 0.0e+00" in done.stdout
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_a_bad_eta_is_named(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(EXAMPLE), "--eta", "0"])
    with pytest.raises(SystemExit) as stopped:
        runpy.run_path(str(EXAMPLE), run_name="__main__")
    assert stopped.value.code == 2
    assert "--eta must be positive, got 0.0" in capsys.readouterr().err
