"""Handwritten digits in fixed parts, and rows of numbers to be sorted."""

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

TRAIN, VALIDATION = 1100, 300


class Split(NamedTuple):
    """Inputs and labels: to train on, to choose learning rates by, and to report."""

    train: tuple[jax.Array, jax.Array]
    validation: tuple[jax.Array, jax.Array]
    test: tuple[jax.Array, jax.Array]


def digits(path: Path | None) -> Split:
    """The 1,797 digits (8x8) of scikit-learn, or of an .npz with its `data` and `target`."""
    if path is not None:
        with np.load(path) as file:
            pixels, labels = file["data"], file["target"]
    else:
        try:
            from sklearn.datasets import load_digits
        except ImportError as error:
            raise SystemExit(
                "error: the digits come with scikit-learn: pip install scikit-learn, or --digits "
                "FILE.npz with its arrays `data` (1797, 64) and `target` (1797,)"
            ) from error
        pixels, labels = load_digits(return_X_y=True)
    return split(pixels, labels)


def split(pixels: np.ndarray, labels: np.ndarray) -> Split:
    """Shuffled once, each pixel with mean 0, all with variance 1."""
    pixels = pixels - pixels.mean(0)
    x = jnp.asarray(pixels / pixels.std(), jnp.float32)
    y = jnp.asarray(labels, jnp.int32)
    order = np.random.default_rng(0).permutation(len(x))
    ends = len(x) * TRAIN // 1797, len(x) * (TRAIN + VALIDATION) // 1797
    return Split(*((x[i], y[i]) for i in np.split(order, ends)))


def to_sort(length: int, numbers: int) -> Split:
    """Random rows and the same rows sorted: the answer at a place needs all places."""
    draw = np.random.default_rng(0)
    rows = draw.integers(numbers, size=(20_000, length), dtype=np.int32)
    x, y = jnp.asarray(rows), jnp.asarray(np.sort(rows, 1))
    return Split(*((x[a:b], y[a:b]) for a, b in ((0, 19_000), (19_000, 19_500), (19_500, None))))
