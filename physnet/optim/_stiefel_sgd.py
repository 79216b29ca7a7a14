"""Gradient descent over matrices with orthonormal columns, with momentum."""

from typing import Any, NamedTuple

import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet.optim import _descent, _stiefel


class StiefelSGDState(NamedTuple):
    """State of `stiefel_sgd`.

    Attributes:
        count: Steps taken.
        trace: Momentum, tangent at the current matrices, in trees shaped like the parameters
            (float32, or float64); None without momentum.
    """

    count: Int[Array, ""]
    trace: Any


def stiefel_sgd(
    learning_rate: float | Float[Array, ""] | optax.Schedule,
    *,
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    metric: _stiefel.Metric = "euclidean",
    retraction: _stiefel.Retraction = "polar",
) -> optax.GradientTransformation:
    r"""Gradient descent for matrices with orthonormal columns, for optax.

        a <- mu a + g,     X' = R(X - lr a),     a <- a - X' sym(X'^T a)

    with g the Riemannian gradient and R the way back to X^T X = 1; the momentum is carried along by
    projection. With `nesterov` the step is -lr (g + mu a). Leaves, rounding, NaN and the place in a
    chain: as for `stiefel_adam`.

    Args:
        learning_rate: A number or a schedule of the step's number.
        momentum: mu in [0, 1); None keeps no state.
        nesterov: Look ahead; needs momentum.
        metric: g is G - X sym(X^T G) ("euclidean") or G - X G^T X ("canonical"), of the plain
            derivative G.
        retraction: R: "polar", the nearest point, or "qr".

    Returns:
        An `optax.GradientTransformation` whose update needs `params`.

    Raises:
        ValueError: An option out of range where it is known; from init and update, a leaf without
            two axes; from update, no params.
        TypeError: From init and update, leaves that are not real floating.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> optimiser = stiefel_sgd(0.3, momentum=0.5)
        >>> c = jnp.diag(jnp.array([3.0, 2.0, 1.0]))          # the two largest: 3 + 2
        >>> slope = jax.grad(lambda x: -jnp.trace(x.T @ c @ x))
        >>> x = jnp.linalg.qr(jnp.array([[1.0, 0.0], [1.0, 1.0], [1.0, -1.0]]))[0]
        >>> def step(_, carry):
        ...     x, state = carry
        ...     updates, state = optimiser.update(slope(x), state, x)
        ...     return optax.apply_updates(x, updates), state
        >>> x, _ = jax.lax.fori_loop(0, 100, step, (x, optimiser.init(x)))
        >>> print(f"{jnp.trace(x.T @ c @ x):.4f}")
        5.0000

    References:
        Absil, Mahony and Sepulchre, "Optimization algorithms on matrix manifolds", Princeton 2008,
        sections 3.6 and 4.1.
        Edelman, Arias and Smith, "The geometry of algorithms with orthogonality constraints",
        SIAM J. Matrix Anal. Appl. 20 (1998), 303 (the canonical metric).
    """
    manifold = _stiefel.Stiefel(metric, retraction)
    return _descent.descent(
        "stiefel_sgd",
        manifold,
        StiefelSGDState,
        check=_stiefel.matrices,
        learning_rate=learning_rate,
        momentum=momentum,
        nesterov=nesterov,
        inward=_stiefel.tall,
        outward=_stiefel.back,
    )
