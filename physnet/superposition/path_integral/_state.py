"""A cloud of particles: its mean, its width, its shape."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from physnet import _checks
from physnet.superposition.path_integral import _config, _covariance, _temperature, _trees
from physnet.superposition.path_integral._config import Config, Covariance
from physnet.superposition.path_integral._defaults import defaults

RUNNING, NO_FINITE_LOSS, FLAT, STALLED, OVERFLOW = range(5)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class State:
    """A Gaussian cloud around parameters: particles are W + sigma C^(1/2) z, z standard normal.

    Attributes:
        params: W, the mean of the cloud: a tree of the user's own shapes and dtypes.
        sigma: step size, in units of the parameters.
        temperature: fixed lambda, in inverse units of the loss; None holds the effective sample
            size.
        path: discounted sum of the steps in units of the noise, a tree like `params`.
        shape: what is learned of C^(1/2): None, or arrays of the chosen `covariance`.
        count: steps taken.
        status: of the last step, 0 RUNNING; 1 NO_FINITE_LOSS, every loss was NaN or infinite;
            2 FLAT, all losses were finite and equal; 3 STALLED, the step was below the resolution
            of the parameters' dtype; 4 OVERFLOW, it led out of the range of that dtype. After 1, 2
            and 4 all else is as before the step.
        config: the static options.
    """

    params: Any
    sigma: Any
    temperature: Any
    path: Any
    shape: Any
    count: Any
    status: Any
    config: Config = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Info:
    """What one step saw.

    Attributes:
        losses: (K,) as they came.
        weights: (K,) P_k, of sum 1; 0 where a loss is not finite.
        effective: effective sample size 1 / sum P_k^2.
        temperature: lambda, in inverse units of the loss.
        best_loss: the least finite loss; inf if there is none.
        best: index of its particle.
        finite: how many losses were finite.
        sigma: step size with which the particles were drawn.
    """

    losses: Any
    weights: Any
    effective: Any
    temperature: Any
    best_loss: Any
    best: Any
    finite: Any
    sigma: Any


def init(
    params: Any,
    *,
    particles: int | None = None,
    sigma: ArrayLike,
    temperature: ArrayLike | None = None,
    effective: float | None = None,
    antithetic: bool = False,
    covariance: Covariance | None = None,
    directions: int | None = None,
    rank: int | None = None,
    adapt_sigma: bool = True,
    chunk: int | None = None,
    axis_name: str | None = None,
    materialise: bool = True,
) -> State:
    """A cloud of particles around parameters, which `step` moves downhill.

    What is left at None is that of `defaults` for so many parameters.

    Args:
        params: W, a tree of floating-point arrays; where the search begins.
        particles: K, how many particles (losses) a step takes.
        sigma: initial standard deviation of the particles in every parameter, > 0: about a third
            of the distance to where the minimum is believed to be.
        temperature: fixed lambda >= 0, in inverse units of the loss; None holds the effective
            sample size at `effective` K instead, which is seldom worse.
        effective: share of K in (0, 1).
        antithetic: particles in pairs W + e, W - e (K even). A pair tells the covariance only once
            what two particles tell it, and the mean no more: worth it for a small fixed lambda.
        covariance: "none", C = 1; "diagonal", a variance a parameter; "full", a D x D matrix, up
            to D = 2,048; "low_rank", `directions` besides a diagonal.
        directions: r of covariance "low_rank".
        rank: of the noise in leaves of two or more axes, A B^T / sqrt(rank); None is full.
        adapt_sigma: whether the step size adapts to the evolution path.
        chunk: particles evaluated at once, to bound memory; None: as many as hold 2^24 numbers.
        axis_name: axis of a mesh over which particles are spread, for use within `shard_map`.
        materialise: False hands the loss function `Perturbed` weights where `rank` is given;
            C = 1 then.

    Returns:
        A `State`; its `params` are `params`.

    Raises:
        TypeError: leaves that are not real floating-point arrays; sizes that are no ints.
        ValueError: an empty tree, fewer than two particles, an odd number of them with
            `antithetic`, `effective` outside (0, 1), sigma <= 0, a covariance that is not known or
            too large, `materialise=False` without `rank` or with a learned covariance.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.superposition import path_integral
        >>> state = path_integral.init({"x": jnp.full((3,), 2.0)}, sigma=0.5)
        >>> sphere = lambda p: jnp.sum(p["x"] ** 2)
        >>> def one(state, key):
        ...     state, info = path_integral.step(key, state, sphere)
        ...     return state, info.best_loss
        >>> state, best = jax.lax.scan(one, state, jax.random.split(jax.random.key(0), 80))
        >>> bool(sphere(state.params) < 1e-6)
        True

    References:
        Theodorou, Buchli, Schaal, "A generalized path integral control approach to reinforcement
        learning", JMLR 11 (2010). Stulp, Sigaud, "Path integral policy improvement with covariance
        matrix adaptation", ICML (2012).
    """
    params = _trees.checked(params)
    usual = defaults(_trees.size(params))
    count = usual["particles"] if particles is None else particles
    share = usual["effective"] if effective is None else effective
    learned = usual["covariance"] if materialise else "none"
    kind = learned if covariance is None else covariance
    if particles is None and antithetic:
        count += count % 2
    config = _config.checked(
        _config.Config(
            particles=count,
            effective=share,
            antithetic=antithetic,
            covariance=kind,
            directions=_covariance.DIRECTIONS if directions is None else directions,
            rank=rank,
            adapt_sigma=adapt_sigma,
            chunk=chunk,
            axis_name=axis_name,
            materialise=materialise,
        )
    )
    if temperature is not None:
        temperature = _temperature.checked(temperature, _trees.dtype(params))
    return State(
        params=params,
        sigma=_checks.one_positive("sigma", sigma, _trees.dtype(params)),
        temperature=temperature,
        path=_trees.wide(params),
        shape=_covariance.init(config, params),
        count=jnp.zeros((), jnp.int32),
        status=jnp.full((), RUNNING, jnp.int32),
        config=config,
    )
