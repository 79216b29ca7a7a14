"""Tokens a second on meshes: the same steps on one device and on several."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import scaling

BENCHMARKS = Path(scaling.__file__).parent


@pytest.mark.slow
def test_a_mesh_takes_the_steps_of_one_device(on_devices, tmp_path):
    files = ["--output", str(tmp_path / "r.json"), "--turns", str(tmp_path / "turn")]
    arguments = ["scaling.py", "--preset", "smoke", "--calls", "2", "--batches", "4", *files]
    code = f"import sys; sys.path.insert(0, {str(BENCHMARKS)!r}); sys.argv = {arguments}\n"
    table = on_devices(code + "import scaling; scaling.main()", 2).splitlines()[-4:]
    report = json.loads((tmp_path / "r.json").read_text())
    runs = report["runs"]
    assert [run["row"] for run in runs] == ["transformer", "transformer", "bk", "bk"]
    tokens = report["training"]["steps_per_call"] * 4 * report["training"]["block"]
    for one, two, line in zip(runs[::2], runs[1::2], table[1::2], strict=True):
        assert (one["mesh"], two["mesh"], one["batch"], two["batch"]) == ("one", "data=2", 4, 4)
        assert one["loss_last"] < one["loss_first"] - 0.1
        assert two["loss_first"] == pytest.approx(one["loss_first"], abs=1e-5)
        assert two["loss_last"] == pytest.approx(one["loss_last"], abs=1e-3)
        assert len(two["seconds"]) == 2
        assert two["tokens_per_s"] == pytest.approx(tokens / np.median(two["seconds"]))
        assert f"{two['tokens_per_s'] / one['tokens_per_s']:7.2f}" in line


@pytest.mark.parametrize(
    ("mesh", "message"),
    [("data", "data=2,tensor=2"), ("depth=2", "data=2,tensor=2"), ("data=0", "at least 1")],
)
def test_what_is_no_mesh_is_refused(mesh, message):
    with pytest.raises(scaling.UserError, match=message):
        scaling.devices(mesh)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--meshes", "data=64"], r"of data 64 .* does not fit"),
        (["--", "--mesh.data", "2"], "give meshes by --meshes"),
    ],
)
def test_what_cannot_run_ends_with_a_sentence(monkeypatch, options, message):
    monkeypatch.setattr(sys, "argv", ["scaling.py", "--preset", "smoke", *options])
    with pytest.raises(SystemExit, match=message):
        scaling.main()
