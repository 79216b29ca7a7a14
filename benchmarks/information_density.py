"""Is the causal local density of states, as a token's score, a density of information?

    python benchmarks/information_density.py            # about a minute on a large GPU
    python benchmarks/information_density.py --quick    # a tiny model, no download

In models trained with dense attention (BK-Core with its mixer, and attention alone, whose chains
then get no gradient) and on held-out text: the rank correlation of the score with the attention
that a token receives and with the gradient that arrives at it, beside controls; and the loss when
half the tokens are hidden from attention but for the local band. If low-score tokens carry little
information, hiding them must hurt least. Prints the numbers and the verdict, writes
benchmarks/results/information_density.json and docs/pictures/information_density.png.
"""

import argparse
import functools
import json
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ensemble import (
    STEPS_PER_CALL,
    Context,
    as_bias,
    band,
    compile_all,
    corpora,
    forward,
    initial_state,
    kept,
    openness,
    provenance,
    read_options,
    read_text,
    spread,
    step,
    steps,
)
from information_density_report import draw, show, verdict
from lm.settings import Training
from scipy.stats import rankdata

from physnet.models import bk_core
from physnet.models.bk_core import BKCoreConfig
from physnet.nn import attention as gated
from physnet.nn.layers import linear

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "information_density.json"
PICTURE = ROOT / "docs" / "pictures" / "information_density.png"
MODELS = {"with the resolvent mixer": True, "attention alone": False}


class Tokens(NamedTuple):
    """What is known of each token in each layer, leading axes (L, M, B, T)."""

    score: Any  # (..., N)
    received: Any  # (..., N), mean weight over the queries that can see it
    gradient: Any  # (...), norm of the loss's gradient at the layer's input
    key_norm: Any  # (..., N), of the keys before they are normalised


def objective(config: BKCoreConfig, params, windows, key, multiplier):
    """Nats with every causal pair."""
    tokens, targets = windows[..., :-1], windows[..., 1:]
    logits, _ = forward(config, params, tokens, functools.partial(_dense, config), key)
    nats = jnp.mean(step.losses(logits, targets), (1, 2))
    return jnp.sum(nats), (nats, jnp.zeros_like(multiplier))


def _dense(config: BKCoreConfig, index: int, layer: Any, context: Context) -> jax.Array:
    members, batch, time = context.h.shape[:3]
    bias = as_bias(band(time, time))[None, None, None]
    return jnp.broadcast_to(bias, (members, batch, config.heads, time, time))


def observe(config: BKCoreConfig, params: Any, windows: jax.Array) -> Tokens:
    """The tokens of held-out windows (B, T + 1) in all layers of all members."""
    members = len(params["norm"])
    windows = jnp.broadcast_to(windows[None], (members, *windows.shape))
    tokens, targets = windows[..., :-1], windows[..., 1:]

    def loss(taps: jax.Array) -> tuple[jax.Array, Any]:
        mask = functools.partial(_dense, config)
        logits, layers = forward(config, params, tokens, mask, jax.random.key(0), taps=taps)
        return jnp.sum(step.losses(logits, targets)), layers

    time = tokens.shape[-1]
    taps = jnp.zeros((config.layers, *tokens.shape, config.width), jnp.float32)
    gradient, layers = jax.grad(loss, has_aux=True)(taps)
    viewers = (time - jnp.arange(time, dtype=jnp.float32))[None, None, :, None]
    score, received, key_norm = [], [], []
    for index, layer in enumerate(layers):
        own = jax.tree.map(lambda leaf, i=index: leaf[:, i], params["layers"])
        score.append(jax.vmap(functools.partial(_score, config))(own, layer.context))
        received.append(jnp.moveaxis(jnp.sum(layer.weights, -2), -2, -1) / viewers)
        key_norm.append(jax.vmap(functools.partial(_key_norm, config))(own, layer.context))
    parts = (score, received, jnp.linalg.norm(gradient, axis=-1), key_norm)
    return Tokens(*(jnp.stack(p) if isinstance(p, list) else p for p in parts))


def _score(config: BKCoreConfig, layer: Any, context: Context) -> jax.Array:
    return gated.score(layer["attention"], openness(config, layer, context))


def _key_norm(config: BKCoreConfig, layer: Any, context: Context) -> jax.Array:
    key = jnp.split(linear(context.h, layer["attention"]["qkv"]), 3, axis=-1)[1]
    return jnp.linalg.norm(key.reshape(*key.shape[:-1], config.heads, -1), axis=-1)


def hidden_loss(config: BKCoreConfig, params: Any, windows: jax.Array, keep: jax.Array):
    """Nats (M,) and kept pairs (M,) when keys without `keep` (L, M, B, T, N) show nearby alone."""
    windows = jnp.broadcast_to(windows[None], (len(params["norm"]), *windows.shape))
    tokens, targets = windows[..., :-1], windows[..., 1:]
    time = tokens.shape[-1]
    near, causal = (band(time, w)[None, None, None] for w in (config.local_window, time))

    def mask(index: int, layer: Any, context: Context) -> jax.Array:
        shown = jnp.moveaxis(keep[index], -1, -2)[..., None, :]
        return as_bias((shown | near) & causal)

    logits, layers = forward(config, params, tokens, mask, jax.random.key(0))
    return jnp.mean(step.losses(logits, targets), (1, 2)), kept(layers)


def correlation(x: np.ndarray, y: np.ndarray, *, at_position: bool) -> float:
    """Spearman's over tokens (B, T); `at_position` ranks a token among those at its own place."""
    if at_position:
        x, y = (rankdata(v, axis=0) for v in (x, y))
        x, y = (v - v.mean(0) for v in (x, y))
    else:
        x, y = (rankdata(v.ravel()) for v in (x, y))
        x, y = (v - v.mean() for v in (x, y))
    size = np.sqrt((x * x).sum() * (y * y).sum())
    return float((x * y).sum() / size) if size > 0 else float("nan")


def predictors(seen: Tokens, windows: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Score and controls, (L, M, B, T, N)."""
    shape = seen.score.shape
    tokens = windows[:, :-1]
    position = np.arange(tokens.shape[1], dtype=np.float64)

    def spreaded(x: np.ndarray) -> np.ndarray:
        return np.broadcast_to(x[None, None, :, :, None], shape)

    return {
        "score": seen.score,
        "random": np.random.default_rng(0).uniform(size=shape),
        "key norm": seen.key_norm,
        "earliness": spreaded(np.broadcast_to(-position, tokens.shape)),
        "frequency": spreaded(counts[tokens]),
    }


def correlations(seen: Tokens, known: dict[str, np.ndarray]) -> list[dict]:
    """A row for each predictor, target and way to rank: by layer and over all layers."""
    layers, members, _, _, heads = seen.score.shape
    gradient = np.broadcast_to(seen.gradient[..., None], seen.score.shape)
    targets = {"received": seen.received, "gradient": gradient}
    rows = []
    for target, y in targets.items():
        for name, x in known.items():
            for at_position in (False, True):
                if name == "earliness" and at_position:
                    continue  # the same for all tokens at a place
                found = np.array([
                    [
                        np.mean([
                            correlation(x[l, m, :, :, n], y[l, m, :, :, n], at_position=at_position)
                            for n in range(heads)
                        ])
                        for m in range(members)
                    ]
                    for l in range(layers)
                ])  # fmt: skip
                mean, error = spread(found.mean(0))
                by_layer = [spread(values) for values in found]
                rows.append({
                    "predictor": name, "target": target, "at_equal_position": at_position,
                    "mean": mean, "error": error,
                    "by_layer": [m for m, _ in by_layer],
                    "by_layer_error": [e for _, e in by_layer],
                })  # fmt: skip
    return rows


def better_half(importance: np.ndarray) -> np.ndarray:
    """Whether a token is in the upper half of those at its place, (L, M, B, T, N).

    At every place exactly half go, whatever the measure: all choices keep as many pairs.
    """
    tie_break = np.random.default_rng(1).uniform(size=importance.shape)
    order = np.lexsort((tie_break, importance), axis=2)
    return np.argsort(order, axis=2) >= importance.shape[2] // 2


def hiding(program, params, windows: jax.Array, seen: Tokens, known: dict) -> list[dict]:
    """Loss above that of the whole, for each choice of the hidden half."""
    parts = np.split(np.arange(windows.shape[0] * windows.shape[1]), windows.shape[0])
    choices = {
        "none": np.full(seen.score.shape, True),
        "lowest score": better_half(known["score"]),
        "random": better_half(known["random"]),
        "highest score": better_half(-known["score"]),
        "smallest keys": better_half(known["key norm"]),
        "most frequent": better_half(-known["frequency"]),
        "least attended": better_half(seen.received),
    }
    rows, whole = [], None
    for name, keep in choices.items():
        results = [
            program(params, w, jnp.asarray(keep[:, :, part]))
            for w, part in zip(windows, parts, strict=True)
        ]
        nats = np.mean([np.asarray(n, np.float64) for n, _ in results], 0)
        whole = nats if whole is None else whole
        mean, error = spread(nats - whole)
        rows.append({
            "hidden": name, "nats": spread(nats)[0], "above_whole": mean,
            "above_whole_error": error, "above_whole_by_seed": (nats - whole).tolist(),
            "kept_share": float(np.mean([np.asarray(k).mean() for _, k in results])),
        })  # fmt: skip
    return rows


def plan(options: argparse.Namespace) -> tuple[Training, dict[str, int], int]:
    """Training, sizes of the models, and seeds."""
    if options.quick:
        training = Training(
            steps=4, batch=2, block=32, steps_per_call=2, warmup=1, evaluate_every=2,
            checkpoint_every=2, evaluation_windows=4,
        )  # fmt: skip
        return training, {"layers": 1, "heads": 2, "width": 16, "chains": 4, "local_window": 4}, 2
    training = Training(
        steps=options.steps,
        batch=16,
        block=256,
        steps_per_call=STEPS_PER_CALL,
        evaluation_windows=64,
    )
    sizes = {"layers": 4, "heads": 4, "width": 128, "chains": 16, "local_window": 8}
    return training, sizes, options.seeds


def functions(title, config, training, state, seeds, train, windows, sample) -> dict[str, Any]:
    """What a model needs compiled, with arguments to compile it for."""
    keep = jnp.ones((config.layers, seeds, *windows.shape[1:], config.heads), bool)[:, :, :, 1:]
    one = (state["params"], windows[0])
    loss = functools.partial(objective, config)
    calibrate = functools.partial(bk_core.calibrate, config)
    return {
        f"{title}: train": (
            steps(config, training, loss, seeds, rate=0.0),
            (state, train, jnp.int32(0)),
        ),
        f"{title}: observe": (functools.partial(observe, config), one),
        f"{title}: hide": (functools.partial(hidden_loss, config), (*one, keep)),
        f"{title}: calibrate": (
            jax.vmap(calibrate, in_axes=(0, None)),
            (state["params"], sample[:, :-1]),
        ),
    }


def trained(program: Any, state: Any, training: Training, train: jax.Array) -> Any:
    for first in range(0, training.steps, training.steps_per_call):
        state, nats = program(state, train, jnp.int32(first))
        if not bool(jnp.isfinite(nats).all()):
            raise SystemExit(f"a loss is not finite within {len(nats)} steps after {first}")
    return state["params"]


def measured(title: str, programs: dict, params: Any, windows: jax.Array, counts: np.ndarray):
    """Correlations, losses with half the tokens hidden, and the verdict; prints them."""
    parts = [programs[f"{title}: observe"](params, w) for w in windows]
    seen = jax.tree.map(lambda *x: np.concatenate([np.asarray(y) for y in x], 2), *parts)
    flat = np.asarray(windows).reshape(-1, windows.shape[-1])
    known = predictors(seen, flat, counts)
    found = correlations(seen, known)
    rows = hiding(programs[f"{title}: hide"], params, windows, seen, known)
    sentence = f"{title}: {verdict(rows)}"
    show(title, found, rows, sentence)
    return {"correlations": found, "hiding": rows, "verdict": sentence}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--picture", type=Path, default=PICTURE)
    options = read_options(parser)
    start = time.perf_counter()
    if options.quick and options.picture == PICTURE:
        options.picture = Path(f"quick-{PICTURE.name}")
    training, sizes, seeds = plan(options)
    text = read_text(options.cache, quick=options.quick, block=training.block)
    train = jnp.asarray(text.train)
    counts = np.bincount(text.train, minlength=len(text.characters)).astype(np.float64)
    windows = held_out(text, training)
    sample = step.batch(train, jax.random.key(9), size=training.batch, block=training.block)

    states, wanted = {}, {}
    for title, mixes in MODELS.items():
        config = BKCoreConfig(len(text.characters), mixer=mixes, density=1.0, **sizes)
        init = functools.partial(bk_core.init, config)
        states[title] = state = initial_state(config, training, init, seeds, 1)
        wanted |= functions(title, config, training, state, seeds, train, windows, sample)
    programs = compile_all(wanted)
    print(f"compiled after {time.perf_counter() - start:.0f} s", flush=True)
    report = provenance("information_density", training, seeds) | {
        "text": text.name,
        "held_out_tokens": int(windows.shape[0] * windows.shape[1] * training.block),
    }
    for title in MODELS:
        params = trained(programs[f"{title}: train"], states[title], training, train)
        params = programs[f"{title}: calibrate"](params, sample[:, :-1])
        report[title] = measured(title, programs, params, windows, counts)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=1) + "\n")
    draw(report, list(MODELS), options.picture)
    print(f"\n{time.perf_counter() - start:.0f} s; written: {options.output}, {options.picture}")


def held_out(text: corpora.Corpus, training: Training) -> jax.Array:
    """Windows of the held-out text, evenly spread: (parts, batch, T + 1)."""
    length = training.block + 1
    parts = training.evaluation_windows // training.batch
    starts = np.linspace(0, len(text.validation) - length, parts * training.batch).astype(int)
    windows = text.validation[starts[:, None] + np.arange(length)[None]]
    return jnp.asarray(windows).reshape(parts, training.batch, length)


if __name__ == "__main__":
    main()
