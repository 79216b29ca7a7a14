"""Scattering scores: how open a site of the chain is to scattering, as a number in [0, 1]."""

from typing import Any, Literal, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Complex, Float, Inexact

from physnet import _checks, greens

Kind = Literal["window", "ldos", "abs"]


@overload
def score(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    *,
    kind: Kind = "window",
    center: ArrayLike = 0.0,
    radius: ArrayLike = 1.0,
    order: int = 8,
    energy: ArrayLike = 0.0,
    eta: ArrayLike | None = None,
    causal: bool = True,
    initial: Complex[Array, "..."] | None = None,
    return_state: Literal[False] = False,
    axis_name: str | None = None,
) -> Float[Array, "*e n"]: ...


@overload
def score(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    *,
    kind: Kind = "window",
    center: ArrayLike = 0.0,
    radius: ArrayLike = 1.0,
    order: int = 8,
    energy: ArrayLike = 0.0,
    eta: ArrayLike | None = None,
    causal: bool = True,
    initial: Complex[Array, "..."] | None = None,
    return_state: Literal[True],
    axis_name: str | None = None,
) -> tuple[Float[Array, "*e n"], Complex[Array, "..."]]: ...


def score(
    onsite: Float[Array, "*#b n"],
    hopping: Inexact[Array, "*#c m"],
    *,
    kind: Kind = "window",
    center: ArrayLike = 0.0,
    radius: ArrayLike = 1.0,
    order: int = 8,
    energy: ArrayLike = 0.0,
    eta: ArrayLike | None = None,
    causal: bool = True,
    initial: Complex[Array, "..."] | None = None,
    return_state: bool = False,
    axis_name: str | None = None,
) -> Float[Array, "*e n"] | tuple[Float[Array, "*e n"], Complex[Array, "..."]]:
    r"""Scattering score of every site, in [0, 1].

        "window"   n_i = sum_m |psi_m(i)|^2 / (1 + ((E_m - c) / r)^K)     integrated LDOS
        "ldos"     -eta Im G_ii(E + i eta)                                LDOS in units of its bound
        "abs"      eta |G_ii(E + i eta)|                                  what the pair gate's
                                                                          |G_ii G_jj| multiplies

    All three are at most 1 because the spectrum is real: |G_ii| <= 1 / eta. With `causal` G is the
    half line's gL, and site i depends on the sites 0..i alone.

    Args:
        onsite: a (..., n), real.
        hopping: b (..., n-1), real or complex; (..., n) when `initial` or `axis_name` is given, as
            in `greens.left`.
        kind: Which score.
        center, radius, order: Of "window", as in `greens.window`; not used by the others.
        energy: Of "ldos" and "abs": E, real; or the complex z = E + i eta itself.
        eta: Im z for a real energy, positive; 1 if not given.
        causal: Half-line Green's function; False sees the whole chain, later sites too.
        initial: Causal only: the state that `return_state` gave, to go on from when decoding.
        return_state: Causal only: also return the state behind the last site.
        axis_name: Causal only: the mesh axis that the sites are split over, as in `greens.left`.

    Returns:
        (..., n), real, within [0, 1]: rounding is clipped, the gradient passes through. With
        `return_state` the pair (score, state).

    Raises:
        ValueError: An unknown kind, eta besides a complex energy, a state without `causal`, eta or
            radius not positive where it is known, shapes that do not fit.
        TypeError: As `greens.left`.

    Example:
        >>> import jax.numpy as jnp
        >>> onsite, hopping = jnp.array([0.0, 3.0, 0.0]), jnp.ones(2)
        >>> [f"{x:.4f}" for x in score(onsite, hopping, kind="ldos", eta=1.0)]
        ['1.0000', '0.1538', '0.8333']
    """
    _checks.one_of("kind", kind, ("window", "ldos", "abs"))
    if (initial is not None or return_state) and not causal:
        raise ValueError(
            "initial and return_state need causal=True: a two-sided chain has no state"
        )
    if axis_name is not None and not causal:
        raise ValueError(f"axis_name needs causal=True, got {axis_name!r}")
    if kind == "window":
        options: dict[str, Any] = {"center": center, "radius": radius, "order": order}
        if not causal:
            return greens.window(onsite, hopping, **options)
        share, state = greens.window(
            onsite,
            hopping,
            **options,
            causal=True,
            initial=initial,
            return_state=True,
            axis_name=axis_name,
        )
        return (share, state) if return_state else share
    z = _complex_energy(energy, eta)
    if not causal:
        return _bounded(greens.diagonal(onsite, hopping, z), z, kind)
    green, state = greens.left(
        onsite, hopping, z, initial=initial, return_state=True, axis_name=axis_name
    )
    values = _bounded(green, z, kind)
    return (values, state) if return_state else values


def _bounded(green: jax.Array, z: Any, kind: Kind) -> jax.Array:
    size = -green.imag if kind == "ldos" else _absolute(green)
    eta = jnp.asarray(jnp.imag(z), size.dtype)
    return _clip(size * eta.reshape((1,) * (size.ndim - 1 - eta.ndim) + (*eta.shape, 1)))


def _complex_energy(energy: ArrayLike, eta: ArrayLike | None) -> Any:
    array = energy if isinstance(energy, jax.Array) else np.asarray(energy)
    if array.dtype.kind in "OSU":
        raise TypeError(f"energy must be a number or an array of them, got {energy!r}")
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        if eta is not None:
            raise ValueError("eta must be left out when energy is complex: it is Im energy")
        return energy
    eta = 1.0 if eta is None else eta
    known = _checks.known("eta", eta)
    if known is not None and not np.all((known > 0) & (known < np.inf)):
        raise ValueError(f"eta must be real and positive, and finite, got {eta!r}")
    if _checks.concrete(energy) is not None and known is not None:
        return np.asarray(energy) + 1j * known
    parts = [jnp.asarray(part) for part in (energy, eta)]
    wide = any(part.dtype == jnp.float64 for part in parts)
    parts = [part.astype(jnp.float64 if wide else jnp.float32) for part in parts]
    return lax.complex(*jnp.broadcast_arrays(*parts))


def _absolute(green: jax.Array) -> jax.Array:
    """|G| with a finite gradient where G underflows to 0."""
    square = green.real**2 + green.imag**2
    zero = square == 0
    return jnp.where(zero, jnp.zeros_like(square), jnp.sqrt(jnp.where(zero, 1, square)))


def _clip(values: jax.Array) -> jax.Array:
    return values + lax.stop_gradient(jnp.clip(values, 0, 1) - values)
