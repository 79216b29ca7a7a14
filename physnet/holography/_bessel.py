"""The Matern function, that is the modified Bessel function K_nu times a power, of any order."""

import math

import jax.numpy as jnp
from jax import lax
from jax.scipy.special import gammaln
from jaxtyping import Array, Float

_NODES = 128


def matern(x: Float[Array, "*b"], order: float | Float[Array, ""]) -> Float[Array, "*b"]:
    r"""2^{1-nu} / Gamma(nu) x^nu K_nu(x) for x >= 0: 1 at x = 0, falling as e^{-x}.

    It is the mean of e^{-x^2 / 4s} over s ~ Gamma(nu): an integral of positive terms over log s.
    The trapezoidal rule on it converges geometrically: no cancellation at any x and nu > 0.
    Half-integer orders up to 7/2, given as Python numbers, are polynomials times e^{-x}.
    """
    if isinstance(order, float | int) and 2 * order in (1, 3, 5, 7):
        return _polynomial(x, round(order - 0.5))
    return _integral(x, jnp.asarray(order, x.dtype))


def _polynomial(x: Array, degree: int) -> Array:
    # reverse Bessel polynomial: theta_n(x) / theta_n(0)
    factorial = math.factorial
    terms = [
        factorial(2 * degree - k) / (factorial(k) * factorial(degree - k)) * 2.0**k
        for k in range(degree + 1)
    ]
    fall = jnp.exp(-x)
    x = jnp.minimum(x, 800.0)  # where e^{-x} is 0: a power of x may be infinite
    total = jnp.full_like(x, terms[-1] / terms[0])
    for term in reversed(terms[:-1]):
        total = total * x + term / terms[0]
    return total * fall


def _integral(x: Array, order: Array) -> Array:
    # Below `tiny` two terms of the series are exact to rounding; above `huge` all underflows.
    tiny, huge = 1e-8, 700.0
    inside = (x > tiny) & (x < huge)
    safe = jnp.where(inside, x, 1.0)
    fixed, nu = lax.stop_gradient(safe), lax.stop_gradient(order)
    # Integrand exp(nu t - x cosh t) in t = log(2 s / x): around its peak R (1 - cosh tau) at least
    # on the right; on the left the nearer of two bounds.
    cut = 42.0
    radius = jnp.hypot(fixed, nu)
    peak = jnp.arcsinh(nu / fixed)
    right = peak + jnp.arccosh(1 + cut / radius)
    left = peak - jnp.minimum(jnp.arccosh(1 + cut / fixed) + peak, cut / nu + 2)
    share = jnp.linspace(0.0, 1.0, _NODES, dtype=x.dtype).reshape(-1, *(1,) * x.ndim)
    t = left[None] + (right - left)[None] * share
    step = (right - left) / (_NODES - 1)
    # The same in u = log s, so that x and nu have their derivatives at fixed nodes.
    u = t + jnp.log(fixed / 2)[None]
    square = (safe / 2) ** 2
    exponent = order * u - jnp.exp(u) - square[None] * jnp.exp(-u) - gammaln(order)
    found = jnp.sum(jnp.exp(exponent), 0) * step
    less = jnp.where(order < 0.9, order, 0.5)
    # Gamma(1 - nu) / Gamma(1 + nu) (x / 2)^{2 nu}; at x = 0 itself nothing is left to differ from 1
    near = jnp.where((x > 0) & (x <= tiny), x, tiny)
    bend = jnp.exp(2 * less * jnp.log(near / 2) + gammaln(1 - less) - gammaln(1 + less))
    start = 1 - jnp.where((x > 0) & (order < 0.9), bend, 0.0)
    found = jnp.where(inside, found, jnp.where(x >= huge, 0.0, start))
    return jnp.where(jnp.isnan(x), x, found)
