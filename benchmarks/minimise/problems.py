"""Functions to minimise, with where a search starts and when it has succeeded."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """What to minimise, the same for all methods.

    Attributes:
        name: of its row.
        dimension: D.
        loss: of a vector of D numbers.
        target: a loss below it is success.
        width: starts are drawn from [-width, width] in every coordinate, without `start`.
        sigma: initial step size of every method.
        budget: evaluations after which a run has failed.
        start: draws a start from a key.
        particles: K of every method; None leaves it to each one's rule.
        open_sigma, open_rate: width and Adam's rate of Open_ES, which adapts neither.
    """

    name: str
    dimension: int
    loss: Callable[[jax.Array], jax.Array]
    target: float
    width: float
    sigma: float
    budget: int
    start: Callable[[jax.Array], jax.Array] | None = None
    open_sigma: float = 0.1
    open_rate: float = 0.05
    particles: int | None = None


ROTATED = ("ellipsoid", "Rosenbrock", "discus", "bent cigar", "different powers")


def sphere(x):
    return jnp.sum(x * x)


def scales(dimension: int, power: float) -> np.ndarray:
    return (10 ** (power * np.arange(dimension) / (dimension - 1))).astype(np.float32)


def ellipsoid(x):
    return jnp.sum(scales(x.size, 6) * x * x)


def rosenbrock(x):
    return jnp.sum(100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2)


def rastrigin(x):
    return 10 * x.size + jnp.sum(x * x - 10 * jnp.cos(2 * jnp.pi * x))


def discus(x):
    return 1e6 * x[0] ** 2 + jnp.sum(x[1:] ** 2)


def bent_cigar(x):
    return x[0] ** 2 + 1e6 * jnp.sum(x[1:] ** 2)


def different_powers(x):
    powers = 2 + 4 * np.arange(x.size, dtype=np.float32) / (x.size - 1)
    return jnp.sqrt(jnp.sum(jnp.abs(x) ** powers))


def rotation(dimension: int, seed: int) -> np.ndarray:
    """A rotation or reflection drawn from all of them alike."""
    normal = np.random.default_rng(seed).normal(size=(dimension, dimension))
    q, r = np.linalg.qr(normal)
    return (q * np.sign(np.diag(r))).astype(np.float32)


def oscillate(x):
    """BBOB's smooth local irregularities, entry by entry."""
    log = jnp.log(jnp.where(x == 0, 1.0, jnp.abs(x)))
    fast, slow = jnp.where(x > 0, 10.0, 5.5), jnp.where(x > 0, 7.9, 3.1)
    bent = jnp.exp(log + 0.049 * (jnp.sin(fast * log) + jnp.sin(slow * log)))
    return jnp.where(x == 0, 0.0, jnp.sign(x) * bent)


def asymmetric(x, strength=0.5):
    """BBOB's break of symmetry: positive entries to a power that grows with the entry's number."""
    share = np.arange(x.size, dtype=np.float32) / (x.size - 1)
    positive = jnp.maximum(x, 0.0)
    power = 1 + strength * share * jnp.sqrt(positive)
    return jnp.where(x > 0, jnp.where(positive > 0, positive, 1.0) ** power, x)


def bbob(name: str, dimension: int, seed: int):
    """A rotated function of the BBOB suite by its definition, f9 to f14, of minimum 0.

    As there, the ellipsoid and the discus pass through `oscillate`, the bent cigar through a
    rotation, `asymmetric` and the rotation again.
    """
    rng = np.random.default_rng(1000 + seed)
    optimum = rng.uniform(-4, 4, dimension).astype(np.float32)
    turn = rotation(dimension, seed)
    apply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def loss(x):
        if name == "Rosenbrock":  # f9: the minimum lies where the rotated point is 1
            z = max(1.0, dimension**0.5 / 8) * apply(turn, x) + 0.5
            return rosenbrock(z)
        z = apply(turn, x - optimum)
        if name == "ellipsoid":  # f10
            return ellipsoid(oscillate(z))
        if name == "discus":  # f11
            return discus(oscillate(z))
        if name == "bent cigar":  # f12
            return bent_cigar(apply(turn, asymmetric(z)))
        assert name == "different powers", name  # f14
        return different_powers(z)

    return loss


def digits(hidden: int = 16, count: int = 512):
    """Cross-entropy of a small network on 512 digits of scikit-learn, all in one batch."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    images, labels = images[:count], labels[:count]
    images = jnp.asarray(images / 16, jnp.float32)
    labels = jnp.asarray(labels)
    shapes = [(64, hidden), (hidden,), (hidden, 10), (10,)]
    sizes = [int(np.prod(shape)) for shape in shapes]
    splits = np.cumsum(sizes)[:-1].tolist()

    def loss(x):
        w, b, v, c = (p.reshape(s) for p, s in zip(jnp.split(x, splits), shapes, strict=True))
        logits = jnp.tanh(images @ w + b) @ v + c
        chosen = jnp.take_along_axis(logits, labels[:, None], axis=1)[:, 0]
        return jnp.mean(jax.nn.logsumexp(logits, axis=1) - chosen)

    def start(key):
        keys = jax.random.split(key, 2)
        w = jax.random.normal(keys[0], shapes[0]) / 8
        v = jax.random.normal(keys[1], shapes[2]) / hidden**0.5
        return jnp.concatenate([w.ravel(), jnp.zeros(hidden), v.ravel(), jnp.zeros(10)])

    return loss, start, sum(sizes)


def problems() -> list[Problem]:
    """Every problem of the table; the loss of the network needs scikit-learn."""
    plain: list[Any] = [
        ("sphere", 10, sphere, 1e-6, 3.0, 1.0, 10_000),
        ("sphere", 100, sphere, 1e-6, 3.0, 1.0, 60_000),
        ("sphere", 1000, sphere, 1e-6, 3.0, 1.0, 150_000),
        ("ellipsoid", 10, ellipsoid, 1e-6, 3.0, 1.0, 30_000),
        ("ellipsoid", 100, ellipsoid, 1e-6, 3.0, 1.0, 150_000),
        ("Rosenbrock", 10, rosenbrock, 1e-6, 2.0, 0.5, 40_000),
        ("Rosenbrock", 30, rosenbrock, 1e-6, 2.0, 0.5, 100_000),
        ("Rastrigin", 10, rastrigin, 1e-3, 4.0, 2.0, 40_000),
    ]
    found = [Problem(f"{name} {d}", d, *rest) for name, d, *rest in plain]
    many = dataclasses.replace(found[-1], name="Rastrigin 10, K = 100", particles=100)
    found.append(many)
    for index, name in enumerate(ROTATED):
        loss = bbob(name, 20, 10 * index)
        found.append(Problem(f"rotated {name} 20", 20, loss, 1e-2, 4.0, 2.0, 60_000))
    return found


def network() -> Problem:
    loss, start, dimension = digits()
    options: Any = {"start": start, "open_sigma": 0.05, "open_rate": 0.05}
    return Problem("digits network", dimension, loss, 0.1, 0.0, 0.2, 20_000, **options)
