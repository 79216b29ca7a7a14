"""A penalty on layers that are not isometries."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from physnet import _checks
from physnet.dyson._stack import Layer, probed


def isometry_penalty(
    layer: Layer,
    params: Any,
    h: Float[Array, "*h"],
    *,
    key: Key[Array, ""],
    probes: int = 1,
    remat: bool = False,
) -> Float[Array, ""]:
    r"""How far the layers are from keeping lengths: dynamical isometry as a term of the loss.

        R = mean_l E_v (|J_l v|^2 - |v|^2)^2 / 2d
          = mean_l |J_l^T J_l - 1|^2 / d + (tr(J_l^T J_l - 1))^2 / 2d

    v Gaussian: the two lines differ for other probes. Zero just where every J_l is orthogonal: it
    sees the spread of singular values, not only their mean. Each sample is an unbiased estimate of
    R, and its gradient one of R's.

    Args:
        layer: layer(params_l, h) -> h of the same shape and dtype.
        params: A pytree of arrays, layers on axis 0.
        h: The input of the first layer: one example, of any shape; d is its size. `vmap` over h
            and key for a batch.
        key: Of the probes.
        probes: Number of them a layer. Static.
        remat: Keep only the input of each layer for the backward pass and compute the rest again.

    Returns:
        R, a scalar, float32 at least, differentiable in params and h: also through the inputs that
        lower layers give to higher ones.

    Raises:
        ValueError: params do not stack, layer does not keep the shape and dtype of h, probes < 1.
        TypeError: h is not real floating, or probes is not an int.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> turn = jnp.array([[[0.6, -0.8], [0.8, 0.6]]])
        >>> def penalty(scale):
        ...     rotate = lambda w, h: w @ h
        ...     return isometry_penalty(rotate, scale * turn, jnp.ones(2), key=jax.random.key(0))
        >>> f"{penalty(1.0):.5f}", bool(penalty(0.5) > 0.01)
        ('0.00000', True)

    References:
        Saxe, McClelland & Ganguli, ICLR 2014; Pennington, Schoenholz & Ganguli, NeurIPS 2017
        (dynamical isometry).
    """
    probes = _checks.positive_int("probes", probes)

    def measure(v, change):
        return jnp.sum(change**2 - v**2) ** 2

    squares = probed(layer, params, h, key, probes, jax.random.normal, measure, remat=remat)
    return jnp.mean(squares) / (2 * jnp.size(h))
