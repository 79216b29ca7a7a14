"""Ensembles, their students and refined thresholds: what they are, and that a kill changes none."""

import dataclasses
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import refinement
import shakespeare
from lm import corpus, members, refine, rows, step
from lm.checkpoints import digest
from lm.errors import UserError
from lm.evaluation import Evaluator
from lm.rows import Model, Teacher
from lm.settings import PRESETS, Superposition, Training
from lm.training import train
from rich.console import Console

QUIET = Console(quiet=True)
TEXT = "the cat sat on the mat and the dog sat on the log; " * 40
TOY = corpus.split("toy", TEXT, block=8)
SIZE = len(TOY.characters)
TRAINING = Training(
    steps=8, batch=3, block=8, warmup=2, steps_per_call=2, evaluate_every=4, checkpoint_every=2
)


@dataclasses.dataclass(frozen=True)
class Config:
    vocab_size: int = SIZE
    layers: int = 1


def init(config, key):
    return {"table": jax.random.normal(key, (SIZE, SIZE), jnp.float32)}


def apply(config, params, tokens, *, key=None, dtype=jnp.float32, return_info=False):
    logits = params["table"][tokens]
    return (logits, {"kept_pairs": jnp.ones((), jnp.float32)}) if return_info else logits


BIGRAM = Model("bigram", "bigram", 0.1, Config(), init, apply)
SEVERAL = members.together(BIGRAM, 3)


def log_softmax(x):
    x = np.asarray(x, np.float64)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_members_take_the_steps_of_models_of_their_seeds():
    tokens, zero = jnp.asarray(TOY.train), jnp.zeros((), jnp.int32)
    state, measured = jax.jit(step.program(SEVERAL, TRAINING, 3))(
        step.begin(SEVERAL, TRAINING), tokens, zero
    )

    @jax.jit
    def of_one(seed):
        start = step.initial_state(BIGRAM, TRAINING, seed=seed)
        return step.steps(BIGRAM, TRAINING, 3, seed=seed)(start, tokens, zero)

    losses = []
    for index in range(3):
        alone, found = of_one(TRAINING.seed + index)
        own = members.member(state["params"], index)
        np.testing.assert_allclose(own["table"], alone["params"]["table"], atol=1e-6)
        losses.append(found["loss"])
    np.testing.assert_allclose(measured["loss"], np.mean(losses, axis=0), rtol=1e-5)


def test_a_mixture_has_the_mean_of_the_probabilities():
    params = step.begin(SEVERAL, TRAINING)["params"]
    whole = members.mixture(SEVERAL)
    tokens = jnp.asarray(TOY.validation[:12].reshape(2, 6))
    logits, info = jax.jit(
        lambda p: whole.apply(Config(), p, tokens, dtype=jnp.float32, return_info=True)
    )(params)
    each = np.exp([log_softmax(table)[np.asarray(tokens)] for table in params["table"]])
    np.testing.assert_allclose(log_softmax(logits), np.log(each.mean(0)), atol=1e-5)
    assert info["kept_pairs"] == 1.0
    assert members.mixture(BIGRAM) is BIGRAM
    gated = SEVERAL._replace(pairs=lambda config, own, tokens: own)
    kept = jnp.arange(3 * 2 * 4, dtype=jnp.int32).reshape(3, 1, 1, 2, 2, 2)  # (M, L, B, N, T, T)
    heads = members.mixture(gated).pairs(None, kept, tokens)
    np.testing.assert_array_equal(heads[0, 0], np.arange(24).reshape(6, 2, 2))


@pytest.mark.parametrize("direction", ["forward", "reverse"])
def test_a_student_learns_the_text_and_the_mixture(direction):
    params = step.begin(SEVERAL, TRAINING)["params"]
    pupil = BIGRAM._replace(teacher=Teacher(SEVERAL, params, direction, 0.25))
    windows = jnp.asarray(TOY.train[:18].reshape(2, 9))
    own = init(Config(), jax.random.key(9))

    @jax.jit
    def objective(own, params):
        taught = step.members_logits(SEVERAL, params, windows[:, :-1], jnp.float32)
        return step.objective(pupil, jnp.float32, own, windows, jax.random.key(0), taught=taught)

    found, loss = objective(own, params)
    x, y = np.asarray(windows)[:, :-1], np.asarray(windows)[:, 1:]
    student = log_softmax(own["table"])[x]
    mixed = np.log(np.exp([log_softmax(table)[x] for table in params["table"]]).mean(0))
    nats = -np.take_along_axis(student, y[..., None], -1).mean()
    p, q = (mixed, student) if direction == "forward" else (student, mixed)
    apart = (np.exp(p) * (p - q)).sum(-1).mean()
    assert loss == pytest.approx(nats, rel=1e-5)
    assert found == pytest.approx(0.25 * nats + 0.75 * apart, rel=1e-5)


class Killed(Exception):
    pass


def held_out(model):
    return Evaluator(members.mixture(model), TOY.validation, block=8, dtype="float32")


def broken(model):
    """An evaluator at which a run ends that is halfway through its schedule."""

    class Evaluator:
        def evaluate(self, params, *, limit):
            raise Killed

    return Evaluator()


@pytest.mark.slow
def test_an_ensemble_and_its_student_resume_to_the_bit(tmp_path):
    def digests(folder, evaluators):
        found = []
        model = SEVERAL
        for name in ("several", "student"):
            place = folder / name
            for evaluator in evaluators[:-1]:
                with pytest.raises(Killed):
                    train(model, TOY, TRAINING, evaluator(model), place, console=QUIET)
                steps = [path.name for path in (place / "checkpoints").glob("*")]
                assert steps  # something was done, and not all
                assert "8" not in steps
            done = train(model, TOY, TRAINING, evaluators[-1](model), place, console=QUIET)
            found.append(digest(done.params))
            model = BIGRAM._replace(teacher=Teacher(SEVERAL, done.params, "forward", 0.5))
        return found, model

    (tmp_path / "whole").mkdir()
    (tmp_path / "killed").mkdir()
    whole, last = digests(tmp_path / "whole", [held_out])
    killed, _ = digests(tmp_path / "killed", [broken, held_out])
    assert whole == killed
    other = last._replace(teacher=last.teacher._replace(labels=0.25))
    with pytest.raises(UserError, match=r"teacher.labels was 0.5, is 0.25"):
        train(other, TOY, TRAINING, held_out(last), tmp_path / "whole" / "student", console=QUIET)


def test_text_is_held_back_from_the_end_of_the_training_text():
    found = corpus.hold_back(TOY, 0.05, block=8)
    assert len(found.calibration) == pytest.approx(0.05 * len(TOY.train), abs=1)
    np.testing.assert_array_equal(np.concatenate([found.train, found.calibration]), TOY.train)
    np.testing.assert_array_equal(found.validation, TOY.validation)
    with pytest.raises(UserError, match="too short to hold 0% of it back for --refine"):
        corpus.hold_back(TOY, 0.001, block=8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--ensemble 1", "--ensemble must be 0, or at least 2, got 1"),
        ("--distill forward", "--distill needs an ensemble"),
        ("--superposition.labels 2", r"--superposition.labels must be in \[0, 1\], got 2.0"),
        ("--superposition.particles 3", "--superposition.particles must be at least 4, got 3"),
    ],
)
def test_options_that_do_not_go_together_are_named(arguments, message):
    with pytest.raises(UserError, match=message):
        shakespeare.command_line(arguments.split())


@pytest.fixture(scope="module")
def short():
    """The smoke presets' text, cut short."""
    text = corpus.python_source()[:12_000]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "python_source", lambda: text)
        yield


@pytest.fixture(scope="module")
def finished(short, tmp_path_factory):
    """The settings and the folder of a job with every option, of the comparison's smoke preset."""
    folder = tmp_path_factory.mktemp("options")
    arguments = "--preset smoke --rows bk --ensemble 2 --distill forward --refine --sample 0"
    asked = shakespeare.command_line([*arguments.split(), "--directory", str(folder)])
    same = ("training", "sizes", "bk")
    settings = dataclasses.replace(
        asked,
        depths=(1,),
        superposition=Superposition(pairs=0.6, generations=10, particles=4, windows=8),
        **{name: getattr(refinement.SMOKE.settings, name) for name in same},
    )
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        shakespeare.main(settings, QUIET)
    return settings, folder


@pytest.mark.slow
def test_the_options_add_their_rows(finished):
    settings, folder = finished
    report = json.loads((folder / "report.json").read_text())
    found = {row["name"]: row for row in report["rows"]}
    assert list(found) == ["bk", "bk-refined", "bk-ensemble", "bk-forward"]
    several = found["bk-ensemble"]
    assert several["parameters"] == 2 * found["bk"]["parameters"]
    assert len(several["parts"]) == 2
    nats = [part["nats"] for part in several["parts"]]
    assert nats[0] == pytest.approx(found["bk"]["nats"], abs=1e-4)  # the same seed
    assert several["nats"] < np.mean(nats)  # a mixture always beats the mean of its models
    assert 0 < several["accuracy"] < 1
    refined, (common,) = found["bk-refined"], found["bk-refined"]["parts"]
    assert refined["kept_pairs"] == pytest.approx(settings.superposition.pairs, abs=0.1)
    assert common["kept_pairs"] == pytest.approx(settings.superposition.pairs, abs=0.1)
    assert found["bk-forward"]["digest"] != found["bk"]["digest"]
    document = (folder / "report.md").read_text()
    for words in ("| model | nats | accuracy | pairs kept |", "mean of these", "\nForward KL: "):
        assert words in document


def test_a_refinement_resumes_to_the_bit(finished, tmp_path):
    """From the checkpoint before its last: a kill between them loses what came after it."""
    settings, folder = finished
    text = corpus.hold_back(shakespeare.load(settings, QUIET), shakespeare.HELD_BACK, block=16)
    model = rows.plain(settings, len(text.characters))
    trained = Evaluator(model, text.validation, block=16, dtype="float32")
    place = tmp_path / "bk-refined"
    shutil.copytree(folder / "bk-refined", place)
    shutil.rmtree(place / "checkpoints" / "10")
    done = train(model, text, settings.training, trained, folder / "bk", console=QUIET)
    finer = model._replace(name="bk-refined", label="BK-Core, refined")
    params = refine.refined(finer, done.params, text, settings, place, console=QUIET)
    report = json.loads((folder / "report.json").read_text())
    assert digest(params) == report["rows"][1]["digest"]
    logged = [json.loads(line) for line in (place / "metrics.jsonl").read_text().splitlines()]
    before = (folder / "bk-refined" / "metrics.jsonl").read_text().splitlines()
    assert logged == [json.loads(line) for line in before]
    assert [record["step"] for record in logged] == list(range(1, 11))
    changed = dataclasses.replace(
        settings, superposition=dataclasses.replace(settings.superposition, pairs=0.5)
    )
    with pytest.raises(UserError, match=r"refinement.pairs was 0.6, is 0.5"):
        refine.refined(finer, done.params, text, changed, place, console=QUIET)


def test_gains_are_read_off_a_curve():
    curve = [{"kept": kept, "nats": nats} for kept, nats in ((0.1, 3.0), (0.3, 2.0), (0.6, 2.5))]
    found = refinement.gains(curve, {"kept": 0.15, "nats": 2.5})
    assert found["nats"] == pytest.approx(0.25)
    assert found["pairs"] == pytest.approx(1 - 0.15 / 0.2)
    assert refinement.gains(curve, curve[1]) == {"nats": 0.0, "pairs": 0.0}


@pytest.mark.slow
def test_the_smoke_preset_of_the_comparison(finished, tmp_path):
    shutil.copytree(finished[1] / "bk-ensemble", tmp_path / "bk-ensemble")  # trained already
    arguments = refinement.command_line(["--preset", "smoke", "--directory", str(tmp_path)])
    refinement.main(arguments, QUIET)
    report = json.loads((tmp_path / "refinement.json").read_text())
    assert len(report["summary"]) == len(refinement.METHODS)
    for index in range(2):
        for name in refinement.METHODS:
            case = report["cases"][f"{index} 0.4 {name}"]
            assert case["kept"] == pytest.approx(0.4, abs=0.1)
            assert np.isfinite(case["nats"])
    assert (tmp_path / "refinement.png").read_bytes().startswith(b"\x89PNG")
    cases = (tmp_path / "cases-smoke.json").read_bytes()
    refinement.main(arguments, QUIET)  # nothing is measured again
    assert (tmp_path / "cases-smoke.json").read_bytes() == cases
    assert PRESETS["cpu"].refine is False
