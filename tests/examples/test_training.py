"""Batches, steps, evaluation, samples, memory: against a bigram model whose calculus is known."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from lm import corpus, memory, rows, sampling, step
from lm.errors import UserError
from lm.evaluation import Evaluator, windows
from lm.rows import Model
from lm.settings import PRESETS, Training
from lm.training import claim, train
from rich.console import Console

TEXT = "the cat sat on the mat and the dog sat on the log; " * 40
TOY = corpus.split("toy", TEXT, block=8)
SIZE = len(TOY.characters)
TRAINING = Training(
    steps=30, batch=3, block=8, warmup=2, steps_per_call=5, evaluate_every=10, checkpoint_every=10,
    clip=0.05, weight_decay=0.3,
)  # fmt: skip
CONSOLE = Console(quiet=True)


@dataclasses.dataclass(frozen=True)
class BigramConfig:
    vocab_size: int = SIZE
    layers: int = 1


def bigram_init(config, key):
    table = jax.random.normal(key, (config.vocab_size, config.vocab_size), jnp.float32)
    return {"table": table, "bias": jnp.zeros((config.vocab_size,), jnp.float32)}


def bigram_apply(config, params, tokens, *, key=None, dtype=jnp.float32, return_info=False):
    logits = params["table"][tokens] + params["bias"][None, None]
    info = {"kept_pairs": jnp.ones((), jnp.float32)}
    return (logits, info) if return_info else logits


BIGRAM = Model("bigram", "bigram", 0.1, BigramConfig(), bigram_init, bigram_apply)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


batch = jax.jit(step.batch, static_argnames=("size", "block"))


def batches(training, count, tokens=TOY.train):
    """The windows of the first steps, drawn as the step draws them."""
    root = jax.random.fold_in(jax.random.key(training.seed), 1)
    for number in range(count):
        key = jax.random.split(jax.random.fold_in(root, number))[0]
        yield np.asarray(batch(tokens, key, size=training.batch, block=training.block))


def test_batches_are_windows_of_the_text_from_its_whole_length():
    starts = set()
    text = "".join(chr(32 + token) for token in TOY.train[:40])
    for found in batches(TRAINING, 60, TOY.train[:40]):
        assert found.shape == (3, 9)
        for row in found:
            piece = "".join(chr(32 + token) for token in row)
            assert piece in text
    key = jax.random.key(0)
    ramp = np.arange(12, dtype=np.int32)
    for seed in range(20):
        found = batch(ramp, jax.random.fold_in(key, seed), size=10, block=8)
        starts |= set(np.asarray(found)[:, 0].tolist())
    assert starts == {0, 1, 2, 3}  # the last window ends with the last character


def test_steps_are_adamw_with_warmup_cosine_and_clipping_in_float64():
    training, count = TRAINING, 12
    state = step.initial_state(BIGRAM, training)
    p = {name: np.asarray(leaf, np.float64) for name, leaf in state["params"].items()}
    m = {name: np.zeros_like(leaf) for name, leaf in p.items()}
    v = {name: np.zeros_like(leaf) for name, leaf in p.items()}
    losses, norms = [], []
    for number, found in enumerate(batches(training, count)):
        x, y = found[:, :-1].ravel(), found[:, 1:].ravel()
        probability = softmax(p["table"][x] + p["bias"])
        losses.append(-np.log(probability[np.arange(len(y)), y]).mean())
        error = (probability - np.eye(SIZE)[y]) / len(y)
        g = {"table": np.zeros_like(p["table"]), "bias": error.sum(0)}
        np.add.at(g["table"], x, error)
        norms.append(np.sqrt(sum((leaf**2).sum() for leaf in g.values())))
        peak, warmup = BIGRAM.learning_rate, training.warmup
        if number < warmup:
            rate = peak / (warmup + 1) + (peak - peak / (warmup + 1)) * number / warmup
        else:
            progress = (number - warmup) / (training.steps - warmup)
            share = training.final_share
            rate = peak * (share + (1 - share) * 0.5 * (1 + np.cos(np.pi * progress)))
        for name in p:
            clipped = g[name] * min(1.0, training.clip / norms[-1])
            m[name] = training.beta1 * m[name] + (1 - training.beta1) * clipped
            v[name] = training.beta2 * v[name] + (1 - training.beta2) * clipped**2
            direction = (m[name] / (1 - training.beta1 ** (number + 1))) / (
                np.sqrt(v[name] / (1 - training.beta2 ** (number + 1))) + 1e-8
            )
            decay = training.weight_decay if name == "table" else 0.0  # matrices alone
            p[name] = p[name] - rate * (direction + decay * p[name])
    assert min(norms) > training.clip  # else nothing is clipped
    run = jax.jit(step.steps(BIGRAM, training, count))
    state, measured = run(state, jnp.asarray(TOY.train), jnp.zeros((), jnp.int32))
    np.testing.assert_allclose(measured["loss"], losses, rtol=1e-5)
    np.testing.assert_allclose(measured["gradient_norm"], norms, rtol=1e-5)
    for name, leaf in state["params"].items():
        assert leaf.dtype == jnp.float32
        np.testing.assert_allclose(leaf, p[name], atol=2e-5)


def test_a_step_depends_on_its_number_and_not_on_the_call_it_falls_in():
    tokens, zero = jnp.asarray(TOY.train), jnp.zeros((), jnp.int32)
    state = step.initial_state(BIGRAM, TRAINING)
    together, _ = jax.jit(step.steps(BIGRAM, TRAINING, 6))(state, tokens, zero)
    three = jax.jit(step.steps(BIGRAM, TRAINING, 3))
    apart, _ = three(three(state, tokens, zero)[0], tokens, zero + 3)
    for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(apart), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_penalty_is_in_the_gradient_and_not_in_the_loss_that_is_logged():
    """Of the first windows alone, by its weight: here of how often they begin with a character."""

    def begins(config, params, tokens, *, key, dtype):
        assert tokens.shape == (2, TRAINING.block)
        assert jax.dtypes.issubdtype(key.dtype, jax.dtypes.prng_key)
        return jnp.sum(params["bias"][tokens[:, 0]]) * jnp.ones((), dtype)

    model = BIGRAM._replace(penalty=rows.Penalty(begins, weight=0.25, windows=2))
    (found,) = batches(TRAINING, 1)
    params = step.initial_state(BIGRAM, TRAINING)["params"]
    key = jax.random.key(0)
    measured = {
        one: jax.value_and_grad(step.objective, argnums=2, has_aux=True)(
            one, jnp.float32, params, jnp.asarray(found), key
        )
        for one in (model, BIGRAM)
    }
    (value, loss), gradient = measured[model]
    (plain, same), without = measured[BIGRAM]
    assert loss == same == plain
    counts = np.bincount(found[:2, 0], minlength=SIZE)
    assert value == pytest.approx(float(plain + 0.25 * counts @ params["bias"]), rel=1e-6)
    np.testing.assert_allclose(gradient["bias"] - without["bias"], 0.25 * counts, atol=1e-6)
    np.testing.assert_array_equal(gradient["table"], without["table"])


def test_matrices_alone_decay():
    (model,) = rows.models(PRESETS["smoke"], 10)[:1]
    mask = rows.decayed(jax.eval_shape(lambda: model.init(model.config, jax.random.key(0))))
    assert mask == {
        "token": True,
        "position": True,
        "layers": {
            "norm_attention": False, "qkv": True, "out": True,
            "norm_mlp": False, "up": True, "down": True,
        },
        "norm": False,
    }  # fmt: skip


@pytest.mark.parametrize("length", [9, 10, 17, 200])
def test_windows_predict_each_character_once(length):
    tokens = np.arange(100, 100 + length, dtype=np.int32)
    found, lengths = windows(tokens, block=8)
    predicted = [row[1 : n + 1].tolist() for row, n in zip(found, lengths, strict=True)]
    assert sum(predicted, []) == tokens[1:].tolist()  # noqa: RUF017
    for row, n in zip(found, lengths, strict=True):
        assert (np.diff(row[: n + 1]) == 1).all()


@pytest.mark.parametrize("batch", [4, 7, 1000])
def test_the_evaluation_is_the_mean_over_every_held_out_character(batch):
    params = bigram_init(BIGRAM.config, jax.random.key(3))
    table = np.asarray(params["table"], np.float64)
    before, after = TOY.validation[:-1], TOY.validation[1:]
    expected = -np.log(softmax(table[before])[np.arange(len(after)), after]).mean()
    evaluator = Evaluator(BIGRAM, TOY.validation, block=8, dtype="float32", batch=batch)
    found = evaluator.evaluate(params)
    assert found.nats == pytest.approx(expected, rel=1e-6)
    assert found.kept_pairs == 1.0
    assert found.experts == ()
    some = evaluator.evaluate(params, limit=8)
    assert some.nats == pytest.approx(expected, rel=0.2)
    assert (some.nats == found.nats) == (batch == 1000)


def test_the_load_of_experts_is_reported_where_a_model_has_them():
    def apply(config, params, tokens, **options):
        logits, info = bigram_apply(config, params, tokens, **options)
        return logits, info | {"expert_load": jnp.array([[0.75, 0.25]], jnp.float32)}

    evaluator = Evaluator(
        BIGRAM._replace(apply=apply), TOY.validation, block=8, dtype="float32", batch=4
    )
    params = bigram_init(BIGRAM.config, jax.random.key(3))
    assert evaluator.evaluate(params).experts == ((0.75, 0.25),)


def held_out(model):
    return Evaluator(model, TOY.validation, block=8, dtype="float32")


def test_a_nan_loss_stops_the_run_and_names_the_step(tmp_path):
    """The model fails on one place in the text: the first step whose batch holds it is named."""
    drawn = list(batches(TRAINING, TRAINING.steps, np.arange(len(TOY.train), dtype=np.int32)))
    place = int(drawn[16][1, 3])
    expected = next(step for step, found in enumerate(drawn, 1) if place in found[:, :-1])
    assert expected > TRAINING.checkpoint_every

    def apply(config, params, tokens, **options):
        found = bigram_apply(config, params, tokens % SIZE, **options)
        logits = found[0] if options.get("return_info") else found
        broken = logits + jnp.where(tokens[..., None] >= SIZE, jnp.nan, 0.0)
        return (broken, found[1]) if options.get("return_info") else broken

    marked = TOY.train.copy()
    marked[place] += SIZE
    text = dataclasses.replace(TOY, train=marked)
    model = BIGRAM._replace(apply=apply)
    message = rf"bigram: at step {expected} the loss is nan and .* nan; stopped"
    for _ in range(2):  # the last checkpoint is kept, and from there it stops at the same step
        with pytest.raises(UserError, match=message):
            train(model, text, TRAINING, held_out(model), tmp_path, console=CONSOLE)
        lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        steps = [record["step"] for record in found if record["kind"] == "train"]
        assert steps == list(range(1, expected))
        last = (expected - 1) // TRAINING.checkpoint_every * TRAINING.checkpoint_every
        assert (tmp_path / "checkpoints" / str(last)).is_dir()


def test_a_nan_on_held_out_text_alone_stops_it_too(tmp_path):
    class Broken:
        def evaluate(self, params, *, limit):
            return held_out(BIGRAM).evaluate(params, limit=limit)._replace(nats=float("nan"))

    with pytest.raises(UserError, match="after step 10 the loss on held-out text is nan"):
        train(BIGRAM, TOY, TRAINING, Broken(), tmp_path, console=CONSOLE)
    assert not list((tmp_path / "checkpoints").iterdir())


def test_other_settings_in_the_same_folder_are_refused_and_named(tmp_path):
    claim(tmp_path, BIGRAM, TOY, TRAINING)
    before = (tmp_path / "config.json").read_bytes()
    punished = BIGRAM._replace(penalty=rows.Penalty(bigram_apply, weight=0.5, windows=2))
    claim(tmp_path, BIGRAM, TOY, TRAINING)
    for change, words in (
        ((BIGRAM._replace(learning_rate=0.2), TOY, TRAINING), "learning_rate was 0.1, is 0.2"),
        ((BIGRAM, TOY, dataclasses.replace(TRAINING, batch=4)), "training.batch was 3, is 4"),
        ((BIGRAM.deeper(2), TOY, TRAINING), "config.layers was 1, is 2"),
        ((punished, TOY, TRAINING), "penalty.weight was None, is 0.5"),
        ((BIGRAM, corpus.split("toy", TEXT * 2, block=8), TRAINING), "text_sha256 was"),
    ):
        with pytest.raises(UserError, match="holds a run with other settings") as caught:
            claim(tmp_path, *change)
        assert words in str(caught.value)
    assert (tmp_path / "config.json").read_bytes() == before
    (tmp_path / "config.json").write_bytes(before[: len(before) // 2])
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        claim(tmp_path, BIGRAM, TOY, TRAINING)


def test_a_sample_is_what_a_plain_loop_writes():
    """At a low temperature: the likeliest character, each from the last three at most."""
    training = dataclasses.replace(TRAINING, block=3)
    (model,) = rows.models(dataclasses.replace(PRESETS["smoke"], training=training), SIZE)[:1]
    params = jax.jit(model.init, static_argnums=0)(model.config, jax.random.key(0))
    params = jax.device_put(jax.tree.map(lambda leaf: 4 * np.asarray(leaf), params))
    options = {"context": 3, "dtype": jnp.float32, "seed": 0}
    found = sampling.write(model, params, TOY, 20, temperature=1e-4, **options)
    apply = jax.jit(lambda tokens: model.apply(model.config, params, tokens))
    written = [int(TOY.validation[0])]  # the toy text has no line break to start from
    for _ in range(20):
        logits = apply(jnp.asarray([written[-3:]], jnp.int32))
        written.append(int(jnp.argmax(logits[0, -1])))
    assert found == TOY.decode(np.array(written[1:]))
    assert len(set(found)) > 2
    assert sampling.write(model, params, TOY, 0, temperature=1.0, **options) == ""


def test_a_sample_follows_the_temperature():
    """Frequencies of a bigram model without memory are those of softmax(logits / temperature)."""
    params = {
        "table": jnp.zeros((SIZE, SIZE), jnp.float32),
        "bias": jnp.arange(SIZE, dtype=jnp.float32) / 4,
    }
    text = sampling.write(
        BIGRAM, params, TOY, 4000, context=8, temperature=0.5, dtype=jnp.float32, seed=1
    )
    counts = np.array([text.count(character) for character in TOY.characters]) / 4000
    np.testing.assert_allclose(counts, softmax(np.arange(SIZE) / 2), atol=0.03)


def test_memory_grows_with_the_depth_and_is_bounded_in_time():
    (model,) = rows.models(dataclasses.replace(PRESETS["smoke"], rows=("transformer",)), SIZE)
    training = dataclasses.replace(PRESETS["smoke"].training, batch=16, block=32)
    one, two = (memory.of_a_step(model.deeper(layers), training, text=999) for layers in (1, 2))
    # Each layer keeps at least its input, queries, keys, values, weights and hidden activations.
    tokens, width, heads = 16 * 32, 32, 2
    assert two - one >= 4 * (tokens * (1 + 3 + 4) * width + 16 * heads * 32 * 32)
    assert memory.at_other_depths(model, training, (1, 2), text=999) == {1: one}
    assert memory.at_other_depths(model, training, (1, 4), text=999, seconds=-1.0) == {}


def test_gates_are_calibrated_before_each_call_from_the_text_alone():
    """A gate's constant is a function of the text, the seed and the step's number."""

    def init(config, key):
        return bigram_init(config, key) | {"constant": jnp.zeros((), jnp.float32)}

    def calibrate(config, params, tokens, *, dtype):
        assert tokens.shape == (step.CALIBRATION, TRAINING.block)
        return params | {"constant": jnp.mean(tokens.astype(dtype))}

    run = jax.jit(step.steps(BIGRAM._replace(init=init, calibrate=calibrate), TRAINING, 3))
    state, tokens = step.initial_state(BIGRAM._replace(init=init), TRAINING), jnp.asarray(TOY.train)
    first, same, later = (
        float(run(state, tokens, jnp.asarray(number, jnp.int32))[0]["params"]["constant"])
        for number in (0, 0, 3)
    )
    assert first == same != later
    mean = TOY.train.mean()
    assert abs(first - mean) < 1.0  # of windows from the text, and no update moved it
    assert abs(later - mean) < 1.0


@pytest.mark.slow
def test_every_row_has_the_parameters_of_the_transformer():
    for preset in PRESETS.values():
        found = rows.models(dataclasses.replace(preset, ablate=True), 65)
        ablations = [name for name, *_ in rows.ABLATIONS]
        assert [model.name for model in found] == ["transformer", "bk", *ablations, *rows.DEPTH]
        counts = [rows.parameters(model.init, model.config) for model in found]
        assert max(counts) / min(counts) < 1.01
        decayed = rows.decayed(
            jax.eval_shape(lambda m=found[1]: m.init(m.config, jax.random.key(0)))
        )
        assert not decayed["layers"]["attention"]["threshold"]
        assert decayed["layers"]["attention"]["qkv"]


def test_the_row_with_experts_has_the_products_of_bk_core():
    _, plain, model = rows.models(
        dataclasses.replace(PRESETS["smoke"], rows=("transformer", "bk", "bk-experts")), 65
    )
    assert model.config == dataclasses.replace(plain.config, experts=8)
    params = jax.eval_shape(lambda: model.init(model.config, jax.random.key(0)))
    kinds = rows.kinds(params)["layers"]
    assert kinds["route"] == {"project": "number", "centroids": "point"}
    assert {"number"} == set(jax.tree.leaves(kinds["mlp"]))


def test_hidden_widths_match_a_number_of_parameters():
    model = rows.models(PRESETS["cpu"], 65)[0]
    init, config = model.init, dataclasses.replace(model.config, layers=3)
    matched = rows.match_hidden(init, config, 800_000)
    found = rows.parameters(init, matched)
    assert abs(found - 800_000) <= 3 * 128  # half of what one more hidden unit costs
    assert dataclasses.replace(matched, hidden=config.hidden) == config
    with pytest.raises(UserError, match="no hidden width gives TransformerConfig about 1000"):
        rows.match_hidden(init, config, 1000)
