"""Predicted against measured sizes of the gradient over depth."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from physnet import _checks
from physnet.dyson._matrices import computing_dtype
from physnet.dyson._propagators import PropagatorLike, apply, as_propagator
from physnet.dyson._stack import Layer, check


class Spectrum(NamedTuple):
    """A propagator's gradient norms over depth beside measured ones, and how well they agree.

    Attributes:
        predicted, measured: |delta_l| at the output of each layer, equal at the last one.
        pearson: Correlation of the logarithms.
        spearman: Correlation of the ranks.
        step_pearson: Correlation of the changes of the logarithm from layer to layer: which layers
            gain and which lose, without the common slope.
        log_error: Root mean square of ln(predicted / measured) over the layers before the last.
    """

    predicted: Float[Array, " L"]
    measured: Float[Array, " L"]
    pearson: Float[Array, ""]
    spearman: Float[Array, ""]
    step_pearson: Float[Array, ""]
    log_error: Float[Array, ""]


def gradient_norms(
    layer: Layer, params: Any, h: Float[Array, "*h"], cotangent: Float[Array, "*h"]
) -> Float[Array, " L"]:
    r"""|delta_l|, the gradient's norm at the output of every layer, by one backward pass.

        delta_{L-1} = cotangent,    delta_l = J_{l+1}^T delta_{l+1}

    Args:
        layer: layer(params_l, h) -> h of the same shape and dtype.
        params: A pytree of arrays, layers on axis 0.
        h: The input of the first layer, of any shape. `vmap` for a batch.
        cotangent: Gradient of the loss at the output of the last layer, like h.

    Returns:
        (L,), float32 at least. Keeps the L inputs of the layers, not what is inside them.

    Raises:
        ValueError: params do not stack, layer does not keep the shape and dtype of h, or the
            cotangent is of another shape.
        TypeError: h or cotangent is not real floating.

    Example:
        >>> import jax.numpy as jnp
        >>> print(gradient_norms(lambda s, h: s * h, jnp.array([9.0, 2.0, 0.5]), *jnp.eye(2)))
        [1.  0.5 1. ]
    """
    _, h = check(layer, params, h)
    cotangent = _checks.real("cotangent", cotangent)
    if cotangent.shape != h.shape:
        raise ValueError(f"cotangent must have the shape of h {h.shape}, got {cotangent.shape}")
    dtype = computing_dtype(h)
    _, inputs = lax.scan(lambda h, own: (layer(own, h), h), h, params)

    def back(delta, of_layer):
        own, h = of_layer
        _, pull = jax.vjp(lambda h: layer(own, h), h)
        return pull(delta)[0], _norm(delta.astype(dtype))

    return lax.scan(back, cotangent.astype(h.dtype), (params, inputs), reverse=True)[1]


def spectrum(propagator: PropagatorLike, norms: Float[Array, " L"]) -> Spectrum:
    r"""What a propagator says of where gradients localise, against what is measured.

    The loss is a source at the last layer, so the prediction is the last column,
    |delta_l| ~ |G(l, L-1)|, scaled to the measured norm there with G(L-1, L-1) = read . write of
    the last layer: 1 for scalars, and where it is 0. The scalars sqrt(chi) of `probe_layers` give
    the incoherent prediction (the mean growth of squares), rho the coherent one.

    Args:
        propagator: As `dyson.as_propagator` takes it.
        norms: Measured |delta_l| (L,), such as `gradient_norms`.

    Returns:
        `Spectrum`. Norms below the smallest normal number count as that. A correlation is NaN where
        one side does not vary, and with fewer than three layers.

    Raises:
        ValueError: The numbers of layers differ.
        TypeError: norms are not real floating.

    Example:
        >>> import jax.numpy as jnp
        >>> found = spectrum(jnp.full(4, 0.5), jnp.array([0.5, 1.0, 2.0, 4.0]))
        >>> print(found.predicted, f"{found.pearson:.3f} {found.log_error:.3f}")
        [0.5 1.  2.  4. ] 1.000 0.000
    """
    p = as_propagator(propagator)
    norms = _checks.real("norms", norms)
    if norms.shape != (len(p.read),):
        raise ValueError(f"norms must have shape ({len(p.read)},), got {norms.shape}")
    dtype = computing_dtype(norms)
    last = jnp.zeros_like(norms, dtype).at[-1].set(1)
    column = jnp.abs(apply(propagator, last)).astype(dtype)
    at_end = jnp.abs(jnp.sum(p.read[-1] * p.write[-1])).astype(dtype)
    at_end = jnp.where(at_end > 0, at_end, 1)
    tiny = jnp.finfo(dtype).tiny
    measured = jnp.maximum(norms.astype(dtype), tiny)
    # The scale joins as a logarithm: products over depth come near both ends of float32.
    log_measured = jnp.log(measured)
    log_predicted = jnp.log(jnp.maximum(column.at[-1].set(at_end), tiny))
    log_predicted = log_predicted + (log_measured[-1] - log_predicted[-1])
    gap = (log_predicted - log_measured)[:-1]
    return Spectrum(
        predicted=jnp.exp(log_predicted),
        measured=measured,
        pearson=_correlation(log_predicted, log_measured),
        spearman=_correlation(_ranks(log_predicted), _ranks(log_measured)),
        step_pearson=_correlation(jnp.diff(log_predicted), jnp.diff(log_measured)),
        log_error=jnp.sqrt(jnp.mean(gap**2)) if len(gap) else jnp.zeros_like(log_measured[-1]),
    )


def _norm(x: Array) -> Array:
    """|x| also where squares would leave the range of its dtype."""
    largest = jnp.max(jnp.abs(x), initial=0)
    scale = jnp.where((largest > 0) & jnp.isfinite(largest), largest, 1)
    return scale * jnp.sqrt(jnp.sum((x / scale) ** 2))


def _correlation(x: Array, y: Array) -> Array:
    """Pearson's; NaN without variance."""
    if len(x) < 2:
        return jnp.full_like(x, jnp.nan, shape=())
    x, y = x - jnp.mean(x), y - jnp.mean(y)
    return jnp.sum(x * y) / jnp.sqrt(jnp.sum(x * x) * jnp.sum(y * y))


def _ranks(x: Array) -> Array:
    """Ranks from 0, equal values sharing their mean."""
    below = jnp.sum(x[None, :] < x[:, None], 1)
    upto = jnp.sum(x[None, :] <= x[:, None], 1)
    return (below + upto - 1).astype(x.dtype) / 2
