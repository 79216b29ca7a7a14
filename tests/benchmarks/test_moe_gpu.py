"""The benchmark of experts on a GPU runs on any device, and its ways agree."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "moe_gpu.py"
WAYS = ["even", "apply", "former", "ragged_dot"]


@pytest.mark.slow
def test_ways_run_and_agree(tmp_path):
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
    output = tmp_path / "r.json"
    options = ["--quick", "--output", str(output), "--dtypes", "float32", "--ways", *WAYS]
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *options],
        env=os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONWARNINGS": ""},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(output.read_text())
    assert report["sizes"]["experts"] == 8
    rows = report["rows"]
    assert len(rows) == 12  # three cases, two loads, forward and backward
    for row in rows:
        assert row["case"] in done.stdout
        ways = WAYS if row["case"].startswith("matrix") else WAYS[:3]
        assert sorted(row["ms"]) == sorted(ways)
        assert all(ms > 0 for ms in row["ms"].values())
        assert row["ratio"]["even"] == 1
        assert row["apart"] < 1e-5
