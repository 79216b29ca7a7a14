"""The example runs as its first lines say: a Riemannian step reroutes few tokens at any radius."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "hyperbolic_optim.py"


@pytest.mark.slow
def test_the_example_draws_what_it_says(tmp_path):
    picture = tmp_path / "optim.png"
    options = ["--steps", "60", "--radii", "3", "6", "9", "--output", str(picture)]
    done = subprocess.run(
        [sys.executable, str(EXAMPLE), *options],
        env=os.environ | {"JAX_DISABLE_MOST_OPTIMIZATIONS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert picture.read_bytes().startswith(b"\x89PNG")
    numbers = {}
    for line in done.stdout.splitlines():
        label, *rest = line.rsplit(maxsplit=3)
        numbers[label.strip()] = [float(x.rstrip("%")) for x in rest if x != "s"]
    for coordinates in ("ball", "tangent"):
        assert max(numbers[f"rerouted: Riemannian step of 0.1, {coordinates}"]) < 8
        assert numbers[f"rerouted: Euclidean step of 1e-3, {coordinates}"][-1] > 50
        assert numbers[f"distance left: Euclidean Adam, {coordinates}"][-1] > 2
        left = numbers[f"distance left: Riemannian Adam, {coordinates}"]
        assert max(left) < 1.2 * min(left) < 1.2
