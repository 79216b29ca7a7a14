"""The weight expectation of an ensemble, and what tells whether it means anything."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float

from physnet import _checks
from physnet.superposition.distill import _mixture


class Collapse(NamedTuple):
    """A collapsed ensemble; the losses and what follows from them are None without a `loss_fn`.

    Attributes:
        params: sum_k P_k W_k.
        spread: root of sum_k P_k |W_k - params|^2 / sum_k P_k |W_k|^2, in [0, 1]: near 0 of a cloud
            around a point, about sqrt(1 - 1/K) of K networks that have nothing in common.
        effective: 1 / sum_k P_k^2, the number of particles that count.
        loss: of `params`.
        mean_loss: sum_k P_k L(W_k), what a particle drawn from the ensemble has. In a convex basin
            `loss` is not above it (Jensen).
        losses: (K,), L(W_k).
        barriers: (K,), on the line from the best particle to each: how far the loss rises above
            the line between its ends, at most; 0 of particles without weight.
        one_basin: whether neither `loss - mean_loss` nor a barrier exceeds the tolerance.
    """

    params: Any
    spread: jax.Array
    effective: jax.Array
    loss: jax.Array | None = None
    mean_loss: jax.Array | None = None
    losses: jax.Array | None = None
    barriers: jax.Array | None = None
    one_basin: Bool[Array, ""] | None = None


def boltzmann_weights(
    losses: Float[Array, " K"], *, inverse_temperature: ArrayLike = 1.0
) -> Float[Array, " K"]:
    r"""Weights of particles by their losses, P_k = exp(-lambda L_k) / sum_j exp(-lambda L_j).

    A particle whose loss is NaN or infinite has weight 0; all weights are NaN if every one has.

    Args:
        losses: (K,).
        inverse_temperature: lambda >= 0, in units of 1 / loss: 0 weighs alike, infinity takes the
            best alone (all that are equally good).

    Returns:
        (K,), float32 (float64 from float64), their sum 1.

    Raises:
        ValueError: Losses that are not (K,), an inverse temperature that is not one number or
            known to be negative or NaN.
        TypeError: Losses that are not real floating-point numbers.

    Example:
        >>> import jax.numpy as jnp
        >>> found = boltzmann_weights(jnp.array([1.0, 2.0, jnp.nan]), inverse_temperature=2.0)
        >>> [round(float(p), 3) for p in found]
        [0.881, 0.119, 0.0]
    """
    losses = _checks.real("losses", losses)
    if losses.ndim != 1 or losses.size == 0:
        raise ValueError(f"losses must have shape (K,) with K >= 1, got {losses.shape}")
    wide = jnp.float64 if losses.dtype == jnp.float64 else jnp.float32
    known = _checks.known("inverse_temperature", inverse_temperature)
    rate = jnp.asarray(inverse_temperature, wide)
    if rate.shape != () or (known is not None and not np.all(known >= 0)):
        raise ValueError(f"inverse_temperature must be one number >= 0, got {inverse_temperature}")
    finite = jnp.isfinite(losses)
    losses = jnp.where(finite, losses.astype(wide), 0.0)
    above = losses - lax.stop_gradient(jnp.min(jnp.where(finite, losses, jnp.inf)))
    best = (above == 0) & (rate == jnp.inf)  # 0 * inf
    action = jnp.where(best, 0.0, rate * jnp.where(best, 1.0, above))
    weights = jnp.where(finite, jnp.exp(-action), 0.0)
    return weights / jnp.sum(weights)


def collapse(
    particles: Any,
    weights: Float[Array, " K"] | None = None,
    *,
    loss_fn: Callable[[Any], Any] | None = None,
    points: int = 3,
    tolerance: ArrayLike = 0.02,
    chunk: int | None = 1,
) -> Collapse:
    r"""The expectation sum_k P_k W_k of an ensemble's parameters, with signs of its worth.

    A mean of parameters stands for the ensemble where all particles lie in one basin of the loss: a
    cloud around one point (particles of `path_integral.ask`, whose step makes just this mean),
    checkpoints of one run. It is meaningless for networks trained from different starts, even when
    each one is good: permuted hidden units have no mean. On digits the mean of 8 networks of one
    hidden layer has accuracy 0.60 and 1.35 nats, where one of them has 0.94 and 0.23: then mix what
    they say (`mixture_log_probs`), and distil it.

    Without a loss only `spread` warns. With one, `one_basin` says it: the loss of the mean is no
    higher than the particles' mean loss, and the loss does not rise on the lines between the best
    particle and the others, both up to `tolerance`. Measure it on examples that were not trained
    on. It takes K (points + 1) + 1 evaluations.

    Args:
        particles: a pytree of floating-point arrays stacked on axis 0 (K).
        weights: P_k >= 0, (K,), up to normalisation (`boltzmann_weights` makes them of losses);
            None weighs all alike. Particles of weight 0 take no part, NaN or not.
        loss_fn: loss_fn(params) -> number, of one particle.
        points: inside each line.
        tolerance: in units of the loss (nats).
        chunk: particles whose losses are found at once; None takes all.

    Returns:
        A `Collapse`; its `params` are in the dtypes of the particles.

    Raises:
        ValueError: Particles without a common first axis, weights of another shape or known to be
            negative or without a positive, finite sum, points or chunk < 1, a loss that is not
            one number.
        TypeError: Leaves that are not real floating-point arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> double_well = lambda x: (x**2 - 1) ** 2
        >>> near = collapse(jnp.array([0.9, 1.1]), loss_fn=double_well)
        >>> print(f"{near.params:.2f} {near.loss:.3f} {near.mean_loss:.3f}", near.one_basin)
        1.00 0.000 0.040 True
        >>> far = collapse(jnp.array([-1.0, 1.0]), loss_fn=double_well)
        >>> print(f"{far.params:.2f} {far.loss:.3f} {far.mean_loss:.3f}", far.one_basin)
        0.00 1.000 0.000 False

    References:
        Frankle, Dziugaite, Roy and Carbin, "Linear mode connectivity and the lottery ticket
        hypothesis", ICML 2020, for the barrier.
        Wortsman et al., "Model soups", ICML 2022, for means that work.
    """
    count = _checks.stacked("particles", particles, "that of particles")
    points = _checks.positive_int("points", points)
    size = count if chunk is None else min(_checks.positive_int("chunk", chunk), count)
    for leaf in jax.tree.leaves(particles):
        _checks.real("particles", leaf)
    weights = jnp.ones((count,), jnp.float32) if weights is None else weights
    weights = _checks.array("weights", weights)
    if weights.shape != (count,):
        raise ValueError(f"weights must have shape ({count},), got {weights.shape}")
    dtypes = {leaf.dtype for leaf in jax.tree.leaves(particles)}
    shares = _mixture.shares(
        weights, (count,), jnp.float64 if jnp.float64 in dtypes else jnp.float32
    )
    taken = shares > 0

    def clean(leaf):  # NaN of a particle without weight would survive a product with 0
        wide = leaf.astype(shares.dtype)
        return jnp.where(_along(taken, leaf), wide, jnp.zeros_like(wide))

    wide = jax.tree.map(clean, particles)
    mean = jax.tree.map(lambda x: jnp.sum(_along(shares, x) * x, 0), wide)
    params = jax.tree.map(lambda x, leaf: x.astype(leaf.dtype), mean, particles)
    apart = jax.tree.map(lambda x, m: x - m[None], wide, mean)
    inside, whole = (_square(tree, shares) for tree in (apart, wide))
    spread = jnp.sqrt(inside / jnp.where(whole > 0, whole, 1.0))
    effective = 1 / jnp.sum(shares**2)
    if loss_fn is None:
        return Collapse(params, spread, effective)

    def value(params):
        loss = jnp.asarray(_checks.function("loss_fn", loss_fn)(params), shares.dtype)
        if loss.shape != ():
            raise ValueError(f"loss_fn must return one number, got shape {loss.shape}")
        return loss

    def evaluated(tree):
        return lax.map(value, tree, batch_size=size)

    losses = evaluated(particles)
    loss = value(params)
    mean_loss = jnp.sum(jnp.where(taken, shares * losses, 0.0))
    best = jnp.argmin(jnp.where(taken & ~jnp.isnan(losses), losses, jnp.inf))

    def at(t):
        return jax.tree.map(
            lambda x, leaf: ((1 - t) * x[best][None] + t * x).astype(leaf.dtype), wide, particles
        )

    def rise(t):  # along all lines at once
        return evaluated(at(t)) - ((1 - t) * losses[best] + t * losses)

    times = jnp.arange(1, points + 1, dtype=shares.dtype) / (points + 1)
    highest = jnp.max(jnp.maximum(lax.map(rise, times), 0.0), 0)
    barriers = jnp.where(taken, jnp.where(jnp.isnan(highest), jnp.inf, highest), 0.0)
    limit = _checks.array("tolerance", tolerance, shares.dtype)
    if limit.ndim:
        raise ValueError(f"tolerance must be one number, got shape {limit.shape}")
    one_basin = (loss - mean_loss <= limit) & (jnp.max(barriers) <= limit)
    return Collapse(params, spread, effective, loss, mean_loss, losses, barriers, one_basin)


def _along(weights: jax.Array, leaf: jax.Array) -> jax.Array:
    """Weights (K,) with as many axes as a leaf (K, ...)."""
    return weights.reshape(-1, *(1,) * (leaf.ndim - 1))


def _square(tree: Any, shares: jax.Array) -> jax.Array:
    """sum_k P_k |x_k|^2."""
    each = (jnp.sum(_along(shares, x) * x**2) for x in jax.tree.leaves(tree))
    return sum(each, start=jnp.zeros((), shares.dtype))
