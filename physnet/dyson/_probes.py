"""What the layers of a stack do to a small change, from random probes."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from physnet import _checks
from physnet.dyson._stack import Layer, probed


class LayerProbes(NamedTuple):
    """Estimates for each layer, of its Jacobian J_l at this input, and their standard errors.

    Attributes:
        rho: tr J_l / d, the part of the Jacobian that is a multiple of the identity.
        chi: |J_l|^2 / d, the mean growth of a squared norm.
        self_energy: |J_l^T - rho_l 1|^2 / d = chi_l - rho_l^2 (Frobenius), never negative.
        rho_error, chi_error, self_energy_error: Standard errors of the three.
    """

    rho: Float[Array, " L"]
    chi: Float[Array, " L"]
    self_energy: Float[Array, " L"]
    rho_error: Float[Array, " L"]
    chi_error: Float[Array, " L"]
    self_energy_error: Float[Array, " L"]


def probe_layers(
    layer: Layer,
    params: Any,
    h: Float[Array, "*h"],
    *,
    key: Key[Array, ""],
    probes: int = 8,
) -> LayerProbes:
    r"""Coherent and incoherent strength of every layer by Hutchinson's estimator.

        rho_l = tr J_l / d = E[v . J_l v] / d,    chi_l = E|J_l v|^2 / d,    v of random signs

    over one forward pass with one `jvp` a probe and layer. Split as J_l^T = rho_l 1 + Sigma_l, the
    identity part is what a scalar propagator carries, Sigma_l is the self-energy. J_l and J_l^T
    have the same three numbers, so forward probes serve errors that travel backwards.

    Args:
        layer: layer(params_l, h) -> h of the same shape and dtype.
        params: A pytree of arrays, layers on axis 0.
        h: The input of the first layer: one example, of any shape; d is its size. `vmap` over h
            and key for a batch.
        key: Of the probes.
        probes: Their number, at least 2. Static.

    Returns:
        `LayerProbes`, each (L,), unbiased, float32 at least.

    Raises:
        ValueError: params do not stack, layer does not keep the shape and dtype of h, probes < 2.
        TypeError: h is not real floating, or probes is not an int.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> scale = jnp.array([0.5, 2.0])
        >>> found = probe_layers(lambda s, h: s * h, scale, jnp.ones(16), key=jax.random.key(0))
        >>> print(found.rho, found.chi, found.self_energy)
        [0.5 2. ] [0.25 4.  ] [0. 0.]

    References:
        Hutchinson, Commun. Stat. Simul. Comput. 18 (1989) 1059; Poole et al., NeurIPS 2016 (chi).
    """
    probes = _checks.positive_int("probes", probes, minimum=2)

    def measure(v, change):
        rho = jnp.mean(v * change)
        # |v|^2 = d: the mean square splits into rho^2 and what is orthogonal to v.
        return rho, jnp.mean(change**2), jnp.mean((change - rho * v) ** 2)

    rho, chi, rest = probed(layer, params, h, key, probes, jax.random.rademacher, measure)
    # By its variance E[rho of a probe ^2] exceeds rho^2, and E[rest] misses that.
    away = (rho - jnp.mean(rho, 1, keepdims=True)) ** 2

    def error(samples):
        return jnp.std(samples, 1, ddof=1) / probes**0.5

    return LayerProbes(
        rho=jnp.mean(rho, 1),
        chi=jnp.mean(chi, 1),
        self_energy=jnp.mean(rest, 1) + jnp.sum(away, 1) / (probes - 1),
        rho_error=error(rho),
        chi_error=error(chi),
        self_energy_error=error(rest + away),
    )
