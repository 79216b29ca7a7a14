"""The row of a trained BK-Core whose heads get thresholds of their own."""

import dataclasses
import functools
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from lm import evaluation, results
from lm.checkpoints import Checkpoints, digest
from lm.corpus import Corpus
from lm.metrics import Metrics
from lm.results import Result
from lm.rows import Model
from lm.settings import Settings, Superposition
from lm.step import mean_loss
from lm.training import claim, train
from physnet.models import bk_core

CALL = 5
"""Generations in a compiled call, after which there is a checkpoint."""
CHUNK = 4
"""Particles that are evaluated at once."""


def row(
    model: Model, corpus: Corpus, settings: Settings, folder: Path, *, console: Console
) -> Result:
    """The row; what it is compared with is the same model calibrated to the same share of pairs.

    Args:
        model: the row of the plain BK-Core, trained in its own folder if it is not yet.
        corpus: with a text for calibration.
        settings: of the job.
        folder: of the job.
        console: where progress goes.
    """
    evaluator = results.held_out(model, corpus, settings)
    done = train(model, corpus, settings.training, evaluator, folder / model.name, console=console)
    finer = model._replace(name=f"{model.name}-refined", label=f"{model.label}, refined")
    place = folder / finer.name
    place.mkdir(exist_ok=True)
    params = refined(finer, done.params, corpus, settings, place, console=console)
    found = results.measured(
        finer,
        done._replace(params=params),
        corpus,
        dataclasses.replace(settings, depths=()),
        place,
        evaluator=evaluator,
    )
    density = settings.superposition.pairs
    common = commonly(model, done.params, sample(corpus, settings)[:, :-1], density)
    label = f"one density, {density:.0%}, for all heads"
    return dataclasses.replace(
        found,
        seconds=None,  # those of the training are the plain row's
        tokens_per_second=None,
        memory={},
        parts=(results.part(label, evaluator.evaluate(common)),),
    )


def sample(corpus: Corpus, settings: Settings) -> jax.Array:
    """Windows of the text for calibration with their next characters, evenly spread."""
    windows, _ = evaluation.windows(corpus.calibration, block=settings.training.block)
    whole = max(1, len(windows) - 1)  # the last one may be cut short
    chosen = np.linspace(0, whole - 1, min(whole, settings.superposition.windows))
    return jnp.asarray(windows[chosen.round().astype(int)])


def commonly(model: Model, params: Any, tokens: jax.Array, density: float) -> Any:
    """The parameters calibrated to one density of all heads."""
    config = dataclasses.replace(model.config, density=density)
    return jax.jit(lambda params, tokens: bk_core.calibrate(config, params, tokens))(params, tokens)


@functools.partial(jax.jit, static_argnums=(0, 1, 2), static_argnames="generations")
def search(
    model: Model,
    options: Superposition,
    dtype: Any,
    params: Any,
    windows: jax.Array,
    key: jax.Array,
    begun: bk_core.Search | None,
    *,
    generations: int,
) -> bk_core.Refined:
    """`bk_core.refine` for the loss on these windows."""
    return bk_core.refine(
        model.config,
        params,
        windows[:, :-1],
        lambda params, _: mean_loss(model, dtype, params, windows, None),
        key=key,
        density=options.pairs,
        generations=generations,
        particles=options.particles,
        chunk=CHUNK,
        search=begun,
        dtype=dtype,
    )


def refined(
    model: Model, params: Any, corpus: Corpus, settings: Settings, folder: Path, *, console: Console
) -> Any:
    """The parameters with thresholds that lower the loss on text that has trained nothing.

    A kill costs at most `CALL` generations.
    """
    options, training = settings.superposition, settings.training
    dtype = jnp.dtype(training.dtype)
    windows = sample(corpus, settings)
    start = {"params": digest(params), "text": digest(windows)} | {
        name: getattr(options, name) for name in ("pairs", "generations", "particles", "windows")
    }
    claim(folder, model, corpus, training, refinement=start)

    key = jax.random.fold_in(jax.random.key(training.seed), 4)
    run = functools.partial(search, model, options, dtype, params, windows, key)
    found, threshold = start_of(model, options, dtype, params, windows, key)
    count, tree = 0, jax.tree.structure((found, threshold))
    with Checkpoints(folder / "checkpoints") as checkpoints:

        def say(sentence: str) -> None:
            console.print(f"{model.label}: {sentence}")

        restored = checkpoints.restore(_named((found, threshold)), say=say)
        if restored is not None:
            found, threshold = tree.unflatten(
                restored.state[name] for name in sorted(restored.state)
            )
            count = restored.step
            whole = count >= options.generations
            say("refined already" if whole else f"resuming after generation {count}")
        with Metrics(folder, step=count) as metrics:
            while count < options.generations:
                due = min(CALL, options.generations - count)
                made = run(found, generations=due)
                for value in np.asarray(made.history):
                    count += 1
                    metrics.record("refinement", count, loss=float(value))
                found, threshold = made.search, _threshold(made.params)
                metrics.flush()
                checkpoints.save(count, _named((found, threshold)), {})
                say(f"generation {count}, loss {made.before:.4f} -> {made.after:.4f}")
    attention = params["layers"]["attention"] | {"threshold": threshold}
    return params | {"layers": params["layers"] | {"attention": attention}}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def start_of(
    model: Model, options: Superposition, dtype: Any, params: Any, windows: Any, key: Any
) -> tuple[bk_core.Search, jax.Array]:
    """A search before its first generation, and thresholds: no loss is evaluated for them."""
    begun = search(model, options, dtype, params, windows, key, None, generations=0).search
    return begun, _threshold(params)


def _threshold(params: Any) -> jax.Array:
    return params["layers"]["attention"]["threshold"]


def _named(state: Any) -> dict[str, Any]:
    return {f"{index:02}": leaf for index, leaf in enumerate(jax.tree.leaves(state))}
