"""Rows of the quantum geometric tensor of a neural quantum state."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Inexact, Num

from physnet import _checks
from physnet.optim._imaginary_time import _rows


def local_energies(
    log_psi: Callable[[Any, Any], Any],
    params: Any,
    samples: Num[Array, "samples ..."],
    connected: Num[Array, "samples links ..."],
    elements: Inexact[Array, "samples links"],
    *,
    chunk: int | None = None,
) -> Inexact[Array, " samples"]:
    r"""Local energies E(s) = sum_t H_st psi(t) / psi(s) of a neural quantum state.

    Where psi(s) is 0 they are not finite; such samples have no weight in |psi|^2.

    Args:
        log_psi: log_psi(params, s) -> scalar, real or complex, of one configuration.
        params: Its parameters, any tree.
        samples: Configurations s.
        connected: For each the configurations t with H_st != 0, itself among them; padded to one
            length by any t,
        elements: H_st, where padded 0.
        chunk: Samples taken at once; None takes all.

    Returns:
        E(s), real or complex, float32 or complex64 at least.

    Raises:
        ValueError: `connected` or `elements` without one row a sample, or one number a link.

    Example:
        >>> import jax.numpy as jnp
        >>> log_psi = lambda params, s: params * s.sum()        # a spin in a transverse field
        >>> up, flipped = jnp.array([[1.0], [-1.0]]), jnp.array([[[-1.0]], [[1.0]]])
        >>> elements = jnp.full((2, 1), -1.0)
        >>> print(local_energies(log_psi, jnp.array(0.0), up, flipped, elements))
        [-1. -1.]
    """
    _checks.function("log_psi", log_psi)
    samples, connected = _checks.array("samples", samples), _checks.array("connected", connected)
    elements = _checks.inexact("elements", elements)
    if connected.shape[:1] != samples.shape[:1] or connected.shape[:2] != elements.shape:
        raise ValueError(
            "connected (samples, links, ...) and elements (samples, links) must fit samples, got "
            f"{connected.shape} and {elements.shape} for samples of shape {samples.shape}"
        )

    def one(row):
        own, others, element = row
        ratio = _rows.wide(jax.vmap(lambda t: log_psi(params, t))(others) - log_psi(params, own))
        element = _rows.wide(element)
        dtype = np.promote_types(ratio.dtype, element.dtype)
        ratio = jnp.where(element == 0, 0, ratio)  # where padded it may overflow
        return jnp.sum(element.astype(dtype) * jnp.exp(ratio).astype(dtype))

    return _rows.over(one, (samples, connected, elements), chunk)


def wavefunction_rows(
    log_psi: Callable[[Any, Any], Any],
    params: Any,
    samples: Any,
    energies: Inexact[Array, " samples"],
    *,
    weights: Float[Array, " samples"] | None = None,
    holomorphic: bool = False,
    products: bool = False,
    chunk: int | None = None,
) -> _rows.Rows:
    r"""What `imaginary_time` needs of a neural quantum state: SR's rows and residual.

    With O = d log psi / d params, weights w of sum 1 and <.> their mean,

        jacobian_s = sqrt(w_s) (O_s - <O>),         residual_s = sqrt(w_s) (E_s - <E>)

    so that S = <O* O> - <O*><O> is the quantum geometric tensor and Re(jacobian^dagger residual)
    is half of the gradient of <E>: a step of length dt is one of dt in imaginary time. (Codes that
    take the whole gradient, as NetKet does, reach the same with half the learning rate.)

    Samples drawn from |psi|^2 count alike, weights=None; a sum over a basis takes
    weights = |psi|^2, samples from another distribution q take |psi|^2 / q. A sample of weight 0
    counts as 0, whatever its energy.

    Args:
        log_psi: log_psi(params, s) -> scalar, real or complex, of one configuration.
        params: Its parameters: real leaves; or complex ones.
        samples: Configurations, an array or a tree with a leading axis.
        energies: Their local energies.
        weights: >= 0, normalised here.
        holomorphic: All leaves are complex and log_psi is holomorphic in each. Complex leaves
            without it need `products`.
        products: Give products instead of a matrix, for models whose rows take too much memory;
            any mixture of real and complex leaves will do.
        chunk: Samples whose rows are computed at once; None takes all.

    Returns:
        Jacobian and residual.

    Raises:
        ValueError: Shapes that do not fit, complex leaves with neither option, or real ones with
            `holomorphic`.
        TypeError: Parameters, energies or weights that are not floating.

    Example:
        >>> import jax.numpy as jnp
        >>> log_psi = lambda params, s: params * s
        >>> rows = wavefunction_rows(
        ...     log_psi, jnp.array(0.0), jnp.array([1.0, -1.0]), jnp.array([3.0, 1.0]))
        >>> print(f"{rows.jacobian @ rows.jacobian:.2f}, {rows.jacobian @ rows.residual:.2f}")
        1.00, 1.00

    References:
        Becca and Sorella, "Quantum Monte Carlo approaches for correlated systems", Cambridge 2017,
        chapter 6.
    """
    params = jax.tree.map(lambda x: _checks.inexact("params", x), params)
    _checks.function("log_psi", log_psi)
    energies = _checks.inexact("energies", energies)
    count = _checks.stacked("samples", samples, "that of samples")
    if weights is None:
        share = jnp.full(count, 1 / count, _rows.wide(energies).real.dtype)
    else:
        share = _rows.wide(_checks.real("weights", weights))
        share = share / jnp.sum(share)
    if energies.shape != (count,) or share.shape != (count,):
        raise ValueError(
            f"energies and weights must have one number a sample, ({count},), got "
            f"{energies.shape} and {share.shape}"
        )
    root = jnp.sqrt(share)

    def centred(x):
        """Less the mean, scaled by the roots of the weights; 0 where there is no weight."""
        real = jnp.finfo(x.dtype).dtype
        over = lambda w: w.astype(real).reshape((count,) + (1,) * (x.ndim - 1))  # noqa: E731
        known = jnp.where(over(share) > 0, x, 0)
        shifted = known - jnp.sum(over(share).astype(x.dtype) * known, axis=0, keepdims=True)
        return over(root).astype(x.dtype) * shifted

    residual = centred(_rows.wide(energies))
    batched = lambda f, p: _rows.over(lambda s: f(p, s), samples, chunk)  # noqa: E731
    if products:
        values = lambda p: centred(_rows.wide(batched(log_psi, p)))  # noqa: E731
        return _rows.Rows(_rows.linearised(values, params), residual)
    some = [jnp.iscomplexobj(leaf) for leaf in jax.tree.leaves(params)]
    if any(some) and not holomorphic:
        raise ValueError(
            "params has complex leaves: say holomorphic=True if log_psi is holomorphic in them, or "
            "take products=True"
        )
    if holomorphic and not all(some):
        raise ValueError("holomorphic needs complex leaves in params only, got real ones too")
    one = jax.tree.map(lambda x: x[0], samples)
    if holomorphic:
        gradient = jax.grad(log_psi, holomorphic=True)
    elif jnp.issubdtype(jax.eval_shape(log_psi, params, one).dtype, jnp.complexfloating):
        gradient = _complex_gradient(log_psi)
    else:
        gradient = jax.grad(log_psi)
    rows = batched(gradient, params)
    return _rows.Rows(jax.tree.map(lambda x: centred(_rows.wide(x)), rows), residual)


def _complex_gradient(log_psi: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    """d log_psi / d params of a complex function of real leaves."""

    def gradient(params, sample):
        value, back = jax.vjp(lambda p: log_psi(p, sample), params)
        # The cotangents 1 and -i bring out the real parts of the derivative and of -i times it.
        (re,), (im,) = back(jnp.ones_like(value)), back(jnp.full_like(value, -1j))
        return jax.tree.map(lax.complex, *(jax.tree.map(_rows.wide, x) for x in (re, im)))

    return gradient
