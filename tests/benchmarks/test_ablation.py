"""The ablation: its rows have equal sizes, its runs are kept, its verdicts follow from them."""

import dataclasses
import json
import sys

import ablation
import ablation_picture
import ablation_plan as plan
import ablation_recall
import ablation_report as reports
import ablation_runs
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lm import ablations, step
from lm import corpus as corpora
from lm.rows import parameters


@pytest.mark.parametrize("which", [0, 1, 2])
def test_rows_have_equal_parameters_and_a_reference(which):
    preset = ("smoke", "cpu", "gpu")[which]
    settings = plan.settings_of(preset, None)
    rows = plan.rows(settings)
    names = [row.name for row in rows]
    assert len(set(names)) == len(names)
    chosen = rows if preset == "cpu" else [r for r in rows if r.name in ("bk", "full", "long")]
    sizes = []
    for row in chosen:
        assert row.reference in names
        model, own = plan.built(row, settings, 65)
        sizes.append(parameters(model.init, model.config))
        assert own.training.batch * own.training.block == (
            settings.training.batch * settings.training.block
        )
        assert (model.penalty is not None) == row.isometry
    assert max(sizes) < 1.01 * min(sizes)


def test_what_is_left_out_or_added_is_all_that_differs():
    """From its reference, but for the width that keeps the number of parameters."""
    settings = plan.settings_of("cpu", None)
    rows = {row.name: row for row in plan.rows(settings)}
    for row in rows.values():
        if not row.mechanism:
            continue
        own, other = (r.fields or {} for r in (row, rows[row.reference]))
        changed = {k for k in own | other if own.get(k) != other.get(k)}
        changed |= {"isometry"} if row.isometry != rows[row.reference].isometry else set()
        allowed = {
            "experts": {"experts", "expert_width"},
            "teleport": {"teleport", "teleport_mode"},
            "gate, not a sliding window": {"density", "local_window"},
        }.get(row.mechanism)
        assert changed == allowed or len(changed) == 1, row.name


@pytest.mark.parametrize(("block", "density"), [(32, 0.4), (256, 0.25), (2048, 0.4)])
def test_a_window_and_a_memory_of_equal_share(block, density):
    from physnet.models import _memory

    near = ablations.window(block, density)
    band = np.subtract.outer(np.arange(block), np.arange(block))
    share = ((band >= 0) & (band < near)).sum() / (block * (block + 1) / 2)
    assert share == pytest.approx(density, abs=0.5 / block + 0.01)
    assert _memory.share(ablations.small_memory(block, density), block) == pytest.approx(share)


def made(nats):
    """A report with these losses of each row's seeds."""
    report = reports.about(plan.settings_of("cpu", None), "a text")
    for name, losses in nats.items():
        for seed, loss in enumerate(losses):
            report["runs"].append({
                "row": name, "seed": seed, "nats": loss, "accuracy": 0.5, "kept_pairs": 0.4,
                "parameters": 1000, "seconds": 2.0 if name == "bk-soft" else 1.0,
                "tokens_per_s": 10.0, "temporary_bytes": 2**20, "curve": [],
            })  # fmt: skip
    return report


def test_verdicts_are_of_paired_differences():
    base = [1.0, 2.0, 3.0]
    report = made({
        "bk": base,
        "bk-mixer": [1.11, 2.10, 3.09],  # attention left out
        "bk-soft": [1.02, 2.015, 3.025],
        "bk-hopping": [1.02, 2.01, 3.03],  # 3.5 standard errors: too few for three seeds
    })  # fmt: skip
    rows = plan.rows(plan.settings_of("cpu", None))
    found = {one.mechanism: one for one in reports.effects(report, rows)}
    assert set(found) == {"gated attention", "soft gate", "learned hopping"}
    assert found["gated attention"].nats == pytest.approx(-0.1)
    assert found["gated attention"].error == pytest.approx(0.01 / 3**0.5)
    assert found["soft gate"].time == 2.0
    verdicts = {name: one.verdict for name, one in found.items()}
    assert verdicts == {
        "gated attention": "helps",
        "soft gate": "costs",
        "learned hopping": "neither",
    }
    text = reports.write(report, rows)
    assert "| BK-Core, soft gate | 1,000 | 2.0200 ± " in text
    assert " | +0.0200 ± 0.0029 | 40% | 10 | 1 |" in text
    assert "| gated attention | BK-Core | -0.1000 ± 0.0058 | helps | 1.00x | 1.00x |" in text


def test_an_effect_and_its_costs_are_of_the_seeds_that_both_have():
    report = made({"bk": [1.0, 2.0, 9.0], "bk-soft": [1.1, 2.1]})
    report["runs"][2] |= {"seconds": 100.0, "temporary_bytes": 2**30}  # the seed of bk alone
    (found,) = reports.effects(report, plan.rows(plan.settings_of("cpu", None)))
    assert (found.seeds, found.time, found.memory) == (2, 2.0, 1.0)
    assert found.nats == pytest.approx(0.1)
    assert found.verdict == "few seeds"


@pytest.mark.parametrize("rows", [{"bk": [1.0, 2.0]}, {"bk": [1.0], "bk-soft": [1.5]}])
def test_a_picture_of_few_runs_or_of_no_effect(tmp_path, rows):
    ablation_picture.draw(made(rows), tmp_path / "few.png")
    assert (tmp_path / "few.png").read_bytes().startswith(b"\x89PNG")


def test_dense_attention_is_the_main_jobs_row_of_that_name():
    settings = plan.settings_of("cpu", None)
    (row,) = (row for row in plan.rows(settings) if row.name == "bk-dense")
    (change,) = (change for change in ablations.TOKENS if change.name == "bk-dense")
    assert (row.label, row.fields) == (change.label, change.fields(settings))


def test_rows_of_a_report_are_those_of_its_own_options():
    """Not of the preset's: a window of as many pairs, say, follows from the share of pairs."""
    settings = plan.settings_of("gpu", 1000, ["--bk.density", "0.3"])
    report = json.loads(json.dumps(reports.about(settings, "a text")))
    assert plan.rows(plan.settings_in(report)) == plan.rows(settings)
    assert plan.rows(settings) != plan.rows(plan.settings_of("gpu", 1000))


def test_reports_merge_and_other_settings_are_refused(tmp_path):
    paths = [tmp_path / f"{i}.json" for i in range(2)]
    for path, rows in zip(paths, ({"bk": [1.0]}, {"bk": [1.0], "bk-soft": [1.5]}), strict=True):
        reports.save(path, made(rows))
    report = reports.merge(paths)
    assert [(run["row"], run["seed"]) for run in report["runs"]] == [("bk", 0), ("bk-soft", 0)]
    assert reports.missing(report, "bk", [0, 1])
    assert not reports.missing(report, "bk", [0])
    with pytest.raises(SystemExit, match="other settings"):
        reports.load(paths[0], reports.about(plan.settings_of("smoke", None), "a text"))


@pytest.mark.slow
def test_smoke_preset(tmp_path, monkeypatch, capsys):
    output, picture = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ["--preset", "smoke", "--seeds", "2", "--output", str(output)]
    arguments += ["--only", "bk", "bk-hopping", "--turns", str(tmp_path / "turn")]
    arguments += ["--picture", str(picture), "--", "--bk.token-dropout", "0.1"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *arguments])
    ablation.main()
    report = json.loads(output.read_text())
    runs = {(run["row"], run["seed"]): run for run in report["runs"]}
    assert set(runs) == {(name, seed) for name in ("bk", "bk-hopping") for seed in (0, 1)}
    assert not report["failed"]
    for run in runs.values():
        assert 0 < run["nats"] < run["curve"][0][1] + 0.2
        assert run["curve"][-1][0] == 20
        assert run["temporary_bytes"] > 0
    assert runs["bk", 0]["nats"] != runs["bk", 1]["nats"]
    assert picture.stat().st_size > 5000
    assert report["settings"]["bk"]["token_dropout"] == 0.1
    assert "| learned hopping | BK-Core | " in capsys.readouterr().out
    ablation.main()  # what is there is not run again
    assert json.loads(output.read_text()) == report


def test_a_seed_trains_as_in_the_main_job():
    """One program for all seeds takes the steps that the main job compiles for one of them."""
    settings = plan.settings_of("smoke", 4, ["--training.steps-per-call", "2"])
    corpus = corpora.split("a text", "to be or not to be, that is the question; " * 40, block=32)
    (row,) = (row for row in plan.rows(settings) if row.name == "transformer")
    model, settings = plan.built(row, settings, len(corpus.characters))
    training = dataclasses.replace(settings.training, seed=5)
    programs = ablation_runs.Programs(model, settings.training, corpus)
    state, own = programs.begin(jnp.int32(5)), step.begin(model, training)
    run = jax.jit(step.program(model, training, 2))
    for first in (0, 2):
        state, _ = programs.calls[2](state, programs.tokens, jnp.int32(first), jnp.int32(5))
        own, _ = run(own, programs.tokens, jnp.int32(first))
    for one, other in zip(jax.tree.leaves(state), jax.tree.leaves(own), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-7)


def test_a_run_that_fails_is_named_and_costs_no_other(tmp_path, monkeypatch, capsys):
    output = tmp_path / "out.json"

    def run(row, seeds, *_, kept, **__):
        if row.name == "bk":
            raise ValueError("no such luck")
        kept(made({row.name: [1.5]})["runs"][0])

    monkeypatch.setattr(ablation, "run", run)
    arguments = ["--preset", "smoke", "--seeds", "1", "--only", "bk", "bk-soft"]
    monkeypatch.setattr(sys, "argv", ["ablation.py", *arguments, "--output", str(output)])
    ablation.main()
    assert "BK-Core failed: ValueError('no such luck')" in capsys.readouterr().out
    assert [run["row"] for run in json.loads(output.read_text())["runs"]] == ["bk-soft"]


def test_far_pairs_lie_beyond_the_window():
    task = ablation_recall.stages("gpu", 256)[0][-1]
    tokens, wanted = (np.asarray(x) for x in ablation_recall.far(task, jax.random.key(0), 4))
    assert tokens.shape == wanted.shape == (4, 256)
    reach = ablation_recall.models(task, 64)["window"].local_window
    for row, values in zip(tokens, wanted, strict=True):
        asked = np.flatnonzero(values >= 0)
        assert len(asked) == task.pairs
        for place in asked:
            shown = np.flatnonzero(row[:place] == row[place])
            assert len(shown) == 2
            assert place - shown.max() > reach
            assert (row[shown + 1] == values[place]).all()


@pytest.mark.slow
def test_smoke_preset_of_recall(tmp_path, monkeypatch, capsys):
    output = tmp_path / "recall.json"
    arguments = ["--preset", "smoke", "--only", "window", "--kinds", "far", "--seeds", "2"]
    monkeypatch.setattr(sys, "argv", ["ablation_recall.py", *arguments, "--output", str(output)])
    ablation_recall.main()
    (row,) = json.loads(output.read_text())["rows"]
    assert len(row["accuracy"]) == 2
    assert row["kept_pairs"] == pytest.approx(0.5, abs=0.02)
    assert "| far | 64 | window | " in capsys.readouterr().out
    ablation_recall.main()  # what is there is not run again
    assert json.loads(output.read_text())["rows"] == [row]
