"""Parameters that stay (semi-)orthogonal: a first value and a retraction after each step."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from physnet import _checks
from physnet.optim import _charts, _leaves
from physnet.optim._polar_factor import polar_factor


def orthogonal_initializer(*, gain: float | Float[Array, ""] = 1.0) -> Callable[..., Array]:
    """Random (semi-)orthogonal matrices, uniform (Haar), as an initialiser of jax.nn's form.

    The polar factor of a Gaussian matrix, by matrix products. Unlike
    `jax.nn.initializers.orthogonal` each matrix of a stack (L, n, m) is one by itself.

    Args:
        gain: All singular values.

    Returns:
        init(key, shape, dtype=float), with shape (..., n, m).

    Raises:
        ValueError: From init, a shape without two axes.
        TypeError: From init, a dtype that is not real floating.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> w = orthogonal_initializer(gain=2.0)(jax.random.key(0), (3, 8, 4))
        >>> print(abs(w[1].T @ w[1]).round(4)[0])
        [4. 0. 0. 0.]

    References:
        Saxe, McClelland and Ganguli, "Exact solutions to the nonlinear dynamics of learning in deep
        linear neural networks", ICLR 2014, arXiv:1312.6120.
    """
    _charts.one_number(gain=gain)

    def init(key: Array, shape: Any, dtype: Any = float, **others: Any) -> Array:
        _checks.key("key", key)
        shape = tuple(_checks.positive_int("shape", n, minimum=0) for n in shape)
        dtype = jax.dtypes.canonicalize_dtype(dtype)
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(f"dtype must be real floating, got {dtype}")
        if len(shape) < 2:
            raise ValueError(f"shape must be (..., n, m), got {tuple(shape)}")
        wide = _leaves.wide(jnp.zeros((), dtype)).dtype
        found = polar_factor(jax.random.normal(key, tuple(shape), wide))
        return (jnp.asarray(gain, wide) * found).astype(dtype)

    return init


def orthogonal_retraction(*, gain: float | Float[Array, ""] = 1.0) -> optax.GradientTransformation:
    """Put matrices back on the (semi-)orthogonal set after each step, for optax.

        W <- gain polar((W + update) / gain)

    Last in a chain, under `optax.masked` or `optax.partition` for the matrices that it is meant
    for: a stack of biases (L, n) would pass for a matrix too.

        chosen = {"w": True, "b": False}
        optax.chain(optax.adam(1e-3), optax.masked(orthogonal_retraction(), chosen))

    Args:
        gain: All singular values, > 0.

    Returns:
        An `optax.GradientTransformation` whose update needs `params`; leaves (..., n, m), each
        matrix by itself. A matrix near the set takes up to 8 steps of `polar_factor`, and is off by
        the rounding of its own dtype; one step from anywhere leads there. NaN stays in its matrix.

    Raises:
        ValueError: From update, no params, or a leaf without two axes.
        TypeError: A leaf that is not real floating.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> optimiser = optax.chain(optax.sgd(0.5), orthogonal_retraction())
        >>> w, aim = jnp.eye(2), jnp.array([[0.0, -1.0], [1.0, 0.0]])
        >>> updates, _ = optimiser.update(w - aim, optimiser.init(w), w)
        >>> print(optax.apply_updates(w, updates).round(4))      # half of the way, a rotation
        [[ 0.7071 -0.7071]
         [ 0.7071  0.7071]]

    References:
        Absil, Mahony and Sepulchre, "Optimization algorithms on matrix manifolds", Princeton 2008,
        section 4.1.1 (the polar retraction).
    """
    _charts.one_number(gain=gain)
    known = _checks.known("gain", gain)
    if known is not None and not known > 0:
        raise ValueError(f"gain must be > 0, got {gain!r}")

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        _leaves.needs_params("orthogonal_retraction", params, updates)

        def one(step, old):
            if step is None:
                return (None,)
            old = _checks.real("orthogonal_retraction: params", old)
            if old.ndim < 2:
                raise ValueError(
                    "orthogonal_retraction needs matrices (..., n, m), got a leaf of shape "
                    f"{old.shape}: choose the matrices by optax.masked"
                )
            here = _leaves.wide(old)
            scale = jnp.asarray(gain, here.dtype)
            new = scale * polar_factor((here + jnp.asarray(step, here.dtype)) / scale)
            return ((new - here).astype(old.dtype),)

        return _leaves.map_leaves(one, updates, params)[0], state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
