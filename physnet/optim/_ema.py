"""Centroids that follow the tokens assigned to them: a moving average with a closed form."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet.hyperbolic import poincare
from physnet.optim import _charts, _leaves, _polar


class EmaMidpointState(NamedTuple):
    """State of `ema_midpoint`: the averaged sum of each centroid, as its midpoint and length.

    Attributes:
        centroids: (k, d), in the coordinates of the tokens; (float32, or float64).
        mass: (k,), sqrt(T^2 - c|S|^2) of the averaged sums T of gamma and S of gamma k.
    """

    centroids: Float[Array, "k d"]
    mass: Float[Array, " k"]


class EmaMidpoint(NamedTuple):
    """What `ema_midpoint` returns.

    Attributes:
        init: init(centroids, *, mass=1.0) -> state; the first centroids count as that many tokens
            on the spot, a number or (k,), 0 to forget them at the first update.
        update: update(tokens, assignment, state, *, weights=None) -> state, for tokens (n, d), the
            index of each one's centroid (n,), and weights (n,) >= 0. An index outside 0 .. k-1
            counts nowhere.
    """

    init: Callable[..., EmaMidpointState]
    update: Callable[..., EmaMidpointState]


def ema_midpoint(
    decay: float | Float[Array, ""],
    *,
    curvature: ArrayLike = 1.0,
    coordinates: _charts.Coordinates = "ball",
) -> EmaMidpoint:
    r"""Moving Einstein midpoints of assigned tokens, without gradients or a learning rate.

    With gamma the Lorentz factor and k the Klein coordinates of a token, each centroid averages

        T <- decay T + (1 - decay) sum_i gamma_i,   S <- decay S + (1 - decay) sum_i gamma_i k_i

    over the tokens i assigned to it, and is the point of Klein coordinates S / T: the midpoint of
    all tokens so far with their weights decayed, and with decay = 0 that of the last ones. A
    centroid without tokens stays, to the bit, and its mass decays.

    T - sqrt(c)|S| and not T carries the radius far out. It is formed as a sum of positive terms
    around the new direction: with "tangent" coordinates float32 keeps radii sqrt(c) d(0, x) to
    1e-6 up to 7, to 2e-5 at 10, 2e-4 at 12, and angles to 2e-7. Sums overflow beyond 80.
    A NaN token makes its centroid NaN, and no other.

    Args:
        decay: In [0, 1), of one update.
        curvature: c > 0.
        coordinates: What tokens and centroids are: points of the "ball" or "tangent" (v with
            x = exp_0(v)).

    Returns:
        The functions init(centroids) -> state and update(tokens, assignment, state) -> state.

    Raises:
        ValueError: An option out of range where it is known; shapes that do not fit.
        TypeError: Tokens or centroids that are not real floating, an assignment of no integers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> average = ema_midpoint(0.9, coordinates="tangent")
        >>> state = average.init(jnp.array([[1.0, 0.0], [0.0, 1.0]]))
        >>> tokens = jnp.array([[3.0, 0.1], [3.0, -0.1], [1.0, 0.0]])
        >>> for _ in range(20):
        ...     state = jax.jit(average.update)(tokens, jnp.array([0, 0, 0]), state)
        >>> [f"{x:.2f}" for x in state.centroids.reshape(-1)]     # far tokens weigh more
        ['1.92', '0.00', '0.00', '1.00']

    References:
        Ungar, "Analytic hyperbolic geometry", World Scientific 2005 (gyromidpoint).
        van den Oord, Vinyals and Kavukcuoglu, "Neural discrete representation learning", NeurIPS
        2017, appendix A.1, for the average in flat space.
    """
    _checks.one_of("coordinates", coordinates, ("ball", "tangent"))
    _charts.in_range("decay", decay, 0.0, 1.0)
    curvature = _charts.one_curvature(curvature)

    def init(centroids: Float[Array, "k d"], *, mass: ArrayLike = 1.0) -> EmaMidpointState:
        centroids = _matrix("centroids", centroids)
        if not len(centroids):
            raise ValueError(f"centroids must be (k >= 1, d), got shape {centroids.shape}")
        _charts.in_range("mass", mass, 0.0, float("inf"))
        mass = jnp.broadcast_to(jnp.asarray(mass, centroids.dtype), centroids.shape[:1])
        return EmaMidpointState(centroids, mass)

    def update(
        tokens: Float[Array, "n d"],
        assignment: Int[Array, " n"],
        state: EmaMidpointState,
        *,
        weights: Float[Array, " n"] | None = None,
    ) -> EmaMidpointState:
        tokens = _matrix("tokens", tokens)
        old, mass = state
        tokens = tokens.astype(old.dtype)
        assignment = _checks.integer("assignment", assignment)
        if tokens.shape[-1] != old.shape[-1] or assignment.shape != tokens.shape[:1]:
            raise ValueError(
                f"tokens (n, {old.shape[-1]}) and assignment (n,) do not fit: got "
                f"{tokens.shape} and {assignment.shape}"
            )
        c, keep = (jnp.asarray(value, old.dtype) for value in (curvature, decay))
        if weights is None:
            weights = jnp.ones_like(tokens[:, 0])
        here, there = old, tokens
        if coordinates == "ball":
            here, there = (poincare.logmap0(x, curvature=c) for x in (here, there))

        share = (1 - keep) * jnp.asarray(weights, old.dtype)
        new, mass = _midpoints(here, keep * mass, there, share, assignment, jnp.sqrt(c))
        if coordinates == "ball":
            new = poincare.expmap0(new, curvature=c)
        # Rounding would move a far centroid without tokens a little at each update.
        still = jax.ops.segment_sum(share, assignment, len(mass)) == 0
        mass = jnp.where(still, keep * state.mass, mass)
        return EmaMidpointState(jnp.where((still | (mass == 0))[:, None], old, new), mass)

    return EmaMidpoint(init, update)


def _midpoints(
    old: Float[Array, "k d"],
    mass: Float[Array, " k"],
    tokens: Float[Array, "n d"],
    share: Float[Array, " n"],
    assignment: Int[Array, " n"],
    root: Float[Array, ""],
) -> tuple[Float[Array, "k d"], Float[Array, " k"]]:
    """Midpoint and length of mass * centroid + sum share * token, all in tangent coordinates."""

    def total(own, assigned):
        given = jax.ops.segment_sum(share[:, None] * assigned, assignment, len(mass))
        return mass[:, None] * own + given

    def parts(v):
        length = _polar.norm(v)
        r = 2 * root * length
        return _polar.unit(v, length), jnp.sinh(r), jnp.exp(-r)

    (n0, sinh0, inverse0), (n, sinh, inverse) = parts(old), parts(tokens)
    space = total(sinh0 * n0, sinh * n)
    size = _polar.norm(space)
    m = _polar.unit(space, size)

    def less(n, sinh, inverse, m):  # cosh r - sinh r cos(angle)
        bend = _polar.dot(n - m, n - m) / 2
        return inverse + sinh * jnp.where(_polar.dot(m, m) == 0, jnp.ones_like(bend), bend)

    gap = total(less(n0, sinh0, inverse0, m), less(n, sinh, inverse, m[assignment]))
    r = jnp.log1p(2 * size / jnp.where(gap == 0, jnp.ones_like(gap), gap)) / 2
    return r / (2 * root) * m, jnp.sqrt(gap * (gap + 2 * size))[:, 0]


def _matrix(name: str, value: ArrayLike) -> jax.Array:
    array = _leaves.wide(_checks.real(name, value))
    if array.ndim != 2:
        raise ValueError(f"{name} must have shape (number, d), got {array.shape}")
    return array
