"""Loss on held-out text: every character once, each window starting afresh."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.rows import Model
from lm.step import losses


class Evaluation(NamedTuple):
    """Means over held-out text.

    Args:
        nats: for each character.
        kept_pairs: share of the causal pairs that attention computes.
        experts: of each layer the share of the tokens that each expert takes (empty without).
        accuracy: share of the characters that the likeliest guess hits.
    """

    nats: float
    kept_pairs: float
    experts: tuple[tuple[float, ...], ...]
    accuracy: float


def windows(tokens: np.ndarray, *, block: int) -> tuple[np.ndarray, np.ndarray]:
    """Consecutive windows (n, block + 1) that predict tokens[1:] once each, and their lengths."""
    targets = len(tokens) - 1
    count = -(-targets // block)
    padded = np.zeros(count * block + 1, np.int32)
    padded[: len(tokens)] = tokens
    rows = np.stack([padded[i * block : (i + 1) * block + 1] for i in range(count)])
    lengths = np.minimum(block, targets - block * np.arange(count)).astype(np.int32)
    return rows, lengths


class Evaluator:
    """Compiled once for a model; `evaluate(params)` is exact and deterministic."""

    def __init__(
        self, model: Model, tokens: np.ndarray, *, block: int, dtype: str, batch: int = 32
    ) -> None:
        rows, lengths = windows(tokens, block=block)
        self._batch = min(batch, len(rows))
        spare = -len(rows) % self._batch
        self._rows = jnp.asarray(np.pad(rows, ((0, spare), (0, 0)), mode="edge"))
        self._lengths = jnp.asarray(np.pad(lengths, (0, spare)))
        self._some = functools.partial(_some, model.apply, model.config, jnp.dtype(dtype))

    def evaluate(self, params: Any, *, limit: int | None = None) -> Evaluation:
        """Means over all windows, or over about `limit` of them, evenly spread."""
        batches = len(self._rows) // self._batch
        wanted = batches if limit is None else min(batches, -(-limit // self._batch))
        nats, hits, kept, loads, characters = 0.0, 0, [], [], 0
        for index in np.linspace(0, batches - 1, wanted).round().astype(int):
            part = slice(index * self._batch, (index + 1) * self._batch)
            lengths = self._lengths[part]
            sums, hit, share, load = self._some(params, self._rows[part], lengths)
            nats += float(np.asarray(sums, np.float64).sum())
            hits += int(hit)
            kept.append(float(share))
            loads.append(np.asarray(load, np.float64))
            characters += int(lengths.sum())
        experts = tuple(tuple(layer) for layer in np.mean(loads, axis=0).tolist())
        return Evaluation(
            nats / characters, float(np.mean(kept)), experts, accuracy=hits / characters
        )


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _some(
    apply: Any, config: Any, dtype: Any, params: Any, rows: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, ...]:
    """Nats of each window, hits, share of kept pairs, and load of experts; of one model's rows."""
    logits, info = apply(config, params, rows[:, :-1], dtype=dtype, return_info=True)
    inside = jnp.arange(rows.shape[1] - 1, dtype=jnp.int32)[None] < lengths[:, None]
    nats = jnp.where(inside, losses(logits, rows[:, 1:]), jnp.zeros((), logits.dtype))
    hits = jnp.sum(inside & (jnp.argmax(logits, -1) == rows[:, 1:]), dtype=jnp.int32)
    load = info.get("expert_load", jnp.zeros((0, 0), jnp.float32))
    return jnp.sum(nats, axis=1), hits, jnp.mean(info["kept_pairs"]), load
