"""Loss on held-out text: every character once, each window starting afresh."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from lm.devices import ONE, OneDevice
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
        self,
        model: Model,
        tokens: np.ndarray,
        *,
        block: int,
        dtype: str,
        batch: int = 32,
        devices: OneDevice = ONE,
    ) -> None:
        count = -(-(len(tokens) - 1) // block)
        self._windows = min(batch, count)  # of a batch, the same on every mesh
        self._batch = -(-self._windows // devices.parts) * devices.parts
        self._batches = -(-count // self._windows)
        self._tokens, self._block, self._text = tokens, block, devices.text
        self._held = None if isinstance(tokens, np.memmap) else self._put(0, self._batches)
        self._some = devices.evaluation(_some, model, jnp.dtype(dtype))

    def evaluate(self, params: Any, *, limit: int | None = None) -> Evaluation:
        """Means over all windows, or over about `limit` of them, evenly spread."""
        batches = self._batches
        wanted = batches if limit is None else min(batches, -(-limit // self._windows))
        nats, hits, kept, loads, characters = 0.0, 0, [], [], 0
        for index in np.linspace(0, batches - 1, wanted).round().astype(int):
            rows, lengths = self._part(index)
            sums, hit, share, load = self._some(params, rows, lengths)
            nats += float(np.asarray(sums, np.float64).sum())
            hits += int(hit)
            kept.append(float(share))
            loads.append(np.asarray(load, np.float64))
            characters += int(lengths.sum())
        experts = tuple(tuple(layer) for layer in np.mean(loads, axis=0).tolist())
        return Evaluation(
            nats / characters, float(np.mean(kept)), experts, accuracy=hits / characters
        )

    def _part(self, index: int) -> tuple[jax.Array, jax.Array]:
        """The rows and lengths of a batch; a text on the disk is read a batch at a time."""
        if self._held is None:
            return self._put(index, index + 1)
        part = slice(index * self._batch, (index + 1) * self._batch)
        return self._held[0][part], self._held[1][part]

    def _put(self, first: int, last: int) -> tuple[jax.Array, jax.Array]:
        each = self._windows * self._block
        rows, lengths = windows(self._tokens[first * each : last * each + 1], block=self._block)
        # Batches are filled up with windows that do not count: the last one, and all on a mesh that
        # splits them into parts that would not be equal.
        last_one = (0, -len(rows) % self._windows)
        shape, every = (-1, self._windows), (0, self._batch - self._windows)
        rows = np.pad(rows, (last_one, (0, 0)), mode="edge").reshape(*shape, rows.shape[1])
        lengths = np.pad(lengths, last_one).reshape(shape)
        rows = np.pad(rows, ((0, 0), every, (0, 0)), mode="edge").reshape(-1, rows.shape[2])
        return self._text(rows), self._text(np.pad(lengths, ((0, 0), every)).reshape(-1))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _some(
    apply: Any, config: Any, dtype: Any, params: Any, rows: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, ...]:
    """Nats of each window, hits, share of kept pairs, and load of experts; of one model's rows."""
    logits, info = apply(config, params, rows[:, :-1], dtype=dtype, return_info=True)
    inside = jnp.arange(rows.shape[1] - 1, dtype=jnp.int32)[None] < lengths[:, None]
    nats, hits = tallied(logits, rows[:, 1:], inside)
    load = info.get("expert_load", jnp.zeros((0, 0), jnp.float32))
    return nats, hits, jnp.mean(info["kept_pairs"]), load


def tallied(
    logits: jax.Array, targets: jax.Array, inside: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Nats of each window and hits, of the targets that are inside the text."""
    nats = jnp.where(inside, losses(logits, targets), jnp.zeros((), logits.dtype))
    hits = jnp.sum(inside & (jnp.argmax(logits, -1) == targets), dtype=jnp.int32)
    return jnp.sum(nats, axis=1), hits
