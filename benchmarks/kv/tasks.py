"""Recall in long sequences: associative recall, copying, needles, tables. And text, from a crop.

A sequence has a prompt (its first three quarters) and a tail with the questions, so that what
is asked for lies behind the memory. Tokens: `filler`, `keys`, `values`, `markers`, one for copying.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

KINDS = ("recall", "copy", "needle", "dense")


@dataclasses.dataclass(frozen=True)
class Task:
    """Sizes of the sequences.

    Args:
        context: Tokens of a sequence, a multiple of 8.
        pairs: Pairs of key and value in a "recall" sequence; each is asked for once.
        span: Tokens of the string in a "copy" sequence.
        needles: Marked values in a "needle" sequence.
    """

    context: int = 2048
    pairs: int = 64
    span: int = 64
    needles: int = 4
    filler: int = 32
    keys: int = 128
    values: int = 128
    markers: int = 16

    @property
    def prompt(self) -> int:
        return self.context * 3 // 4

    @property
    def vocab_size(self) -> int:
        return self.filler + self.keys + self.values + self.markers + 1


def _some(key: jax.Array, n: int, k: int) -> jax.Array:
    """k different numbers below n."""
    return jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32))[:k]


def _noise(task: Task, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    tokens = jax.random.randint(key, (task.context,), 0, task.filler, jnp.int32)
    return tokens, jnp.full((task.context,), -1, jnp.int32)


def recall(task: Task, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Pairs at random places of the prompt among filler; all keys, shuffled, in the tail."""
    parts = jax.random.split(key, 6)
    tokens, wanted = _noise(task, parts[0])
    keys = task.filler + _some(parts[1], task.keys, task.pairs)
    values = jax.random.randint(parts[2], (task.pairs,), 0, task.values, jnp.int32)
    values = values + task.filler + task.keys
    places = 2 * _some(parts[3], task.prompt // 2, task.pairs)
    tokens = tokens.at[places].set(keys).at[places + 1].set(values)
    order = _some(parts[4], task.pairs, task.pairs)
    tail = task.context - task.prompt
    asked = task.prompt + 2 * _some(parts[5], tail // 2, task.pairs)
    return tokens.at[asked].set(keys[order]), wanted.at[asked].set(values[order])


def copy(task: Task, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A string of different tokens behind a mark in the prompt; both again in the tail."""
    parts = jax.random.split(key, 4)
    tokens, wanted = _noise(task, parts[0])
    string = task.filler + _some(parts[1], task.keys + task.values, task.span)
    marked = jnp.concatenate([jnp.array([task.vocab_size - 1], jnp.int32), string])
    where = jnp.arange(task.span + 1, dtype=jnp.int32)
    first = jax.random.randint(parts[2], (), 0, task.prompt - task.span - 1, jnp.int32)
    spare = task.context - task.prompt - task.span
    again = task.prompt + jax.random.randint(parts[3], (), 0, spare, jnp.int32)
    tokens = tokens.at[first + where].set(marked).at[again + where].set(marked)
    return tokens, wanted.at[again + where[:-1]].set(string)


def needle(task: Task, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Some values behind marks in a prompt full of other keys and values; the marks in the tail."""
    parts = jax.random.split(key, 5)
    many = task.keys + task.values
    tokens = jax.random.randint(parts[0], (task.context,), 0, many, jnp.int32) + task.filler
    marks = task.filler + many + _some(parts[1], task.markers, task.needles)
    values = jax.random.randint(parts[2], (task.needles,), 0, task.values, jnp.int32)
    values = values + task.filler + task.keys
    places = 2 * _some(parts[3], task.prompt // 2, task.needles)
    tokens = tokens.at[places].set(marks).at[places + 1].set(values)
    tail = task.context - task.prompt
    asked = task.prompt + 2 * _some(parts[4], tail // 2, task.needles)
    wanted = jnp.full((task.context,), -1, jnp.int32)
    return tokens.at[asked].set(marks), wanted.at[asked].set(values)


def dense(task: Task, key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A prompt of nothing but triples, two keys and a value; some of the pairs of keys in the tail.

    Nothing tells the triples that will be asked for from the others.
    """
    parts = jax.random.split(key, 5)
    tokens, wanted = _noise(task, parts[0])
    count, tail = task.prompt // 3, task.context - task.prompt
    both = _some(parts[1], task.keys**2, count)
    first, second = task.filler + both // task.keys, task.filler + both % task.keys
    values = jax.random.randint(parts[2], (count,), 0, task.values, jnp.int32)
    values = values + task.filler + task.keys
    table = jnp.stack([first, second, values], 1).reshape(-1)
    tokens = tokens.at[: 3 * count].set(table)
    asked = min(task.pairs, tail // 3)
    which = _some(parts[3], count, asked)
    places = task.prompt + 3 * _some(parts[4], tail // 3, asked)
    tokens = tokens.at[places].set(first[which]).at[places + 1].set(second[which])
    return tokens, wanted.at[places + 1].set(values[which])


def sequences(task: Task, key: jax.Array, batch: int) -> tuple[jax.Array, jax.Array]:
    """Tokens (4 batch, context) and the token to name at each place (-1: none), kind after kind."""
    keys = jax.random.split(key, (len(KINDS), batch))
    parts = [
        jax.vmap(lambda k, make=make: make(task, k))(keys[index])
        for index, make in enumerate((recall, copy, needle, dense))
    ]
    return jnp.concatenate([p[0] for p in parts]), jnp.concatenate([p[1] for p in parts])


def crops(text: jax.Array, key: jax.Array, batch: int, context: int) -> tuple[jax.Array, jax.Array]:
    """Random pieces of a text (batch, context) and the characters that follow each place."""
    first = jax.random.randint(key, (batch, 1), 0, len(text) - context, jnp.int32)
    pieces = text[first + jnp.arange(context + 1, dtype=jnp.int32)]
    return pieces[:, :-1], pieces[:, 1:]


def windows(text: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Pieces whose last quarters tile the text, and the characters wanted there (-1 elsewhere)."""
    tail = context - context * 3 // 4
    starts = np.arange(0, len(text) - context, tail)
    pieces = text[starts[:, None] + np.arange(context + 1)]
    wanted = np.where(np.arange(context) < context - tail, -1, pieces[:, 1:])
    return pieces[:, :-1].astype(np.int32), wanted.astype(np.int32)
