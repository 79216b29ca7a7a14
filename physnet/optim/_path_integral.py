"""Gradients of the path integral beside, or instead of, those of backpropagation, for optax."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet.optim import _leaves
from physnet.superposition import path_integral


class PathIntegralGradientsState(NamedTuple):
    """State of `path_integral_gradients`.

    Attributes:
        count: Steps taken, for a schedule.
    """

    count: Int[Array, ""]


def path_integral_gradients(
    weight: float | Float[Array, ""] | optax.Schedule,
    *,
    particles: int,
    sigma: ArrayLike,
    mask: Any = None,
    temperature: ArrayLike | None = None,
    effective: float = 0.5,
    antithetic: bool = True,
    rank: int | None = None,
    chunk: int | None = None,
    axis_name: str | None = None,
    materialise: bool = True,
) -> optax.GradientTransformationExtraArgs:
    r"""Mixes gradients with those of the path integral, which need losses alone.

        g <- (1 - w) g + w g_path        g <- g_path where the mask is True

    where g_path is `superposition.path_integral.gradient`, the gradient of the loss smoothed over
    sigma. It is meant for leaves whose gradient is zero, NaN or missing though the loss depends on
    them (thresholds, rounding, hard gates, samples): those the mask names; and for losses with
    steps, where a small w adds what backpropagation cannot see. Where gradients are exact and the
    loss is smooth, w = 0 is best: g_path has the same mean and costs K losses.

    Args:
        weight: w in [0, 1], a number or a schedule of the step's number. The number 0 perturbs
            the leaves of the mask alone, which are estimated the better for it.
        particles: K, losses a step.
        sigma: standard deviation of the noise, in units of the parameters.
        mask: a tree of bools, a prefix of the parameters, or a function of them that gives one;
            None is False everywhere.
        temperature: lambda >= 0, in inverse units of the loss; 0 is the score-function estimate;
            None holds the effective sample size.
        effective: that size, as a share of K.
        antithetic: particles in pairs, W + e and W - e.
        rank: of the noise of leaves of two or more axes, A B^T / sqrt(rank); None is full.
        chunk: particles evaluated at once; None goes by their size.
        axis_name: axis of a mesh over which the particles are spread, within `shard_map`.
        materialise: False hands the loss function `path_integral.Perturbed` weights.

    Returns:
        An optax transformation: update(grads, state, params, *, key, loss_fn, loss_args=()), with
        loss_fn(params, *loss_args) -> one number. Put it first in an `optax.chain`. A grad of
        None stays, but where the mask is True.

    Raises:
        ValueError: A weight outside [0, 1] where it is known; from update, params, key or loss_fn
            missing; what `superposition.path_integral.gradient` raises.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> def loss(p):                              # "step" has the derivative 0
        ...     return p["smooth"] ** 2 + jnp.round(p["step"] * 4) ** 2 / 16
        >>> rule = optax.chain(
        ...     path_integral_gradients(0.0, particles=64, sigma=0.2,
        ...                             mask={"smooth": False, "step": True}),
        ...     optax.sgd(0.1))
        >>> @jax.jit
        ... def train(params, state, key):
        ...     change, state = rule.update(jax.grad(loss)(params), state, params,
        ...                                 key=key, loss_fn=loss)
        ...     return optax.apply_updates(params, change), state
        >>> params = {"smooth": jnp.array(3.0), "step": jnp.array(3.0)}
        >>> state = rule.init(params)
        >>> for i in range(60):
        ...     params, state = train(params, state, jax.random.key(i))
        >>> bool(loss(params) < 1e-3)
        True

    References:
        Maheswaranathan et al., "Guided evolutionary strategies: augmenting random search with
        surrogate gradients", ICML 2019, for mixing the two kinds.
    """
    known = None if callable(weight) else _checks.known("weight", weight)
    one = callable(weight) or jnp.size(weight) == 1
    if not one or (known is not None and not np.all((known >= 0) & (known <= 1))):
        raise ValueError(f"weight must be one number in [0, 1], got {weight!r}")
    never = known is not None and known == 0

    def init(params: Any) -> PathIntegralGradientsState:
        del params
        return PathIntegralGradientsState(jnp.zeros([], jnp.int32))

    def update(
        updates: Any,
        state: Any,
        params: Any = None,
        *,
        key: Any = None,
        loss_fn: Callable[..., Any] | None = None,
        loss_args: tuple[Any, ...] = (),
        **others: Any,
    ) -> tuple[Any, PathIntegralGradientsState]:
        _leaves.needs_params("path_integral_gradients", params, None)
        params = jax.tree.map(lambda x: _checks.array("params", x), params)
        leaves, tree = jax.tree.flatten(params)
        chosen = _chosen(mask, params)
        try:
            grads = tree.flatten_up_to(updates)
        except ValueError as error:
            raise ValueError(f"updates must be a tree like params: {error}") from None
        for grad, leaf in zip(grads, leaves, strict=True):
            if not _absent(grad) and _checks.real("updates", grad).shape != jnp.shape(leaf):
                raise ValueError(
                    f"updates must have the shapes of params, got {jnp.shape(grad)} beside "
                    f"{jnp.shape(leaf)}"
                )
        # Perturbed: leaves of the mask, and with w > 0 all that have a gradient.
        moved = [m or not (never or _absent(g)) for m, g in zip(chosen, grads, strict=True)]
        count = PathIntegralGradientsState(jnp.asarray(optax.safe_increment(state.count)))
        if not any(moved):
            return updates, count
        for name, value in (("key", key), ("loss_fn", loss_fn)):
            if value is None:
                raise ValueError(
                    "path_integral_gradients needs update(grads, state, params, key=..., "
                    f"loss_fn=...), got {name}=None"
                )
        assert loss_fn is not None

        def of_moved(some: list[Any], args: tuple[Any, ...]) -> Any:
            rest = iter(some)
            whole = [next(rest) if m else x for m, x in zip(moved, leaves, strict=True)]
            return loss_fn(tree.unflatten(whole), *args)

        found = iter(
            path_integral.gradient(
                key,
                [x for m, x in zip(moved, leaves, strict=True) if m],
                of_moved,
                loss_args,
                particles=particles,
                sigma=sigma,
                temperature=temperature,
                effective=effective,
                antithetic=antithetic,
                rank=rank,
                chunk=chunk,
                axis_name=axis_name,
                materialise=materialise,
            )
        )
        share = _leaves.rate(weight, state.count)

        def mixed(grad, leaf, alone, moves):
            if not moves:
                return grad
            other = next(found)
            if alone:
                return other.astype(leaf.dtype if _absent(grad) else jnp.asarray(grad).dtype)
            wide = _leaves.wide(grad)
            w = jnp.asarray(share, wide.dtype)
            return ((1 - w) * wide + w * other.astype(wide.dtype)).astype(jnp.asarray(grad).dtype)

        rows = zip(grads, leaves, chosen, moved, strict=True)
        return tree.unflatten([mixed(*row) for row in rows]), count

    return optax.GradientTransformationExtraArgs(init, update)


def _chosen(mask: Any, params: Any) -> list[bool]:
    """The mask of every leaf of the parameters."""
    found = mask(params) if callable(mask) else mask
    if found is None:
        found = False
    try:
        whole = jax.tree.map(lambda m, part: jax.tree.map(lambda _: m, part), found, params)
    except ValueError as error:
        raise ValueError(
            "mask must be a tree of bools, a prefix of the parameters' "
            f"{jax.tree.structure(params)}, got {jax.tree.structure(found)}"
        ) from error
    flags = jax.tree.leaves(whole)
    if not all(isinstance(flag, bool) for flag in flags):
        raise TypeError(f"mask must hold bools, got {flags!r}")
    return flags


def _absent(grad: Any) -> bool:
    return grad is None or isinstance(grad, optax.MaskedNode)
