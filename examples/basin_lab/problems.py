"""Losses with many minima, and which values say that a point is in the basin of the lowest."""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np


@dataclasses.dataclass(frozen=True)
class Problem:
    """A loss over vectors, where searches begin, and what counts as success.

    Attributes:
        name: for tables.
        dimension: of the vector.
        loss: vector -> number, its lowest value about 0.
        start: key -> vector.
        target: a value below that of every other minimum.
        budget: evaluations of the loss.
        kind: "function" or "network".
    """

    name: str
    dimension: int
    loss: Callable[[jax.Array], jax.Array]
    start: Callable[[jax.Array], jax.Array]
    target: float
    budget: int
    kind: str = "function"


# ------------------------------------------------------------------------------- functions


def rastrigin(x):
    return jnp.sum(x**2 + 10 * (1 - jnp.cos(2 * math.pi * x)))


def ackley(x):
    size = jnp.sqrt(jnp.mean(x**2) + 1e-12)  # its slope is finite at the tip
    ripple = jnp.mean(jnp.cos(2 * math.pi * x))
    return 20 * (1 - jnp.exp(-0.2 * size)) + math.e - jnp.exp(ripple)


def levy(x):
    w = 1 + (x - 1) / 4
    middle = (w[:-1] - 1) ** 2 * (1 + 10 * jnp.sin(math.pi * w[:-1] + 1) ** 2)
    last = (w[-1] - 1) ** 2 * (1 + jnp.sin(2 * math.pi * w[-1]) ** 2)
    return jnp.sin(math.pi * w[0]) ** 2 + jnp.sum(middle) + last


_LEFT = -1.0357989  # where 4 x^3 - 4 x + 0.3 = 0, the lower well
_DEPTH = (_LEFT**2 - 1) ** 2 + 0.3 * _LEFT


def wells(x):
    """Two wells a coordinate, the left one lower: 2^d minima, one of them the lowest."""
    return jnp.sum((x**2 - 1) ** 2 + 0.3 * x - _DEPTH)


def schwefel(x):
    """The lowest minimum lies far from the next ones, near a corner of the box."""
    return jnp.sum(418.98288727 - x * jnp.sin(jnp.sqrt(jnp.abs(x) + 1e-12)))


# name: function, half-width of the box, coordinate of the lowest minimum
FUNCTIONS = {
    "Rastrigin": (rastrigin, 5.12, 0.0),
    "Ackley": (ackley, 32.0, 0.0),
    "Lévy": (levy, 10.0, 1.0),
    "double wells": (wells, 2.0, _LEFT),
    "Schwefel": (schwefel, 500.0, 420.968746),
}


def function(name: str, dimension: int, budget: int) -> Problem:
    """One of FUNCTIONS over the cube [-1, 1]^d, with a wall outside of it."""
    value, half, _ = FUNCTIONS[name]
    second = next_minimum(name, dimension)

    def loss(u):
        inside = jnp.clip(u, -1, 1)
        return value(half * inside) + 10 * second * jnp.sum((u - inside) ** 2)

    def start(key):
        return jax.random.uniform(key, (dimension,), minval=-1.0)

    return Problem(f"{name} {dimension}", dimension, loss, start, second / 2, budget)


@functools.cache
def next_minimum(name: str, dimension: int) -> float:
    """The second lowest minimum along the axes through the lowest, on a grid."""
    value, half, best = FUNCTIONS[name]
    found = []
    line = np.linspace(-half, half, 20_001)
    for axis in {0, dimension - 1, min(1, dimension - 1)}:  # Lévy's first and last differ
        points = np.full((line.size, dimension), best)
        points[:, axis] = line
        with jax.enable_x64(True):
            heights = np.asarray(jax.jit(jax.vmap(value))(jnp.asarray(points)))
        low = (heights[1:-1] < heights[:-2]) & (heights[1:-1] < heights[2:])
        values = np.sort(heights[1:-1][low])
        found.append(values[1] if len(values) > 1 else np.inf)
    return float(min(found))


# -------------------------------------------------------------------------------- networks


def _network(sizes: tuple[int, ...], activation: Callable[[jax.Array], jax.Array]):
    """A multilayer perceptron of one output over a flat vector; its number of weights."""
    shapes = list(itertools.pairwise(sizes))
    count = sum(m * n + n for m, n in shapes)

    def apply(flat, x):
        h, at = x, 0
        for i, (m, n) in enumerate(shapes):
            weight = flat[at : at + m * n].reshape(m, n)
            bias = flat[at + m * n : at + m * n + n]
            at += m * n + n
            h = h @ weight + bias[None]
            h = activation(h) if i < len(shapes) - 1 else h
        return h[:, 0]

    return apply, count


def network(name, x, signs, sizes, activation, target, budget) -> Problem:
    """Logistic loss of a small network: minima where some examples stay undecided."""
    apply, count = _network(sizes, activation)
    x, signs = jnp.asarray(x, jnp.float32), jnp.asarray(signs, jnp.float32)

    def loss(flat):
        return jnp.mean(jax.nn.softplus(-signs * apply(flat, x)))

    def start(key):
        return jax.random.normal(key, (count,))

    return Problem(name, count, loss, start, target, budget, "network")


def bits(n: int):
    """All n-bit words as +-1, and the sign of their parity."""
    words = 1 - 2 * ((np.arange(2**n)[:, None] >> np.arange(n)) & 1)
    return words, words.prod(1)


def spirals(points: int):
    """Two arms of one turn and a half."""
    t = np.linspace(0.15, 1, points)
    arm = t[:, None] * np.stack([np.cos(3 * np.pi * t), np.sin(3 * np.pi * t)], 1)
    return 2 * np.concatenate([arm, -arm]), np.repeat([1, -1], points)


def problems(preset: str) -> list[Problem]:
    """Those of a preset."""
    if preset == "smoke":
        return [function("Rastrigin", 2, 960)]
    return [
        function("double wells", 10, 20_000),
        function("Rastrigin", 2, 4_000),
        function("Rastrigin", 10, 20_000),
        function("Ackley", 10, 12_000),
        function("Lévy", 10, 12_000),
        function("Schwefel", 5, 12_000),
        network("XOR, 2 tanh units", *bits(2), (2, 2, 1), jnp.tanh, 0.05, 4_000),
        network("XOR, 2 ReLU units", *bits(2), (2, 2, 1), jax.nn.relu, 0.05, 4_000),
        network("spirals, 6 + 6 tanh units", *spirals(24), (2, 6, 6, 1), jnp.tanh, 0.1, 12_000),
    ]
