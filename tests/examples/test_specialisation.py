"""Words with classes, rules of routing in BK-Core, and measures of agreement by hand."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import specialisation
from lm import agreement, classed, mixtures, specialise
from lm.errors import UserError

from physnet.models import bk_core

CONFIG = bk_core.BKCoreConfig(11, layers=1, heads=2, width=16, chains=4, local_window=2, experts=3)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(11, size=(2, 12)), jnp.int32)

INDEX = {
    "noun": ["dog n 7 0 7 1 0", "run n 16 0 16 1 0", "wolf n 5 0 5 1 0", "fast n 1 0 1 0 0"],
    "verb": ["dog v 1 0 1 0 0", "run v 41 0 41 1 0", "make v 49 0 49 1 0"],
    "adj": ["fast a 10 0 10 1 0", "a n 1 0 1 0 0"],
    "adv": ["fast r 2 0 2 1 0"],
}
COUNTS = ["dog%1:05:00:: 1 42", "run%2:38:00:: 1 106", "run%1:04:00:: 3 9", "make%2:41:00:: 1 9"]
COUNTS += ["fast%4:02:00:: 1 12", "fast%3:00:01:: 1 8", "fast%5:00:00:swift:00 2 3"]


@pytest.fixture
def wordnet(tmp_path):
    """A folder with the files of WordNet, of a few words."""
    for part, rows in INDEX.items():
        text = "  1 the licence\n" + "\n".join(rows) + "\n"
        (tmp_path / f"index.{part}").write_text(text)
        (tmp_path / f"{part}.exc").write_text("ran run\n" if part == "verb" else "")
        lines = [f"0000{i} 03 n 01 x 0 000 | the {part} {i} ran" for i in range(9)]
        (tmp_path / f"data.{part}").write_text("  1 the licence\n" + "\n".join(lines) + "\n")
    (tmp_path / "noun.exc").write_text("wolves wolf\n")
    (tmp_path / "cntlist.rev").write_text("\n".join(COUNTS) + "\n")
    return tmp_path


def test_tokens_of_code_have_their_classes():
    source = "def f(x):  # why\n    return x + 1.5\n\ns = 'a'\n"
    found = list(classed.words_of_code(source))
    assert found[:3] == [("keyword", "def"), ("name", "f"), ("operator", "(")]
    assert ("comment", "# why") in found
    assert ("number", "1.5") in found
    assert ("string", "'a'") in found
    assert [text for kind, text in found if kind == "layout"] == [
        *("NEWLINE", "INDENT", "NEWLINE", "NL", "DEDENT", "NEWLINE")
    ]


@pytest.mark.parametrize(
    ("word", "label"),
    [
        ("dog", "noun"),
        ("dogs", "noun"),
        ("wolves", "noun"),  # not tagged: by senses
        ("run", "verb"),
        ("ran", "verb"),
        ("making", "verb"),
        ("fast", "adverb"),  # 12 to 11
        ("a", "other"),
        ("7", "other"),
        ("xyzzy", "other"),
    ],
)
def test_parts_of_speech(wordnet, word, label):
    assert classed.Speech(wordnet).label(word) == label


def test_glosses_are_cut_into_words(wordnet):
    text = classed.glosses(wordnet, vocab_size=9, train=60, held=15)
    assert text.classes == classed.SPEECH
    assert text.words[:5] == ("<noun>", "<verb>", "<adjective>", "<adverb>", "<other>")
    assert {"the", "ran", "\n"} < set(text.words)
    assert (len(text.train), len(text.held), len(text.words)) == (60, 15, 9)
    place = text.words.index("ran")
    assert text.classes[text.word_class[place]] == "verb"
    again = classed.glosses(wordnet, vocab_size=9, train=60, held=15)
    assert text.sha256 == again.sha256


def test_what_is_missing_is_named(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="apt install wordnet-base"):
        classed.glosses(tmp_path, vocab_size=9, train=60, held=15)
    options = f"--corpora wordnet --wordnet {tmp_path} --output {tmp_path / 'out.json'}"
    monkeypatch.setattr("sys.argv", ["specialisation.py", *options.split()])
    with pytest.raises(SystemExit, match=r"index\.noun is missing"):
        specialisation.main()


def test_too_short_a_text_is_refused(wordnet):
    with pytest.raises(UserError, match="too few to hold 1,000 out"):
        classed.glosses(wordnet, vocab_size=9, train=60, held=1000)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["hyperbolic", "dense"])
def test_the_library_s_model_is_one_of_them(rule):
    mine = CONFIG if rule == "hyperbolic" else dataclasses.replace(CONFIG, layers=2)
    theirs = mine if rule == "hyperbolic" else dataclasses.replace(mine, experts=0)

    @jax.jit
    def both():
        params = mixtures.init(rule, mine, jax.random.key(0))
        passed = mixtures.apply(rule, mine, params, TOKENS, calibrate=True)
        params = bk_core.calibrate(theirs, params, TOKENS)
        return passed.logits, bk_core.apply(theirs, params, TOKENS)

    np.testing.assert_allclose(*both(), atol=1e-6)


@pytest.mark.slow
def test_flat_centroids_are_placed_and_moved():
    params = jax.jit(lambda: mixtures.init("euclidean", CONFIG, jax.random.key(0)))()
    start = params["layers"]["route"]["centroids"]

    @jax.jit
    def placed(due):
        key = jax.random.key(1)
        passed = mixtures.apply("euclidean", CONFIG, params, TOKENS, place=key, due=due)
        return passed.params["layers"]["route"]["centroids"], passed.expert

    assert (placed(False)[0] == start).all()
    there, expert = placed(True)
    assert np.abs(there - start).min() > 1e-4
    assert set(np.unique(expert)) == {0, 1, 2}  # no cluster is empty

    recipe = specialise.Recipe(steps=100, learning_rate=0.1)
    optimiser = specialise.optimiser("euclidean", recipe)
    down = jax.tree.map(jnp.zeros_like, params)
    down["layers"]["route"]["centroids"] = down["layers"]["route"]["centroids"] + 1.0
    state, update = jax.jit(optimiser.init)(params), jax.jit(optimiser.update)
    for _ in range(2):  # the first step of the schedule is 0
        moved, state = update(down, state, params)
    # By a rate of 0.02 along the gradient; distances are twice those of coordinates.
    expected = np.full(start.shape, -0.01 / start.shape[-1] ** 0.5)
    np.testing.assert_allclose(moved["layers"]["route"]["centroids"], expected, rtol=1e-3)


def routed(rule, params, x, tokens=None):
    tokens = jnp.zeros(len(x), jnp.int32) if tokens is None else tokens
    route = jax.jit(mixtures.route, static_argnums=(0, 1))
    routing, balance = route(rule, CONFIG, params, x, tokens)
    return np.asarray(routing.expert[:, 0]), np.asarray(routing.gate[:, 0]), float(balance)


def test_rules_agree_with_their_formulas():
    rng = np.random.default_rng(1)
    x = jnp.asarray(rng.normal(size=(50, 16)), jnp.float32)
    project = jnp.asarray(rng.normal(size=(16, 2)) / 8, jnp.float32)
    centroids = jnp.asarray(rng.normal(size=(3, 2)), jnp.float32)

    expert, gate, _ = routed("euclidean", {"project": project, "centroids": centroids}, x)
    apart = 2 * np.linalg.norm(np.asarray(x @ project)[:, None] - np.asarray(centroids), axis=-1)
    order = np.sort(apart, axis=1)
    assert (expert == apart.argmin(1)).all()
    np.testing.assert_allclose(gate, 1 / (1 + np.exp(order[:, 0] - order[:, 1])), rtol=1e-4)

    near = {"project": project / 100, "centroids": centroids / 100}
    flat, curved = (routed(rule, near, x) for rule in ("euclidean", "hyperbolic"))
    assert (flat[0] == curved[0]).all()  # near the origin they are one rule
    np.testing.assert_allclose(flat[1], curved[1], atol=1e-5)

    router = jnp.asarray(rng.normal(size=(16, 3)), jnp.float32)
    expert, gate, balance = routed("linear", {"router": router}, x)
    chances = np.exp(np.asarray(x @ router))
    chances /= chances.sum(1, keepdims=True)
    assert (expert == chances.argmax(1)).all()
    np.testing.assert_allclose(gate, chances.max(1), rtol=1e-5)
    share = np.bincount(expert, minlength=3) / 50
    assert balance == pytest.approx(3 * (share * chances.mean(0)).sum(), rel=1e-5)

    table = jnp.asarray([0.1, 0.5, 0.9])
    expert, gate, _ = routed("hash", {"table": table}, x[:4], jnp.array([2, 0, 1, 2]))
    assert expert.tolist() == [2, 0, 1, 2]
    assert (gate == 1).all()


def test_measures_by_hand():
    apart = agreement.agreement(np.diag([5, 3]))
    assert apart.nmi == pytest.approx(1)
    assert apart.purity == 1
    assert apart.imbalance == pytest.approx(10 / 8)
    same = agreement.agreement(np.outer([2, 4], [1, 3]))
    assert same.nmi == pytest.approx(0, abs=1e-12)
    assert same.purity == pytest.approx(3 / 4)
    table = np.array([[30, 10], [0, 60]])
    joint = table / 100
    expected = sum(
        p * np.log(p / (joint[i].sum() * joint[:, j].sum()))
        for (i, j), p in np.ndenumerate(joint)
        if p
    )
    load, kind = (-(s * np.log(s)).sum() for s in (joint.sum(1), joint.sum(0)))
    found = agreement.agreement(table)
    assert found.nmi == pytest.approx(2 * expected / (load + kind))
    assert found.effective == pytest.approx(np.exp(load))
    assert agreement.ceiling(table) == pytest.approx(2 * kind / (load + kind))
    assert agreement.by_chance(10 * table, np.random.default_rng(0)).nmi < 0.01
    with pytest.raises(ValueError, match="with some tokens"):
        agreement.agreement(np.zeros((2, 2)))


def test_seeds_are_trained_and_all_held_out_words_counted(monkeypatch):
    """A table of logits as the model, whose experts are words by their remainder."""

    def init(rule, config, key):
        return {"table": jax.random.normal(key, (11, 11), jnp.float32)}

    def apply(rule, config, params, tokens, **_):
        return mixtures.Passed(params["table"][tokens], tokens[None] % 3, jnp.zeros(()), params)

    monkeypatch.setattr(mixtures, "init", init)
    monkeypatch.setattr(mixtures, "apply", apply)
    text = np.arange(500, dtype=np.int32) * 3 % 11
    kinds = np.arange(11, dtype=np.int32) % 2
    recipe = specialise.Recipe(
        steps=40, batch=4, block=8, calibrate_every=10, sample=2, learning_rate=0.3
    )
    run = jax.jit(specialise.trained_and_measured("linear", CONFIG, recipe, classes=2))
    outcome = run(jnp.arange(2), *map(jnp.asarray, (text, text[:65], kinds)))
    assert outcome.training.shape == (2, 4)
    assert (outcome.training[:, -1] < outcome.training[:, 0]).all()
    assert (outcome.nats < 0.5).all()  # each word decides the next one
    for found, words in ((outcome.here, text[:64]), (outcome.next, text[1:65])):
        expected = np.zeros((3, 2), int)
        np.add.at(expected, (text[:64] % 3, kinds[words]), 1)
        assert (np.asarray(found) == expected).all()
        assert found.shape == (2, 1, 3, 2)


def results():
    rng = np.random.default_rng(0)
    rows = []
    for rule in ("hyperbolic", "hash", "dense"):
        tables = rng.integers(1, 50, size=(2, 2, 2, 3, 2)) * (rule != "dense")
        seeds = [specialisation.measured(*tables[i], 1.0 + i) for i in range(2)]
        rows.append({"corpus": "toy", "rule": rule, "seeds": seeds})
    specialisation.summarised(rows)
    facts = {"name": "toy", "classes": ["a", "b"], "class_counts": [3, 1]}
    return {"corpora": {"toy": facts}, "rows": rows}


def test_differences_are_paired():
    first, second, dense = results()["rows"]
    assert first["less_than"] == {}
    apart = [a["nmi"] - b["nmi"] for a, b in zip(first["seeds"], second["seeds"], strict=True)]
    mean, error = second["less_than"]["hyperbolic"]["nmi"]
    assert mean == pytest.approx(np.mean(apart))
    assert error == pytest.approx(abs(apart[0] - apart[1]) / 2)
    assert set(dense["mean"]) == {"nats"}
    assert second["mean"]["nats"] == [1.5, pytest.approx(0.5)]


def test_a_finished_run_is_printed_and_drawn(tmp_path, monkeypatch, capsys):
    pytest.importorskip("matplotlib")
    path = tmp_path / "toy.json"
    path.write_text(json.dumps(results()))
    monkeypatch.setattr("sys.argv", ["specialisation.py", "--draw", str(path)])
    specialisation.main()
    assert "hyperbolic less hash" in capsys.readouterr().out
    assert (tmp_path / "toy.png").read_bytes().startswith(b"\x89PNG")
