"""Adam on a hyperbolic space."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet.optim import _charts, _leaves


class RiemannianAdamState(NamedTuple):
    """State of `riemannian_adam`: trees shaped like the parameters.

    Attributes:
        count: Steps taken.
        mean: First moment, a tangent vector at the current point (float32, or float64): for
            "tangent" in an orthonormal frame, along the point and across it.
        square: Second moment of the gradient's Riemannian length, (..., 1): one a point.
        largest: The largest second moment so far with `amsgrad`, else None.
    """

    count: Int[Array, ""]
    mean: Any
    square: Any
    largest: Any


def riemannian_adam(
    learning_rate: float | Float[Array, ""] | optax.Schedule,
    *,
    curvature: ArrayLike = 1.0,
    coordinates: _charts.Coordinates = "ball",
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.999,
    eps: ArrayLike = 1e-8,
    amsgrad: bool = False,
    retraction: _charts.Retraction = "exponential",
    project_eps: ArrayLike | None = None,
) -> optax.GradientTransformation:
    r"""Adam for points of a hyperbolic space of curvature -c, as an optax transformation.

    With g the Riemannian gradient at x, P the parallel transport along the step, and one second
    moment for each point, so that steps do not depend on the choice of axes:

        m <- b1 m + (1 - b1) g,     s <- b2 s + (1 - b2) |g|_x^2
        x' = exp_x( -lr (m / (1 - b1^t)) / (sqrt(s / (1 - b2^t)) + eps) ),     m <- P_{x -> x'} m

    The last axis of every leaf holds coordinates, all others count points. The gradients that come
    in are plain derivatives by the coordinates; the updates that go out are x' - x, for
    `optax.apply_updates`. So clipping or weight decay goes before it in a chain and nothing after
    it; `optax.partition` gives other leaves to other optimisers.

    "ball" takes points of the Poincare ball c|x|^2 < 1; a point outside the bound is projected
    first. There x + (x' - x), rounded in float32, moves 1 - c|x|^2 by up to 0.7% at norm 1 - 1e-5,
    and the bound keeps points within a distance of 15 / sqrt(c). "tangent" takes v with
    x = exp_0(v), |v| half of the distance from the origin, and steps by the same geodesics in
    polar coordinates: no boundary, no projection. (Angles are rounded in both: in float32 a point
    at 2 sqrt(c)|v| = r moves across its direction by no less than about 6e-8 sinh(r).)

    A NaN gradient makes its own point NaN, and its state; no other point. A point whose gradient
    and moment are 0 keeps its bits.

    `fisher_adam` is Adam in the metric of the Fisher information, for parameters of any shape.

    Args:
        learning_rate: A distance for each step, or a schedule of the step's number.
        curvature: c > 0.
        coordinates: What the parameters are.
        b1: Decay of the first moment, in [0, 1).
        b2: Decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment.
        amsgrad: Divide by the largest second moment so far.
        retraction: "exponential" follows geodesics; "first_order" takes x + step, projected (only
            "ball").
        project_eps: Points keep to sqrt(c)|x| <= 1 - project_eps (only "ball"); None is the bound
            of `hyperbolic.poincare.project`.

    Returns:
        An `optax.GradientTransformation` whose update needs `params`. With eps = 1e-8 and
        project_eps = 1e-5 its float64 steps are those of geoopt's RiemannianAdam on
        PoincareBallExact; with "first_order" on PoincareBall.

    Raises:
        ValueError: An option out of range where it is known; from update, no params.
        TypeError: From init and update, leaves that are not real floating.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> from physnet.hyperbolic import polar
        >>> far = jnp.array([3.0, 4.0])               # tangent coordinates: at distance 10
        >>> slope = jax.grad(lambda v: polar.distance(v, far) ** 2)
        >>> optimiser = riemannian_adam(0.2, coordinates="tangent", b2=0.9)
        >>> def step(_, carry):
        ...     v, state = carry
        ...     updates, state = optimiser.update(slope(v), state, v)
        ...     return optax.apply_updates(v, updates), state
        >>> v = jnp.array([0.0, 0.1])
        >>> v, _ = jax.lax.fori_loop(0, 300, step, (v, optimiser.init(v)))
        >>> [f"{x:.2f}" for x in v]
        ['3.00', '4.00']

    References:
        Becigneul and Ganea, "Riemannian adaptive optimization methods", arXiv 1810.00760.
        Kochurov, Karimov and Kozlukov, "Geoopt: Riemannian optimization in PyTorch",
        arXiv 2005.02819.
    """
    _charts.one_number(learning_rate=learning_rate)
    chart = _charts.chart(coordinates, curvature, retraction, project_eps)
    for name, value in (("b1", b1), ("b2", b2)):
        _charts.in_range(name, value, 0.0, 1.0)
    _charts.in_range("eps", eps, 0.0, float("inf"))

    def init(params: Any) -> RiemannianAdamState:
        _charts.points("riemannian_adam", params)
        mean = jax.tree.map(lambda x: jnp.zeros_like(_leaves.wide(x)), params)
        square = jax.tree.map(lambda m: jnp.sum(m, axis=-1, keepdims=True), mean)
        largest = jax.tree.map(jnp.zeros_like, square) if amsgrad else None
        return RiemannianAdamState(jnp.zeros([], jnp.int32), mean, square, largest)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, RiemannianAdamState]:
        _leaves.needs_params("riemannian_adam", params, updates)
        _charts.points("riemannian_adam", params)
        count = jnp.asarray(optax.safe_increment(state.count))
        rate = _leaves.rate(learning_rate, state.count)

        def one(grad, point, mean, square, *largest):
            if grad is None:
                return grad, mean, square, *largest
            old = _leaves.wide(point)
            x = chart.enter(old)
            lr, d1, d2, tiny = (jnp.asarray(value, x.dtype) for value in (rate, b1, b2, eps))
            step = count.astype(x.dtype)
            gradient = chart.gradient(x, jnp.asarray(grad, x.dtype))
            mean = d1 * mean + (1 - d1) * gradient
            square = d2 * square + (1 - d2) * chart.length(x, gradient) ** 2
            largest = [jnp.maximum(other, square) for other in largest]
            spread = jnp.sqrt((largest[0] if amsgrad else square) / (1 - d2**step)) + tiny
            moved = jnp.where(mean == 0, mean, -lr * (mean / (1 - d1**step)) / spread)
            new, mean = chart.move(x, moved, mean)
            return (new - old).astype(point.dtype), mean, square, *largest

        moments = [state.mean, state.square] + ([state.largest] if amsgrad else [])
        new, mean, square, *largest = _leaves.map_leaves(one, updates, params, *moments)
        return new, RiemannianAdamState(count, mean, square, largest[0] if amsgrad else None)

    return optax.GradientTransformation(init, update)
