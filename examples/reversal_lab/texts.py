"""Text, read both ways: transformers that are told by their first token which way they read.

At a seed all start equal and see the same windows; they differ in which of them are reversed. Each
window is held out once in both directions, the same characters: a model that knew the text's
distribution would lose as much in one as in the other.
"""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from lm.corpus import Corpus
from lm.rows import Model
from lm.settings import Training
from lm.step import losses, optimiser

from physnet import time_reversal
from physnet.models import transformer
from reversal_lab import training
from reversal_lab.settings import Text

ROWS = {"forward": "forward only", "backward": "backward only", "mixed": "half of each"}
REVERSED = {"forward": 0.0, "backward": 1.0, "mixed": 0.5}  # share of a batch


def turned(windows: jax.Array, backward: Any, characters: int) -> jax.Array:
    """Windows (b, t) behind a token of their direction, those of `backward` (b,) reversed."""
    back = time_reversal.reverse_sequence(windows, direction=characters + 1)
    front = jnp.full((len(windows), 1), characters, windows.dtype)
    return jnp.where(backward[:, None], back, jnp.concatenate([front, windows], -1))


def held_out(corpus: Corpus, s: Text) -> np.ndarray:
    """Windows (n, block) that do not overlap, evenly spread, an even number of them."""
    count = len(corpus.validation) // s.block
    windows = corpus.validation[: count * s.block].reshape(count, s.block)
    kept = min(count, s.held) // 2 * 2
    if kept == 0:
        raise ValueError(f"a held-out text of {count} windows of {s.block} has no two halves")
    return windows[np.linspace(0, count - 1, kept).round().astype(int)]


def program(characters: int, s: Text) -> Callable[..., Any]:
    """A function (text, held, seed, reversed, length) -> nats (measurements, 2, 2) a character.

    Forward and backward, of even and odd windows held out. Of the text only the first `length`
    characters are trained on; `reversed` is the share of a batch that is read backwards.
    """
    config = transformer.TransformerConfig(
        characters + 2, layers=s.layers, heads=s.heads, width=s.width, context=s.block,
        dropout=s.dropout, drop_weights=False,
    )  # fmt: skip
    model = Model("", "", s.rate, config, transformer.init, transformer.apply)
    rule = optimiser(model, Training(steps=s.updates, warmup=s.updates // 20))

    def nats(params, tokens, key=None):
        logits = transformer.apply(
            config, params, tokens[:, :-1], key=key, dtype=jnp.dtype(s.dtype), implementation="xla"
        )
        return jnp.mean(losses(logits, tokens[:, 1:]), -1)

    def measured(params, held):
        halves = jnp.swapaxes(held.reshape(-1, 2, s.block), 0, 1)
        way = jnp.zeros(halves.shape[1], bool)

        def one(own):
            return jnp.stack(
                [jnp.mean(nats(params, turned(own, w, characters))) for w in (way, ~way)]
            )

        return jax.lax.map(one, halves).T

    def run(text, held, seed, share, length):
        start, draw = jax.random.split(jax.random.key(seed))
        params = transformer.init(config, start)
        way = jnp.arange(s.batch) >= jnp.round(s.batch * (1 - share))

        def update(carry, number):
            params, state = carry
            keys = jax.random.split(jax.random.fold_in(draw, number))
            first = jax.random.randint(keys[0], (s.batch, 1), 0, length - s.block + 1)
            windows = text[first + jnp.arange(s.block, dtype=jnp.int32)]
            tokens = turned(windows, way, characters)
            slope = jax.grad(lambda params: jnp.mean(nats(params, tokens, keys[1])))(params)
            change, state = rule.update(slope, state, params)
            return (optax.apply_updates(params, change), state), None

        def between(carry, first):
            numbers = first + jnp.arange(s.every, dtype=jnp.int32)
            carry = jax.lax.scan(update, carry, numbers)[0]
            return carry, measured(carry[0], held)

        firsts = jnp.arange(0, s.updates, s.every, dtype=jnp.int32)
        return jax.lax.scan(between, (params, rule.init(params)), firsts)[1]

    return run


def rows(corpus: Corpus, s: Text) -> Iterator[dict[str, Any]]:
    """A row for each way of reading and share of the text.

    `values` are nats of the odd windows: at the measurement where the even ones have fewest (a
    small text is soon known by heart), and at the end.
    """
    seeds = range(s.seeds)
    runs = list(itertools.product(s.shares, ROWS, seeds))
    lengths = {share: max(int(share * len(corpus.train)), s.block + 1) for share in s.shares}
    job = training.Job(
        program(len(corpus.characters), s),
        (
            jnp.asarray([seed for _, _, seed in runs], jnp.int32),
            jnp.asarray([REVERSED[kind] for _, kind, _ in runs], jnp.float32),
            jnp.asarray([lengths[share] for share, _, _ in runs], jnp.int32),
        ),
        shared=(jnp.asarray(corpus.train), jnp.asarray(held_out(corpus, s))),
        precision=None,
    )
    ((_, curves, seconds),) = training.done({"text": job})
    for share, kind in itertools.product(s.shares, ROWS):
        own = np.stack([curves[i] for i, run in enumerate(runs) if run[:2] == (share, kind)])
        values, best = {}, {}
        for way, name in enumerate(("forward", "backward")):
            even, odd = own[:, :, way, 0], own[:, :, way, 1]
            place = np.argmin(even, 1)
            best[name] = ((place + 1) * s.every).tolist()
            values[name] = odd[np.arange(len(odd)), place].tolist()
            values[f"{name}_end"] = odd[:, -1].tolist()
        yield {
            "part": "text",
            "setting": share,
            "row": kind,
            "characters": lengths[share],
            "values": values,
            "best_at": best,
            "curve": np.mean(own, (0, 3)).round(4).tolist(),
            "every": s.every,
            "seconds": seconds,
        }
