"""Adam over matrices with orthonormal columns."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet.optim import _charts, _leaves, _stiefel


class StiefelAdamState(NamedTuple):
    """State of `stiefel_adam`: trees shaped like the parameters.

    Attributes:
        count: Steps taken.
        mean: First moment, tangent at the current matrices (float32, or float64).
        square: Second moment of the gradient's Riemannian length, (..., 1, 1): one a matrix.
    """

    count: Int[Array, ""]
    mean: Any
    square: Any


def stiefel_adam(
    learning_rate: float | Float[Array, ""] | optax.Schedule,
    *,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    metric: _stiefel.Metric = "euclidean",
    retraction: _stiefel.Retraction = "polar",
) -> optax.GradientTransformation:
    r"""Adam for matrices with orthonormal columns, as an optax transformation.

    On the Stiefel manifold X^T X = 1, with g the Riemannian gradient, |g| its length, R the way
    back to the manifold, and one second moment for each matrix, so that steps do not depend on the
    choice of axes:

        m <- b1 m + (1 - b1) g,     s <- b2 s + (1 - b2) |g|^2
        X' = R(X - lr (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps)),   m <- m - X' sym(X'^T m)

    The last two axes of every leaf hold a matrix, all others count matrices; a wide one has
    orthonormal rows instead. The gradients that come in are plain derivatives, the updates that go
    out are X' - X, for `optax.apply_updates`: clipping goes before it in a chain, nothing after it;
    `optax.partition` gives other leaves to other optimisers. Determinants of square matrices keep
    their sign.

    X' is orthonormal to the rounding of its dtype wherever X was, so nothing drifts; a matrix off
    the manifold lands there in one step. A NaN gradient makes its own matrix NaN, and its state; no
    other. A matrix whose gradient and moment are 0 keeps its bits.

    Args:
        learning_rate: A distance for each step, or a schedule of the step's number. Orthonormal
            matrices with m columns are at most 2 sqrt(m) apart.
        b1: Decay of the first moment, in [0, 1).
        b2: Decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        metric: g and |g|^2 are G - X sym(X^T G) and tr g^T g ("euclidean"), or G - X G^T X and
            tr g^T (1 - X X^T / 2) g ("canonical"), of the plain derivative G.
        retraction: R: "polar", the nearest point, by matrix products alone, or "qr".

    Returns:
        An `optax.GradientTransformation` whose update needs `params`.

    Raises:
        ValueError: An option out of range where it is known; from init and update, a leaf without
            two axes; from update, no params.
        TypeError: From init and update, leaves that are not real floating.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> aim = jnp.array([[0.6, -0.8], [0.8, 0.6]])
        >>> optimiser = stiefel_adam(0.1, b2=0.9)
        >>> slope = jax.grad(lambda x: jnp.sum((x - 2 * aim) ** 2))   # the nearest is aim
        >>> def step(_, carry):
        ...     x, state = carry
        ...     updates, state = optimiser.update(slope(x), state, x)
        ...     return optax.apply_updates(x, updates), state
        >>> x, _ = jax.lax.fori_loop(0, 200, step, (jnp.eye(2), optimiser.init(jnp.eye(2))))
        >>> f"{jnp.abs(x - aim).max() < 2e-3}"
        'True'

    References:
        Becigneul and Ganea, "Riemannian adaptive optimization methods", arXiv 1810.00760.
        Edelman, Arias and Smith, "The geometry of algorithms with orthogonality constraints",
        SIAM J. Matrix Anal. Appl. 20 (1998), 303.
    """
    _charts.one_number(learning_rate=learning_rate)
    manifold = _stiefel.Stiefel(metric, retraction)
    for name, value in (("b1", b1), ("b2", b2)):
        _charts.in_range(name, value, 0.0, 1.0)
    _charts.in_range("eps", eps, 0.0, float("inf"))

    def init(params: Any) -> StiefelAdamState:
        _stiefel.matrices("stiefel_adam", params)
        mean = jax.tree.map(lambda x: jnp.zeros_like(_leaves.wide(x)), params)
        square = jax.tree.map(lambda m: jnp.sum(m, axis=(-2, -1), keepdims=True), mean)
        return StiefelAdamState(jnp.zeros([], jnp.int32), mean, square)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, StiefelAdamState]:
        _leaves.needs_params("stiefel_adam", params, updates)
        _stiefel.matrices("stiefel_adam", params)
        count = jnp.asarray(optax.safe_increment(state.count))
        rate = _leaves.rate(learning_rate, state.count)

        def one(grad, matrix, mean, square):
            if grad is None:
                return grad, mean, square
            old = _leaves.wide(matrix)
            x = manifold.enter(old)
            lr, d1, d2, tiny = (jnp.asarray(value, x.dtype) for value in (rate, b1, b2, eps))
            step = count.astype(x.dtype)
            gradient = manifold.gradient(x, _stiefel.tall(jnp.asarray(grad, x.dtype)))
            mean = d1 * _stiefel.tall(mean) + (1 - d1) * gradient
            square = d2 * square + (1 - d2) * manifold.length(x, gradient) ** 2
            spread = jnp.sqrt(square / (1 - d2**step)) + tiny
            moved = jnp.where(mean == 0, mean, -lr * (mean / (1 - d1**step)) / spread)
            new, mean = manifold.move(x, moved, mean)
            out = (_stiefel.back(new, old) - old).astype(matrix.dtype)
            return out, _stiefel.back(mean, old), square

        new, mean, square = _leaves.map_leaves(one, updates, params, state.mean, state.square)
        return new, StiefelAdamState(count, mean, square)

    return optax.GradientTransformation(init, update)
