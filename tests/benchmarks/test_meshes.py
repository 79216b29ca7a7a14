"""Tokens a second on meshes: the same steps on one device and on several."""

import json
import sys
from pathlib import Path

import meshes as benchmark
import pytest

BENCHMARKS = Path(benchmark.__file__).parent


@pytest.mark.slow
def test_a_mesh_takes_the_steps_of_one_device(on_devices, tmp_path):
    arguments = ["meshes.py", "--preset", "smoke", "--rows", "transformer", "--calls", "1"]
    arguments += ["--meshes", "data=2", "tensor=2", "--output", str(tmp_path / "r.json")]
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); sys.argv = {arguments}\n"
    table = on_devices(code + "import meshes; meshes.main()", 2).splitlines()[-3:]
    report = json.loads((tmp_path / "r.json").read_text())
    one, *others = report["runs"]
    assert [run["mesh"] for run in others] == ["data=2", "tensor=2"]
    assert one["loss_last"] < one["loss_first"] - 0.3
    for run, line in zip(others, table[1:], strict=True):
        assert run["loss_first"] == pytest.approx(one["loss_first"], abs=1e-5)
        assert run["loss_last"] == pytest.approx(one["loss_last"], abs=1e-3)
        assert f"{run['tokens_per_s'] / one['tokens_per_s']:7.2f}" in line


@pytest.mark.parametrize(
    ("mesh", "message"),
    [("data", "data=2,tensor=2"), ("depth=2", "data=2,tensor=2"), ("data=0", "at least 1")],
)
def test_what_is_no_mesh_is_refused(mesh, message):
    with pytest.raises(benchmark.UserError, match=message):
        benchmark.devices_of(mesh)


def test_a_mesh_larger_than_the_devices_ends_with_a_sentence(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["meshes.py", "--preset", "smoke", "--meshes", "data=64"])
    with pytest.raises(SystemExit, match=r"of data 64 .* does not fit"):
        benchmark.main()
