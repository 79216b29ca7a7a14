"""y_i = A_i y_{i-1} + s_i over the leading axis, as one linear solve.

`custom_linear_solve` derives forward mode, transpose, batching and all higher orders from the two
scans below; what they keep is A and y, O(n).
"""

import jax
import jax.numpy as jnp
from jax import lax

from physnet.greens._planes import Planes, add, conjugate, multiply, shift, subtract


def recurrence(factor: Planes, source: Planes) -> Planes:
    """Solve y_i - A_i y_{i-1} = s_i with y_{-1} = 0.

    Args:
        factor: A (n, *b); A_0 is not used. Axes of size 1 broadcast.
        source: s (n, *batch).

    Returns:
        y (n, *batch).
    """
    return lax.custom_linear_solve(
        lambda y: subtract(y, multiply(factor, shift(y))),
        source,
        solve=lambda _, s: _forward(factor, s),
        transpose_solve=lambda _, s: _backward(conjugate(factor), s),
    )


@jax.jit
def _forward(factor: Planes, source: Planes) -> Planes:
    def step(y, xs):
        a, s = xs
        y = add(multiply(a, y), s)
        return y, y

    return lax.scan(step, _zero(source), (factor, source))[1]


@jax.jit
def _backward(factor: Planes, source: Planes) -> Planes:
    """y_i = A_{i+1} y_{i+1} + s_i."""

    def step(carry, xs):
        a, s = xs
        y = add(carry, s)
        return multiply(a, y), y

    return lax.scan(step, _zero(source), (factor, source), reverse=True)[1]


def _zero(x: Planes) -> Planes:
    return jax.tree.map(lambda p: jnp.zeros_like(p[0]), x)
