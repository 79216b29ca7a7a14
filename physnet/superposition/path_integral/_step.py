"""One step of a cloud of particles: W <- sum_k P_k W_k."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import _checks
from physnet.superposition.path_integral import (
    _covariance,
    _particles,
    _rates,
    _temperature,
    _trees,
)
from physnet.superposition.path_integral._state import (
    FLAT,
    NO_FINITE_LOSS,
    OVERFLOW,
    RUNNING,
    STALLED,
    Info,
    State,
)

_SIGMA = 1e-30, 1e30


def spread(state: State) -> Callable[[Any], Any]:
    """sigma C^(1/2) as a function of standard noise."""

    def scale(noise):
        step = _covariance.scale(state.config, state.shape, noise)
        return jax.tree.map(lambda x: state.sigma.astype(x.dtype) * x, step)

    return scale


def _checked(key: Any, state: Any) -> Array:
    """The key of a step from a state, or an error that says which of both is none."""
    _checks.instance("state", state, State)
    return _checks.key("key", key)


def centre(key: Array, state: State) -> Any:
    """Where noise is added, so that the mean of the particles is W to rounding."""
    config = state.config
    if config.antithetic:
        return state.params
    even = jnp.full((config.particles,), 1 / config.particles, state.sigma.dtype)
    noise = _particles.moments(key, state.params, even, config).mean
    return _moved(state.params, spread(state)(noise), -1)


def _moved(params: Any, step: Any, sign: int) -> Any:
    return jax.tree.map(lambda w, e: (w.astype(e.dtype) + sign * e).astype(w.dtype), params, step)


def step(key: Array, state: State, loss_fn: Callable[..., Any], *args: Any) -> tuple[State, Info]:
    """One step of K particles: W <- sum_k P_k W_k, with P_k = softmax(-lambda L_k).

    Particles are W_k = W + sigma C^(1/2) (z_k - mean of all z), z_k standard normal: their mean is
    W itself, so that equal losses move nothing. For many particles and a fixed lambda the step is
    Sigma grad log E exp(-lambda L(W + e)), e ~ N(0, Sigma), Sigma = sigma^2 C: down the slope of
    the smoothed free energy -log E exp(-lambda L). lambda holds the effective sample size
    1 / sum P_k^2 unless the state has a fixed one.

    sigma follows the length of the discounted sum of steps (cumulative step-size adaptation), in
    units of what losses unrelated to the noise would give for the weights that came out; C follows
    that sum and sum_k (P_k - 1/K) z_k z_k^T, whose negative weights shorten bad directions.

    A loss of NaN or +-inf has weight zero. The noise is made again from the key wherever it is
    needed: memory does not grow with K beyond `chunk` particles. Composes with `jit`, `scan`, and
    `vmap` over states and keys; no gradients are taken of it.

    Args:
        key: of this step; the same key gives the same step.
        state: from `init` or the last step.
        loss_fn: (params, *args) -> scalar; need not be differentiable or continuous.
        *args: for loss_fn, such as a batch; the same for all particles.

    Returns:
        The next state, and an `Info` of losses and weights. Its `status` says when nothing could be
        learned; parameters that are finite stay so.

    Raises:
        TypeError: a loss that is no real floating-point scalar.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.superposition import path_integral
        >>> state = path_integral.init(jnp.ones(4), particles=64, sigma=0.1)
        >>> key = jax.random.key(0)
        >>> state, info = path_integral.step(key, state, lambda w: jnp.sum(jnp.abs(w)))
        >>> bool(jnp.sum(jnp.abs(state.params)) < 4), int(state.status)
        (True, 0)

    References:
        Theodorou, Buchli, Schaal, JMLR 11 (2010). Hansen, "The CMA evolution strategy: a tutorial"
        (2016), for the rates.
    """
    key = _checked(key, state)
    noise = spread(state)
    losses = _particles.losses(key, centre(key, state), noise, state.config, loss_fn, args)
    return tell(key, state, losses)


def ask(key: Array, state: State) -> Any:
    """The particles that `step` evaluates for this key, all at once.

    Args:
        key: of this step.
        state: from `init` or the last step.

    Returns:
        A tree like `state.params`, every leaf with a leading axis of K.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.superposition import path_integral
        >>> state = path_integral.init({"w": jnp.ones((2, 3))}, particles=8, sigma=0.1)
        >>> particles = path_integral.ask(jax.random.key(0), state)
        >>> print(particles["w"].shape, particles["w"].mean(0).round(4)[0])
        (8, 2, 3) [1. 1. 1.]
    """
    key = _checked(key, state)
    return _particles.particles(key, centre(key, state), spread(state), state.config)


def tell(key: Array, state: State, losses: Float[Array, " k"]) -> tuple[State, Info]:
    """`step` for losses that were evaluated elsewhere: those of the particles of `ask`.

    Args:
        key: with which `ask` was called.
        state: with which `ask` was called.
        losses: (K,) of the particles, in their order; NaN or +-inf has weight zero.

    Returns:
        The next state and an `Info`, those of `step`.

    Raises:
        TypeError, ValueError: losses that are not K real floating-point numbers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.superposition import path_integral
        >>> state = path_integral.init(jnp.ones(4), particles=8, sigma=0.1)
        >>> key = jax.random.key(0)
        >>> particles = path_integral.ask(key, state)
        >>> state, info = path_integral.tell(key, state, jnp.sum(particles**2, axis=1))
        >>> print(bool(jnp.allclose(state.params, info.weights @ particles, atol=1e-6)))
        True
    """
    key, config = _checked(key, state), state.config
    losses = _checks.real("losses", losses)
    if losses.shape != (config.particles,):
        raise ValueError(
            f"losses must be those of the {config.particles} particles, got shape {losses.shape}"
        )
    found = _temperature.weights(losses, effective=config.effective, temperature=state.temperature)
    filled = jnp.where(found.usable, losses, jnp.inf)
    best = jnp.argmin(filled)
    none = ~jnp.any(found.usable)
    flat = jnp.all(losses == filled[best])
    new = _updated(key, state, found.probability.astype(state.sigma.dtype))
    lost = ~_finite(new)
    still = none | flat | lost
    new = jax.tree.map(lambda old, x: jnp.where(still, old, x), state, new)
    status = jnp.where(lost, OVERFLOW, new.status)
    status = jnp.where(none, NO_FINITE_LOSS, jnp.where(flat, FLAT, status))
    info = Info(
        losses=losses,
        weights=found.probability,
        effective=found.effective,
        temperature=found.temperature,
        best_loss=filled[best],
        best=best.astype(jnp.int32),
        finite=jnp.sum(found.usable, dtype=jnp.int32),
        sigma=state.sigma,
    )
    new = dataclasses.replace(new, count=state.count + 1, status=status.astype(jnp.int32))
    return new, info


def _finite(state: State) -> Array:
    """Whether all that is learned is finite."""
    leaves = jax.tree.leaves((state.params, state.sigma, state.path, state.shape))
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(x)) for x in leaves]))


def _updated(key: Array, state: State, probability: Array) -> State:
    """The state after a step of these weights."""
    config, dimension, dtype = state.config, _trees.size(state.params), state.sigma.dtype
    excess = probability - 1 / config.particles
    second = _covariance.second(config, state.shape)
    mean, second = _particles.moments(key, state.params, excess, config, second=second)
    mass = _rates.selection_mass(probability, antithetic=config.antithetic)
    params = _moved(state.params, spread(state)(mean), 1)

    cumulation, damping = _rates.path_rates(mass, dimension)
    gain = jnp.sqrt(cumulation * (2 - cumulation) * mass)
    path = _trees.combine(1 - cumulation, state.path, gain, mean)
    length = jnp.sqrt(_trees.squared_norm(path))
    usual = math.sqrt(dimension) * (1 - 1 / (4 * dimension) + 1 / (21 * dimension**2))
    seen = _rates.Seen(
        mean=mean,
        second=second,
        mass=mass,
        steady=length < (1.4 + 2 / (dimension + 1)) * usual,
        dimension=dimension,
    )
    sigma = state.sigma
    if config.adapt_sigma:
        growth = jnp.clip(cumulation / damping * (length / usual - 1), -1, 1)
        sigma = jnp.clip(sigma * jnp.exp(growth.astype(dtype)), *_SIGMA)
    moved = jax.tree.leaves(jax.tree.map(lambda a, b: jnp.any(a != b), params, state.params))
    return State(
        params=params,
        sigma=sigma,
        temperature=state.temperature,
        path=path,
        shape=_covariance.update(config, state.shape, seen),
        count=state.count,
        status=jnp.where(jnp.any(jnp.stack(moved)), RUNNING, STALLED).astype(jnp.int32),
        config=config,
    )
