"""The benchmark of the particles runs, and its four ways make steps of the same kind."""

import json
import subprocess

import jax
import numpy as np
import particles as benchmark
import pytest


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder = tmp_path_factory.mktemp("particles")
    files = ["--output", str(folder / "r.json"), "--picture", str(folder / "p.png")]
    with pytest.MonkeyPatch.context() as patch, jax.enable_x64(False):
        patch.setattr("sys.argv", ["particles.py", "--preset", "smoke", *files])
        benchmark.main()
    assert (folder / "p.png").read_bytes().startswith(b"\x89PNG")
    return json.loads((folder / "r.json").read_text())


def test_smoke_measures(report):
    assert [row["way"] for row in report["ways"]] == ["rank 1", "full rank"]
    (row,) = report["spread"]
    assert (row["devices"], row["parameters"]) == (1, 2 * 8 * 16 + 16 + 8)
    for row in report["ways"] + report["spread"]:
        assert row["particles_per_second"] * row["seconds"] == pytest.approx(row["particles"])


def test_a_process_with_forced_devices_prints_its_rows(monkeypatch, capsys):
    def run(command, env, **options):
        assert env["XLA_FLAGS"].endswith("--xla_force_host_platform_device_count=3")
        monkeypatch.setattr("sys.argv", command[1:])
        benchmark.main()
        return subprocess.CompletedProcess(command, 0, capsys.readouterr().out)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(benchmark, "measure", lambda *sizes: list(sizes))
    smoke = benchmark.PRESETS["smoke"]
    assert benchmark.forced("smoke", 3) == [["rank 1", 4, 8, smoke.batch, 3, smoke.repeats]]


def test_presets_fit_what_they_are_for():
    gpu = benchmark.PRESETS["gpu"]
    count = sum(x.size for x in benchmark.network(gpu.width).values())
    assert 1_000_000 < count < 1_100_000
    assert gpu.devices == (1, 2)
    ways = {way for preset in benchmark.PRESETS.values() for way, _ in preset.ways}
    assert ways == set(benchmark.WAYS)


def test_a_perturbed_network_has_the_loss_of_its_sum():
    from physnet.superposition.path_integral import Perturbed

    params = benchmark.network(8)
    rng = np.random.default_rng(0)
    normal = lambda *shape: jax.numpy.asarray(rng.normal(size=shape), "float32")  # noqa: E731
    own = dict(params)
    for name in ("up", "down"):
        m, n = params[name].shape
        own[name] = Perturbed(params[name], normal(m, 1), normal(n, 1))
    dense = {k: v.dense() if isinstance(v, Perturbed) else v for k, v in own.items()}
    x, y = normal(3, 8), normal(3, 8)
    np.testing.assert_allclose(benchmark.loss(own, x, y), benchmark.loss(dense, x, y), rtol=1e-5)


def test_measured_results_are_there():
    assert benchmark.PICTURE.stat().st_size > 10_000
    found = json.loads((benchmark.RESULTS / "particles.json").read_text())
    rate = {
        (row["way"], row["particles"]): row["particles_per_cpu_second"] for row in found["ways"]
    }
    memory = {(row["way"], row["particles"]): row["temporary_bytes"] for row in found["ways"]}
    assert rate["rank 1", 64] > 5 * rate["full rank, vmap", 64]
    assert memory["rank 1", 64] < memory["full rank, vmap", 64] / 20
    assert {row["devices"] for row in found["spread"]} == set(benchmark.PRESETS["cpu"].devices)
