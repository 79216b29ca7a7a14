"""A memory in 32 KiB, stored in nine ways of which rows may be lost."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from physnet import holography

PAIRS, WIDTH = 128, 32  # associations; of a key, and of a value
BUDGET = PAIRS * 2 * WIDTH * 4


def four_bits(rows: jax.Array) -> jax.Array:
    """Each row in 4 bits an entry and one bfloat16 scale: 2 WIDTH / 2 + 2 bytes."""
    scale = (jnp.max(jnp.abs(rows), axis=1, keepdims=True) / 7).astype(jnp.bfloat16)
    return jnp.clip(jnp.round(rows / jnp.maximum(scale, 1e-30)), -7, 7) * scale


def bfloat16(rows: jax.Array) -> jax.Array:
    return rows.astype(jnp.bfloat16).astype(jnp.float32)


def least_squares(generator, rows, lost, noise):
    """The solve of `holography.recover` for another code."""
    u, s, vt = jnp.linalg.svd(jnp.where(lost[:, None], 0, generator), full_matrices=False)
    return vt.T @ ((s / (s**2 + noise**2))[:, None] * (u.T @ jnp.where(lost[:, None], 0, rows)))


def merged(slots: jax.Array) -> jax.Array:
    """Neighbours to one slot: half as many, as a memory that is too small would."""
    return slots.reshape(-1, 2, slots.shape[1]).mean(1)


def plain(slots, key, share, *, copies=1, stored=lambda x: x):
    """Copies of each slot: (slots, which of them have a copy left)."""
    lost = lost_rows(key, copies * len(slots), share).reshape(copies, -1)
    return stored(slots), ~jnp.all(lost, axis=0)


def coded(slots, key, share, *, rows, stored=lambda x: x, noise=0.0):
    """Coded to that many rows, of which what is left is solved for all slots."""
    spread = stored(holography.protect(slots, rate=len(slots) / rows, key=key))
    lost = lost_rows(key, rows, share)
    found = holography.recover(spread, lost, slots=len(slots), key=key, noise=noise)
    return found, jnp.ones(len(slots), bool)


def linear(slots, key, share, *, generator, stored):
    """Another linear code: generator(k, n, key) (n, k), to twice the slots."""
    matrix = generator(len(slots), 2 * len(slots), key)
    found = least_squares(matrix, stored(matrix @ slots), lost_rows(key, len(matrix), share), 1e-3)
    return found, jnp.ones(len(slots), bool)


def parity(k: int, n: int, key: jax.Array) -> jax.Array:
    """The slots themselves, and random mixtures of them."""
    return jnp.concatenate([jnp.eye(k), jax.random.normal(key, (n - k, k)) / np.sqrt(k)]) / 2**0.5


def low_pass(k: int, n: int, key: jax.Array) -> jax.Array:
    """The first k cosines of n points."""
    wave = np.cos(np.pi / n * np.outer(np.arange(n) + 0.5, np.arange(k)))
    return jnp.asarray(wave / np.linalg.norm(wave, axis=0), jnp.float32)


def repeated(k: int, n: int, key: jax.Array) -> jax.Array:
    return jnp.tile(jnp.eye(k), (n // k, 1)) / np.sqrt(n // k)


def hadamard(k: int, n: int, key: jax.Array) -> jax.Array:
    return holography.protect(jnp.eye(k), rate=k / n, key=key)


def lost_rows(key: jax.Array, n: int, share: float | jax.Array) -> jax.Array:
    """Which of n rows are lost: just that share of them, at random."""
    return jax.random.permutation(jax.random.fold_in(key, 7), n) < jnp.round(share * n)


ROWS_4 = BUDGET // (2 * WIDTH // 2 + 2)  # of 4 bits an entry and a scale
SEVEN = f"4 bits, {ROWS_4 // PAIRS} times"
MEMORIES: dict[str, Callable] = {
    "float32 as it is": plain,
    "float32, merged, twice": lambda s, *a: plain(merged(s), *a, copies=2),
    "float32, merged, coded": lambda s, *a: coded(merged(s), *a, rows=PAIRS),
    "bfloat16 twice": partial(plain, copies=2, stored=bfloat16),
    "bfloat16 with parities": partial(linear, generator=parity, stored=bfloat16),
    "bfloat16 low-pass DCT": partial(linear, generator=low_pass, stored=bfloat16),
    "bfloat16 coded": partial(coded, rows=2 * PAIRS, stored=bfloat16, noise=1e-3),
    SEVEN: partial(plain, copies=ROWS_4 // PAIRS, stored=four_bits),
    "4 bits coded": partial(coded, rows=ROWS_4, stored=four_bits, noise=0.05),
}
REPLICAS = {  # of each memory that is coded, the one of copies in the same precision
    "float32, merged, coded": "float32, merged, twice",
    "bfloat16 with parities": "bfloat16 twice",
    "bfloat16 low-pass DCT": "bfloat16 twice",
    "bfloat16 coded": "bfloat16 twice",
    "4 bits coded": SEVEN,
}
