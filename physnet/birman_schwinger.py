r"""The Birman-Schwinger operator of a perturbed chain, H = H_0 + V, and its invariants in O(n).

    K(z) = |V|^{1/2} R_0(z) |V|^{1/2} sgn V,    R_0(z) = (H_0 - z)^{-1} = -G_0(z)

z is an eigenvalue of H just where -1 is one of K(z).
"""

from typing import Any

import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Inexact

from physnet import _checks, greens


def operator(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    potential: Float[Array, "*#d n"],
    energy: ArrayLike,
) -> Complex[Array, "*e n n"]:
    r"""The dense K(z) = |V|^{1/2} (H_0 - z)^{-1} |V|^{1/2} sgn V, O(n^2).

    Args:
        onsite: Diagonal of H_0 (..., n), real.
        hopping: H_0[i, i+1] (..., n-1), real or complex.
        potential: V (..., n), real, of either sign.
        energy: z (...), complex, Im z > 0, as in `greens.diagonal`.

    Returns:
        (..., n, n), complex. A square root has no derivative at V_i = 0: it counts as 0 there. The
        other functions of this module are smooth, but for |V| in the norm.

    Raises:
        ValueError, TypeError: As `greens.diagonal`, and where V has not n sites.

    Example:
        >>> import jax.numpy as jnp
        >>> k = operator(jnp.zeros(2), jnp.ones(1), jnp.array([0.0, -4.0]), 1 + 1j)
        >>> print(f"{k[1, 1]:.2f} {abs(k[0, 1]):.1f}")
        0.80-2.40j 0.0

    References:
        Simon, Trace Ideals and Their Applications, 2nd ed. (AMS, 2005), chapter 7.
    """
    onsite, hopping, potential = _arguments(onsite, hopping, potential)
    identity = jnp.eye(onsite.shape[-1], dtype=onsite.dtype)
    free = greens.solve(onsite, hopping, energy, identity)
    root = _root(jnp.abs(potential))
    outer = -root[..., :, None] * (root * jnp.sign(potential))[..., None, :]
    shape = jnp.broadcast_shapes(outer.shape, free.shape)
    return jnp.broadcast_to(free, shape) * jnp.broadcast_to(outer, shape).astype(free.dtype)


def log_determinant(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    potential: Float[Array, "*#d n"],
    energy: ArrayLike,
) -> Complex[Array, "*e"]:
    r"""log det(1 + K(z)) = log det(z - H) - log det(z - H_0), on the branch that is 0 at V = 0.

        log det(1 + K) = sum_i log(gL0_i / gL_i),    gL of `greens.left` without and with V

    Every ratio keeps to one side of the cut, so there is no phase to unwrap. Weak potentials lose
    no digits: 1 - gL0_i / gL_i has a recurrence of its own. O(n).

    Args:
        onsite, hopping, potential, energy: As in `operator`.

    Returns:
        (...), complex. Its derivative in z is Tr(G - G_0), in V_i it is -G_ii.

    Raises:
        ValueError, TypeError: As `operator`.

    Example:
        >>> import jax.numpy as jnp
        >>> value = log_determinant(jnp.zeros(1), jnp.zeros(0), jnp.array([3.0]), 1j)
        >>> print(f"{value:.4f} {jnp.log((1j - 3) / 1j):.4f}")
        1.1513+1.2490j 1.1513+1.2490j
    """
    onsite, hopping, potential = _arguments(onsite, hopping, potential)
    free = greens.left(onsite, hopping, energy)
    full = greens.left(onsite + potential, hopping, energy)
    shape = free.shape
    weight = jnp.pad(jnp.abs(hopping) ** 2, ((0, 0),) * (hopping.ndim - 1) + ((1, 0),))
    weight, potential = (jnp.broadcast_to(x, shape).astype(free.dtype) for x in (weight, potential))
    # gL - gL0 = gL gL0 (V + w (gL - gL0) in front)
    both = full * free
    change = greens.recurrence(weight * both, potential * both)
    before = jnp.concatenate([jnp.zeros_like(change[..., :1]), change[..., :-1]], -1)
    less = free * (potential + weight * before)  # 1 - gL0 / gL
    near = jnp.abs(less) < 0.5
    by_change = jnp.log1p(jnp.where(near, -less, 0))
    by_logs = jnp.log(free) - jnp.log(full)
    return jnp.sum(jnp.where(near, by_change, by_logs), -1)


def spectral_shift(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    potential: Float[Array, "*#d n"],
    energy: ArrayLike,
) -> Float[Array, "*e"]:
    r"""Krein's spectral shift Im log det(1 + K(z)) / pi: how many levels V has lifted above E.

        xi(E) = N_0(E) - N(E),    N(E) the number of levels below E = Re z

    with the steps broadened by Im z. V >= 0 gives xi >= 0; the integral of xi is sum_i V_i.

    Args:
        onsite, hopping, potential, energy: As in `operator`.

    Returns:
        (...), real, between -n and n.

    Raises:
        ValueError, TypeError: As `operator`.

    Example:
        >>> import jax.numpy as jnp
        >>> lift = jnp.array([2.0, 2.0, 0.0])  # two of three levels from 0 to 2
        >>> print(f"{spectral_shift(jnp.zeros(3), jnp.zeros(2), lift, 1 + 1e-6j):.4f}")
        2.0000

    References:
        Birman & Yafaev, St. Petersburg Math. J. 4 (1993) 833.
    """
    return log_determinant(onsite, hopping, potential, energy).imag / jnp.pi


def hilbert_schmidt_norm(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    potential: Float[Array, "*#d n"],
    energy: ArrayLike,
) -> Float[Array, "*e"]:
    r"""||K(z)||_HS = (sum_ij |V_i| |G0_ij|^2 |V_j|)^{1/2}, O(n).

    For j > i, |G0_ij|^2 = |G0_ii|^2 prod_{k=i+1..j} w_{k-1} |gR_k|^2, so the sum over i runs along:

        x_j = w_{j-1} |gR_j|^2 (x_{j-1} + |V_{j-1}| |G0_{j-1,j-1}|^2)

    It is at most (|V|_inf sum_i |V_i| (-Im G0_ii) / Im z)^{1/2}.

    Args:
        onsite, hopping, potential, energy: As in `operator`.

    Returns:
        (...), real, not negative. At V = 0 its derivative counts as 0.

    Raises:
        ValueError, TypeError: As `operator`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> chain = jnp.zeros(2), jnp.ones(1), jnp.array([1.0, -4.0]), 1 + 1j
        >>> dense = jax.jit(lambda *x: jnp.linalg.norm(operator(*x)))
        >>> print(f"{jax.jit(hilbert_schmidt_norm)(*chain):.5f} {dense(*chain):.5f}")
        2.89828 2.89828
    """
    onsite, hopping, potential = _arguments(onsite, hopping, potential)
    g = greens.diagonal(onsite, hopping, energy)
    right = greens.left(onsite[..., ::-1], hopping[..., ::-1], energy)[..., ::-1]
    weight = jnp.pad(jnp.abs(hopping) ** 2, ((0, 0),) * (hopping.ndim - 1) + ((1, 0),))
    weight, strength = (jnp.broadcast_to(x, g.shape) for x in (weight, jnp.abs(potential)))
    step = weight * _squared(right)
    own = strength * _squared(g)
    before = jnp.concatenate([jnp.zeros_like(own[..., :1]), own[..., :-1]], -1)
    cross = greens.recurrence(step, step * before)
    return _root(jnp.sum(strength * (own + 2 * cross), -1))


def _arguments(onsite: Any, hopping: Any, potential: Any) -> tuple[Array, Array, Array]:
    """All of one precision; onsite and potential of one shape."""
    onsite = _checks.at_least_1d("onsite", _checks.real("onsite", onsite))
    hopping = _checks.at_least_1d("hopping", _checks.inexact("hopping", hopping))
    potential = _checks.at_least_1d("potential", _checks.real("potential", potential))
    if potential.shape[-1] != onsite.shape[-1]:
        raise ValueError(
            f"potential must have n={onsite.shape[-1]} sites on its last axis, "
            f"got shape {potential.shape}"
        )
    shape = _checks.broadcast(onsite=onsite.shape, potential=potential.shape)
    wide = any(jnp.finfo(x.dtype).bits == 64 for x in (onsite, hopping, potential))
    real = jnp.float64 if wide else jnp.float32
    complex_ = jnp.complex128 if wide else jnp.complex64
    hopping = hopping.astype(complex_ if jnp.iscomplexobj(hopping) else real)
    onsite, potential = (jnp.broadcast_to(x, shape).astype(real) for x in (onsite, potential))
    return onsite, hopping, potential


def _squared(x: Array) -> Array:
    return x.real**2 + x.imag**2


def _root(x: Array) -> Array:
    """Square root with derivative 0 at 0; NaN stays."""
    zero = x <= 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))
