"""The spectra of deep stacks: what the example writes, and who predicts on small ones."""

import json
import math

import dyson_spectrum
import numpy as np
import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """run(*arguments): the example as a user runs it, its report and its picture."""

    def main(*arguments):
        folder = tmp_path_factory.mktemp("dyson")
        picture, results = folder / "new" / "picture.png", folder / "new" / "results.json"
        files = ["--output", str(picture), "--results", str(results)]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.argv", ["dyson_spectrum.py", *files, *map(str, arguments)])
            dyson_spectrum.main()
        return json.loads(results.read_text()), picture

    return main


def test_it_draws_and_says_who_predicts(run, capsys):
    report, picture = run("--depths", 12, "--seeds", 1, "--width", 16, "--batch", 2)
    printed = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in printed
    rows = {row["stack"]: row for row in report["rows"]}
    assert set(rows) == set(dyson_spectrum.STACKS)
    assert all(name in printed for name in rows)
    assert len(report["chains"]) == len(dyson_spectrum.CHAINS)
    # Near the identity the scalar propagator predicts; in plain layers squares do, and it does not.
    (near,), (plain,) = (
        rows["residual 0.99"]["rho"]["log_error"],
        rows["gaussian 0.9"]["rho"]["log_error"],
    )
    assert near < 0.01 < 5 < plain
    assert rows["gaussian 0.9"]["chi"]["log_error"][0] < math.log(2)
    assert report["medians"]["chi"]["log_error"] < report["medians"]["chain"]["log_error"]


@pytest.mark.parametrize("name", dyson_spectrum.STACKS)
def test_layers_of_a_stack(name):
    params = dyson_spectrum.STACKS[name](np.random.default_rng(0), 20, 8)
    assert params["w"].shape == (20, 8, 8)
    assert params["skip"].shape == params["branch"].shape == (20,)
    if name == "orthogonal":
        np.testing.assert_allclose(params["w"][3] @ params["w"][3].T, np.eye(8), atol=1e-12)
    else:
        size = np.sqrt((params["w"] ** 2).sum((1, 2)) / 8)
        assert 0.5 < size.min() < size.max() < 5.5
    residual = name.startswith("residual")
    np.testing.assert_allclose(params["skip"] + params["branch"], 1)
    assert np.all((params["skip"] > 0) == residual)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("--depths", "3"), "--depths must be at least 4, got 3"), (("--seeds", "0"), "--seeds")],
)
def test_refuses(arguments, message, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["dyson_spectrum.py", *arguments])
    with pytest.raises(SystemExit):
        dyson_spectrum.main()
    assert message in capsys.readouterr().err
