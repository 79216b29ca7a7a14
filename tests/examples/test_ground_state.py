"""Ground states by imaginary time: what the example writes, and its Hamiltonians."""

import json

import ground_state as example
import jax
import numpy as np
import pytest


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The example as a user runs it: its report and its picture."""
    folder = tmp_path_factory.mktemp("ground_state")
    picture, results = folder / "new" / "picture.png", folder / "new" / "results.json"
    with pytest.MonkeyPatch.context() as patch:
        files = ["--output", str(picture), "--results", str(results)]
        patch.setattr("sys.argv", ["ground_state.py", "--preset", "smoke", *files])
        with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
            example.main()
    return json.loads(results.read_text()), picture


@pytest.mark.slow
def test_it_writes_what_it_says(run):
    report, picture = run
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert report["weights"] == 84
    np.testing.assert_allclose(report["exact"]["Ising"], report["closed_form"], rtol=1e-10)
    np.testing.assert_allclose(report["exact"]["Heisenberg"], -2.8027756377319946, rtol=1e-10)
    assert {row["skipped"] for row in report["runs"]} == {0}


def test_energies_are_variational_and_sums_over_the_basis_win(run):
    errors = {(row["model"], row["method"]): row["error"] for row in run[0]["runs"]}
    assert min(errors.values()) > -1e-12
    for model in ("Ising", "Heisenberg"):
        assert errors[model, "SR"] < 5e-5
        assert errors[model, "SR"] < errors[model, "SPRING"] < errors[model, "Adam"]


def test_steps_of_half_the_length_lose_a_quarter(run):
    lost = [row["infidelity"] for row in run[0]["evolution"]]
    np.testing.assert_allclose([lost[0] / lost[1], lost[1] / lost[2]], 4, rtol=0.05)


def test_measured_rings_of_twelve_meet_their_targets():
    report = json.loads((example.ROOT / "benchmarks/results/ground_state.json").read_text())
    assert (report["spins"], report["weights"]) == (12, 312)
    rows = [row for row in report["runs"] if row["method"] == "SR"]
    assert {(row["model"], row["seed"]) for row in rows} == {
        (model, seed) for model in example.TARGETS for seed in range(3)
    }
    for row in rows:
        assert -1e-12 < row["error"] < example.TARGETS[row["model"]]
        assert row["cpu_seconds"] < 60


@pytest.mark.parametrize("make", [example.ising, example.heisenberg])
def test_hamiltonians_are_those_of_pauli_matrices(make):
    half = np.array([[[0, 1], [1, 0]], [[0, -1j], [1j, 0]], [[1, 0], [0, -1]]]) / 2

    def on(site, matrix):
        found = np.eye(1)
        for i in range(4):  # the first spin is the lowest bit
            found = np.kron(matrix if i == site else np.eye(2), found)
        return found

    h = np.zeros((16, 16), complex)
    for i in range(4):
        if make is example.ising:
            h -= 4 * on(i, half[2]) @ on((i + 1) % 4, half[2]) + 2 * on(i, half[0])
        else:
            h += sum(on(i, s) @ on((i + 1) % 4, s) for s in half)
    ring = make(4)
    index = np.sum((1 - ring.states.astype(int)) // 2 * 2 ** np.arange(4), axis=1)
    turned = np.ones(len(index))
    if make is example.heisenberg:
        turned = np.prod(ring.states[:, ::2], axis=1)
    block = turned[:, None] * h[np.ix_(index, index)].real * turned
    np.testing.assert_allclose(ring.matrix.toarray(), block, atol=1e-12)
    np.testing.assert_allclose(ring.exact, np.linalg.eigvalsh(h)[0], rtol=1e-9)
