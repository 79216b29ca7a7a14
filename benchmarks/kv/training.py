"""Training of all seeds at once, and what is measured afterwards."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from kv import model
from kv.tasks import KINDS, Task, crops, sequences


@dataclasses.dataclass(frozen=True)
class Stage:
    """Some steps at one length; `batch` sequences (of each kind) a step."""

    task: Task
    batch: int
    steps: int
    rate: float = 2e-3
    end: float = 0.1  # of the rate, behind a cosine
    decay: float = 0.01


def nats(logits: jax.Array, wanted: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean loss and share of right answers of each sequence, over the places that are asked for."""
    asked = wanted >= 0
    target = jnp.maximum(wanted, 0)
    loss = jax.nn.logsumexp(logits, -1) - jnp.take_along_axis(logits, target[..., None], -1)[..., 0]
    right = jnp.argmax(logits, -1).astype(wanted.dtype) == wanted
    mean = lambda x: jnp.sum(jnp.where(asked, x, 0.0), -1) / jnp.sum(asked, -1, dtype=x.dtype)  # noqa: E731
    return mean(loss), mean(right.astype(loss.dtype))


def optimiser(stage: Stage) -> optax.GradientTransformation:
    schedule = optax.warmup_cosine_decay_schedule(
        0.0, stage.rate, stage.steps // 10, stage.steps, stage.end * stage.rate
    )
    matrices = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)  # noqa: E731
    return optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(schedule, b2=0.98, weight_decay=stage.decay, mask=matrices),
    )


def batch_of(stage: Stage, text: jax.Array | None, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    if text is None:
        return sequences(stage.task, key, stage.batch)
    return crops(text, key, stage.batch, stage.task.context)


def trainer(
    config: model.Config,
    attend: Callable[..., Any],
    stage: Stage,
    text: jax.Array | None,
    *,
    teach: bool = False,
) -> Callable[..., Any]:
    """(parameters, their method's, seeds) -> (both trained, mean loss of each step)."""
    rule = optimiser(stage)

    def loss(both, tokens, wanted):
        params, memory = both

        def one(tokens):
            return model.apply(config, params, tokens, attend, memory, teach=teach)

        logits = jax.vmap(one)(tokens)
        logits, more = logits if teach else (logits, 0.0)
        return jnp.mean(nats(logits, wanted)[0]) + jnp.mean(more)

    def one(params, memory, seed):
        data = jax.random.fold_in(jax.random.key(seed), stage.task.context)

        def step(state, index):
            both, moments = state
            value, slope = jax.value_and_grad(loss)(
                both, *batch_of(stage, text, jax.random.fold_in(data, index))
            )
            change, moments = rule.update(slope, moments, both)
            return (optax.apply_updates(both, change), moments), value

        both = (params, memory)
        indices = jnp.arange(stage.steps, dtype=jnp.int32)
        (both, _), curve = jax.lax.scan(step, (both, rule.init(both)), indices)
        return both, curve

    return jax.jit(jax.vmap(one))


def chunks(tokens: jax.Array, wanted: jax.Array, size: int) -> tuple[jax.Array, jax.Array]:
    """Reshaped to (chunks, size, T); the last ones are dropped if they do not fill a chunk."""
    count = len(tokens) // size
    cut = lambda x: x[: count * size].reshape(count, size, -1)  # noqa: E731
    return cut(tokens), cut(wanted)


def examiner(
    config: model.Config, attend: Callable[..., jax.Array], size: int
) -> Callable[..., dict[str, jax.Array]]:
    """(parameters, their method's, tokens, wanted) of all seeds -> loss, right answers (seeds, n).

    tokens, wanted: (n, T), the same for all seeds; `size` of them at a time.
    """

    def one(params, memory, tokens, wanted):
        def some(piece):
            logits = jax.vmap(lambda t: model.apply(config, params, t, attend, memory))(piece[0])
            return nats(logits, piece[1])

        loss, right = jax.lax.map(some, chunks(tokens, wanted, size))
        return {"nats": loss.reshape(-1), "right": right.reshape(-1)}

    return jax.jit(jax.vmap(one, in_axes=(0, 0, None, None)))


def by_kind(right: jax.Array) -> dict[str, list[float]]:
    """Accuracy of each kind of question and each seed, from (seeds, kinds * n)."""
    parts = right.reshape(len(right), len(KINDS), -1).mean(-1)
    return {kind: parts[:, index].tolist() for index, kind in enumerate(KINDS)}


@functools.cache
def starts(config: model.Config) -> Callable[[jax.Array], Any]:
    return jax.jit(jax.vmap(lambda seed: model.init(config, jax.random.key(seed))))
