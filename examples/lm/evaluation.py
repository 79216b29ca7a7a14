"""Loss on held-out text: every character once, each window starting afresh."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.rows import Model
from lm.step import losses


class Evaluation(NamedTuple):
    """Nats for each character, the share of causal pairs kept, and the characters predicted."""

    nats: float
    kept_pairs: float
    characters: int


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
        self._count, self._batch = len(rows), min(batch, len(rows))
        spare = -self._count % self._batch
        self._rows = jnp.asarray(np.pad(rows, ((0, spare), (0, 0))))
        self._lengths = jnp.asarray(np.pad(lengths, (0, spare)))

        def some(params: Any, rows: jax.Array, lengths: jax.Array) -> tuple[jax.Array, jax.Array]:
            logits, info = model.apply(
                model.config, params, rows[:, :-1], dtype=jnp.dtype(dtype), return_info=True
            )
            inside = jnp.arange(block, dtype=jnp.int32)[None] < lengths[:, None]
            nats = jnp.where(inside, losses(logits, rows[:, 1:]), jnp.zeros((), logits.dtype))
            return jnp.sum(nats, axis=1), jnp.mean(info["kept_pairs"])

        self._some = jax.jit(some)

    def evaluate(self, params: Any, *, limit: int | None = None) -> Evaluation:
        """Loss over all windows, or over about `limit` of them, evenly spread."""
        batches = len(self._rows) // self._batch
        wanted = batches if limit is None else min(batches, -(-limit // self._batch))
        nats, kept, characters = 0.0, [], 0
        for index in np.linspace(0, batches - 1, wanted).round().astype(int):
            part = slice(index * self._batch, (index + 1) * self._batch)
            lengths = self._lengths[part]
            sums, share = self._some(params, self._rows[part], lengths)
            nats += float(np.asarray(sums, np.float64).sum())
            kept.append(float(share))
            characters += int(lengths.sum())
        return Evaluation(nats / characters, float(np.mean(kept)), characters)
