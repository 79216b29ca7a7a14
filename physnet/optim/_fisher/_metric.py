"""Two forms of a Fisher metric, one leaf each: its moments from scores, and its inverse powers.

A leaf's scores are the derivatives of the log-likelihoods of single examples by it, scaled so that
the sum of their squares is the metric (over sqrt(S) for a mean): an array with a leading axis of
examples, or `OuterScores`, the two factors of each derivative of y = x W by W.

Shapes: S examples, I and O the inputs and outputs of a matrix.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import _checks
from physnet.optim import _leaves

Metric = Literal["diagonal", "kronecker"]


class OuterScores(NamedTuple):
    """Scores of a matrix W in y = x W, example by example x_s^T d_s, kept as their factors.

    Attributes:
        inputs: x, (S, ..., I).
        outputs: d, derivatives of log-likelihoods by y, over sqrt(S) for a mean, (S, ..., O).
    """

    inputs: Any
    outputs: Any


class Diagonal(NamedTuple):
    """Decayed sums of weights (1 at last) and of squared scores, shaped like the leaf."""

    weight: Float[Array, ""]
    square: Array


class Kronecker(NamedTuple):
    """Decayed sums of weights and over pairs of rows and of columns, and eigenbases of means."""

    weight: Float[Array, ""]
    rows: Float[Array, "*lead I I"]
    columns: Float[Array, "*lead O O"]
    row_values: Float[Array, "*lead I"]
    row_basis: Float[Array, "*lead I I"]
    column_values: Float[Array, "*lead O"]
    column_basis: Float[Array, "*lead O O"]


def zeros(leaf: Any, metric: Metric) -> Diagonal | Kronecker:
    """The metric that no score has shaped yet."""
    x = jnp.zeros_like(_leaves.wide(leaf))
    weight = jnp.zeros([], x.dtype)
    if metric == "diagonal":
        return Diagonal(weight, x)
    row, column = x[..., 0], x[..., 0, :]
    pairs = [jnp.zeros((*v.shape, v.shape[-1]), v.dtype) for v in (row, column)]
    one = [jnp.broadcast_to(jnp.eye(p.shape[-1], dtype=p.dtype), p.shape) for p in pairs]
    return Kronecker(weight, pairs[0], pairs[1], row, one[0], column, one[1])


def check(where: str, scores: Any, leaf: jax.Array) -> None:
    """A ValueError unless scores are those of the leaf, one example or more."""
    if isinstance(scores, OuterScores):
        for part in scores:
            _checks.real(f"{where} OuterScores", part)
        x, d = jnp.shape(scores.inputs), jnp.shape(scores.outputs)
        want = f"OuterScores of shapes (S, ..., I), (S, ..., O) for a leaf {leaf.shape}"
        right = leaf.ndim > 1 and x[:-1] == d[:-1] and (*x[1:], d[-1]) == leaf.shape and x[0] > 0
        got = f"{x}, {d}"
    else:
        shape = _checks.array(where, scores).shape
        want, got = f"shape (S, {', '.join(map(str, leaf.shape))})", f"{shape}"
        right = len(shape) == leaf.ndim + 1 and shape[1:] == leaf.shape and shape[0] > 0
    if not right:
        raise ValueError(f"{where} must have {want} with S >= 1 examples, got {got}")


def _real(scores: Any, dtype: Any) -> jax.Array:
    """Scores as real numbers: imaginary parts are further examples."""
    scores = jnp.asarray(scores)
    if jnp.iscomplexobj(scores):
        scores = jnp.concatenate([scores.real, scores.imag])
    return scores.astype(dtype)


def _pairs(x: jax.Array) -> jax.Array:
    """Sum over examples of x x^T over the last axis."""
    return jnp.einsum("s...i,s...j->...ij", x, x, precision="highest")


def square(scores: Any, dtype: Any) -> jax.Array:
    """Sum over examples of the squared scores."""
    if isinstance(scores, OuterScores):
        x, d = (_real(part, dtype) for part in scores)
        return jnp.einsum("s...i,s...j->...ij", x**2, d**2, precision="highest")
    return jnp.sum(_real(scores, dtype) ** 2, axis=0)


def row_and_column_pairs(scores: Any, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """Sums of G G^T and G^T G over scores G; of outer ones with x and d taken as independent."""
    if isinstance(scores, OuterScores):
        x, d = (_real(part, dtype) for part in scores)
        rows, columns = _pairs(x) / x.shape[0], _pairs(d)
        traces = [jnp.trace(m, axis1=-2, axis2=-1)[..., None, None] for m in (rows, columns)]
        return rows * traces[1], columns * traces[0]
    g = _real(scores, dtype)
    rows = jnp.einsum("s...ij,s...kj->...ik", g, g, precision="highest")
    return rows, jnp.einsum("s...ij,s...ik->...jk", g, g, precision="highest")


def moved(metric: Any, scores: Any, decay: jax.Array, seen: jax.Array, every: int) -> Any:
    """The metric after these scores, the `seen`-th ones; bases follow at each `every`-th."""

    def mix(old, new):
        return decay * old + (1 - decay) * new

    weight = decay * metric.weight + (1 - decay)
    if isinstance(metric, Diagonal):
        return Diagonal(weight, mix(metric.square, square(scores, metric.square.dtype)))
    found = row_and_column_pairs(scores, metric.rows.dtype)
    rows, columns = mix(metric.rows, found[0]), mix(metric.columns, found[1])

    def renew(_):
        return *_spectrum(rows / weight), *_spectrum(columns / weight)

    if every == 1:
        return Kronecker(weight, rows, columns, *renew(None))
    due = (seen - 1) % every == 0
    return Kronecker(weight, rows, columns, *jax.lax.cond(due, renew, tuple, metric[3:]))


def _spectrum(pairs: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Eigenvalues and eigenvectors; what is 0 up to rounding is 0, for the pseudo-inverse."""
    values, basis = jnp.linalg.eigh(pairs)
    least = values.shape[-1] * jnp.finfo(values.dtype).eps * values[..., -1:]
    return jnp.where(values <= least, 0, values), basis


def solve(metric: Any, vector: jax.Array, damping: jax.Array, power: float) -> jax.Array:
    """(F + damping)^{-power} vector; where F + damping is 0, a pseudo-inverse."""

    def over(x, y):
        return jnp.where(y == 0, 0, x / jnp.where(y == 0, 1, y))

    def divided(x, fisher):
        whole = fisher + damping
        return over(x, whole if power == 1 else whole**power)

    if isinstance(metric, Diagonal):
        return divided(vector, over(metric.square, metric.weight))
    u, v = metric.row_basis, metric.column_basis
    a, b = metric.row_values[..., :, None], metric.column_values[..., None, :]
    trace = jnp.sum(a, axis=-2, keepdims=True)
    fisher = a * over(b, trace)
    turned = jnp.einsum("...ji,...jk,...kl->...il", u, vector, v, precision="highest")
    return jnp.einsum(
        "...ij,...jk,...lk->...il", u, divided(turned, fisher), v, precision="highest"
    )
