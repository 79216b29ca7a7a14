"""Gradient descent on a hyperbolic space, with momentum."""

from typing import Any, NamedTuple

import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet.optim import _charts, _descent


class RiemannianSGDState(NamedTuple):
    """State of `riemannian_sgd`.

    Attributes:
        count: Steps taken.
        trace: Momentum, a tangent vector at the current point, in trees shaped like the parameters
            (float32, or float64; for "tangent" in an orthonormal frame); None without momentum.
    """

    count: Int[Array, ""]
    trace: Any


def riemannian_sgd(
    learning_rate: float | Float[Array, ""] | optax.Schedule,
    *,
    curvature: ArrayLike = 1.0,
    coordinates: _charts.Coordinates = "ball",
    momentum: ArrayLike | None = None,
    nesterov: bool = False,
    retraction: _charts.Retraction = "exponential",
    project_eps: ArrayLike | None = None,
) -> optax.GradientTransformation:
    r"""Gradient descent for points of a hyperbolic space of curvature -c, for optax.

        a <- mu a + g,     x' = exp_x(-lr a),     a <- P_{x -> x'} a

    with g the Riemannian gradient and P the parallel transport along the step; with `nesterov` the
    step is -lr (g + mu a). Coordinates, projection, rounding, NaN and where it stands in a chain:
    as for `riemannian_adam`. A step's length is lr |g|_x, and |g|_x does not grow near the
    boundary, as the length of the plain derivative does.

    Args:
        learning_rate: A number or a schedule of the step's number.
        curvature: c > 0.
        coordinates: What the parameters are: "ball" or "tangent" (v with x = exp_0(v)).
        momentum: mu in [0, 1); None keeps no state.
        nesterov: Look ahead; needs momentum.
        retraction: "exponential" or, for "ball", "first_order".
        project_eps: Points keep to sqrt(c)|x| <= 1 - project_eps (only "ball").

    Returns:
        An `optax.GradientTransformation` whose update needs `params`. Its float64 steps are those
        of geoopt's RiemannianSGD, except that the momentum begins at 0 (there at the Euclidean
        gradient).

    Raises:
        ValueError: An option out of range where it is known; from update, no params.
        TypeError: From init and update, leaves that are not real floating.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from physnet.hyperbolic import poincare
        >>> far = jnp.array([0.0, 0.99])
        >>> optimiser = riemannian_sgd(0.25)
        >>> x = jnp.array([0.9, 0.0])
        >>> state = optimiser.init(x)
        >>> slope = jax.jit(jax.grad(lambda x: poincare.distance(x, far) ** 2))
        >>> for _ in range(3):                        # each step goes half of the way
        ...     updates, state = jax.jit(optimiser.update)(slope(x), state, x)
        ...     x = optax.apply_updates(x, updates)
        ...     print(f"{poincare.distance(x, far):.3f}")
        3.774
        1.887
        0.943

    References:
        Bonnabel, "Stochastic gradient descent on Riemannian manifolds", IEEE Trans. Autom.
        Control 58 (2013), 2217.
    """
    chart = _charts.chart(coordinates, curvature, retraction, project_eps)
    return _descent.descent(
        "riemannian_sgd",
        chart,
        RiemannianSGDState,
        check=_charts.points,
        learning_rate=learning_rate,
        momentum=momentum,
        nesterov=nesterov,
    )
