"""The path-integral step as the gradient of a smoothed loss."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, PyTree

from physnet import _checks
from physnet.superposition.path_integral import _config, _noise, _particles, _temperature, _trees


def gradient(
    key: Array,
    params: PyTree[Float[Array, "..."]],
    loss_fn: Callable[..., Any],
    *args: Any,
    particles: int,
    sigma: ArrayLike,
    temperature: ArrayLike | None = None,
    effective: float = 0.5,
    antithetic: bool = True,
    rank: int | None = None,
    chunk: int | None = None,
    axis_name: str | None = None,
    materialise: bool = True,
    units: Literal["loss", "step"] = "loss",
) -> PyTree[Float[Array, "..."]]:
    r"""Gradient of the free energy of a cloud of particles, from their losses alone.

    The step of the path integral, W_new - W = sigma sum_k P_k z_k, is a gradient: with noise of
    covariance sigma^2, as K grows,

        F(W) = -(1 / lambda) log E e^{-lambda L(W + sigma z)}
        W_new - W = -lambda sigma^2 grad F(W)

    so that what is returned, -(1 / (lambda sigma)) sum_k (P_k - 1/K) z_k, is an estimate of
    grad F: of the loss smoothed over sigma, as of a loss without derivatives, with noise or with
    steps. 1/K takes out the mean of the noise (0 for antithetic pairs) and no more. As lambda -> 0
    it becomes the score-function estimate (evolution strategies),

        (1 / (K sigma)) sum_k (L_k - mean L) z_k  ->  grad E L(W + sigma z)

    On a quadratic L = x^T A x / 2, grad F = A (1 + lambda sigma^2 A)^{-1} x; on a linear loss it is
    the gradient whatever lambda is. The error falls as sqrt(D / K) |grad L|, and that of P_k
    (a ratio of sums) by 1 / K besides: backpropagation tells D numbers at the cost of two or three
    losses, this one at that of K. What it offers is a gradient where there is none.

    Args:
        key: of the noise.
        params: W, a tree of floating-point arrays.
        loss_fn: (params, *args) -> one number.
        *args: what else the loss function takes.
        particles: K, even with antithetic pairs.
        sigma: standard deviation of the noise, in units of the parameters, > 0.
        temperature: lambda >= 0, in inverse units of the loss; 0 is the score-function estimate;
            None holds the effective sample size.
        effective: that size, as a share of K.
        antithetic: particles in pairs, W + e and W - e: what is even in e of the loss, its constant
            and its curvature, adds no noise as lambda -> 0, but K / 2 directions are seen instead
            of K. False tells more where the loss is nearly linear over sigma.
        rank: of the noise of leaves of two or more axes, A B^T / sqrt(rank); None is full.
        chunk: particles evaluated at once; None goes by their size.
        axis_name: axis of a mesh over which the particles are spread, within `shard_map`.
        materialise: False hands the loss function `Perturbed` weights where `rank` is given.
        units: "loss", grad F; "step", -(W_new - W), so that `optax.sgd(1.0)` makes the step.

    Returns:
        A tree like params. Particles whose loss is NaN or infinite have no part in it (nor has an
        antithetic partner); zeros where less than two are left or all losses are equal.

    Raises:
        TypeError: Parameters that are not real floating-point arrays, sizes that are no ints.
        ValueError: An empty tree; sizes or numbers out of range; materialise=False without a rank.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> loss = lambda w: jnp.sum(jnp.round(w * 8) ** 2) / 128      # derivative 0 everywhere
        >>> found = gradient(jax.random.key(0), jnp.array([1.0, -2.0]), loss,
        ...                  particles=20_000, sigma=0.3, temperature=0.0)
        >>> print(found.round(1))
        [ 1. -2.]

    References:
        Theodorou, Buchli and Schaal, "A generalized path integral control approach to
        reinforcement learning", JMLR 11 (2010), 3137.
        Salimans et al., "Evolution strategies as a scalable alternative to reinforcement
        learning", arXiv:1703.03864 (2017).
    """
    params, key = _trees.checked(params), _checks.key("key", key)
    _checks.one_of("units", units, ("loss", "step"))
    config = _config.Config(
        particles=particles, effective=effective, antithetic=antithetic, covariance="none",
        directions=1, rank=rank, adapt_sigma=False, chunk=chunk, axis_name=axis_name,
        materialise=materialise,
    )  # fmt: skip
    config = _config.checked(config)
    kinds = [_noise.dtype(leaf) for leaf in jax.tree.leaves(params)]
    width = _checks.one_positive("sigma", sigma, max(kinds))

    def scale(noise):
        return jax.tree.map(lambda z: width.astype(z.dtype) * z, noise)

    losses = _particles.losses(key, params, scale, config, loss_fn, args)
    usable = jnp.isfinite(losses)
    if antithetic:
        usable = jnp.repeat(jnp.all(usable.reshape(-1, 2), axis=1), 2)
    known = jnp.where(usable, losses, jnp.inf)
    inverse = _temperature.weights(known, effective=effective, temperature=temperature).temperature
    weights, unit = _excess(losses, usable, inverse.astype(losses.dtype), units)
    mean = _particles.moments(key, params, weights, config).mean

    def one(leaf, z):
        factor = width.astype(z.dtype)
        return (-(z * factor if units == "step" else z / factor) * unit.astype(z.dtype)).astype(
            leaf.dtype
        )

    return jax.tree.map(one, params, mean)


def _excess(losses: Array, usable: Array, inverse: Array, units: str) -> tuple[Array, Array]:
    """(P_k - 1/K) over lambda or as it is, and the spread of losses that is not yet in it.

    P_k - 1/K = (e_k - mean e) / (K (1 + mean e)) with e_k = exp(-lambda (L_k - min L)) - 1, which
    keeps its digits as lambda -> 0.
    """
    largest = jnp.finfo(losses.dtype).max
    count = jnp.maximum(jnp.sum(usable), 1).astype(losses.dtype)
    lowest = jnp.min(jnp.where(usable, losses, largest))
    # In units of their widest gap, whose square may overflow.
    gaps = jnp.where(usable, jnp.minimum(losses / 2 - lowest / 2, largest / 4), 0)
    widest = jnp.maximum(jnp.max(gaps), jnp.finfo(losses.dtype).tiny)
    gaps = gaps / widest
    cold = jnp.minimum(inverse, largest / (4 * widest)) * (2 * widest)
    warm = cold > 0
    heights = jnp.where(warm, jnp.expm1(-cold * gaps) / jnp.where(warm, cold, 1), -gaps)
    heights = jnp.where(usable, heights, 0)
    mean = jnp.sum(heights) / count
    weights = jnp.where(usable, (heights - mean) / (count * (1 + cold * mean)), 0)
    if units == "step":
        return weights, cold
    return weights, 2 * widest
