"""Teachers of one architecture, applied side by side: what their mixture says of inputs."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet.superposition.distill import _mixture


def ensemble_log_probs(
    teachers: Any,
    inputs: Any,
    *,
    apply: Callable[..., Any],
    weights: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
    chunk: int | None = None,
) -> Float[Array, "*b V"]:
    r"""Log-probabilities of the mixture of stacked teachers on a batch: targets for a student.

    `mixture_log_probs` of vmapped logits. With `chunk` so many teachers are applied at once and
    summed up one chunk after another: activations and logits of the others are never held. The
    result is a constant to derivatives.

    Args:
        teachers: a pytree of parameters stacked on axis 0 (K), as `jax.vmap` of a training makes
            them.
        inputs: what `apply` takes: of one example, a batch, or sequences (B, T).
        apply: apply(params, inputs) -> logits (..., V), of one teacher.
        weights: P_k >= 0 up to normalisation: (K,), or (K, ...) for each example; None weighs all
            alike.
        temperature: T > 0.
        chunk: teachers at once; None takes all.

    Returns:
        (..., V), float32 (float64 from float64).

    Raises:
        ValueError: Teachers without a common first axis, a chunk < 1, and as `mixture_log_probs`.
        TypeError: Logits that are not real floating-point arrays.

    Example:
        >>> import jax.numpy as jnp
        >>> slopes = jnp.array([[1.0, 0.0], [0.0, 1.0], [3.0, 1.0]])  # three linear teachers
        >>> apply = lambda params, x: x[:, None] * params[None]
        >>> found = ensemble_log_probs(slopes, jnp.array([0.0, 2.0]), apply=apply, chunk=2)
        >>> [[round(float(p), 3) for p in row] for row in jnp.exp(found)]
        [[0.5, 0.5], [0.661, 0.339]]
    """
    count = _checks.stacked("teachers", teachers, "that of teachers")
    size = count if chunk is None else min(_checks.positive_int("chunk", chunk), count)
    inputs = jax.tree.map(lambda x: _checks.array("inputs", x), inputs)
    teachers, inputs = lax.stop_gradient((teachers, inputs))

    _checks.function("apply", apply)
    one = jax.eval_shape(apply, jax.tree.map(lambda leaf: leaf[0], teachers), inputs)
    array = isinstance(one, jax.ShapeDtypeStruct)
    if not array or not jnp.issubdtype(one.dtype, jnp.floating) or one.ndim < 1:
        raise TypeError(f"apply must return real floating-point logits (..., V), got {one}")
    dtype = jnp.float64 if one.dtype == jnp.float64 else jnp.float32
    shares = _mixture.shares(weights, (count, *one.shape[:-1]), dtype)

    def part(some, share):
        logits = jax.vmap(apply, (0, None))(some, inputs).astype(dtype)
        logits = _mixture.softened(_mixture.without_broken(logits, share), temperature)
        return _mixture.log_mixture(logits, share)

    whole = count // size * size
    first = jax.tree.map(lambda leaf: leaf[:size], (teachers, shares))
    found = part(*first)
    if whole > size:
        chunks = jax.tree.map(
            lambda leaf: leaf[size:whole].reshape(whole // size - 1, size, *leaf.shape[1:]),
            (teachers, shares),
        )

        def add(total, these):
            return jnp.logaddexp(total, part(*these)), None

        found, _ = lax.scan(add, found, chunks)
    if whole < count:
        rest = jax.tree.map(lambda leaf: leaf[whole:], (teachers, shares))
        found = jnp.logaddexp(found, part(*rest))
    return lax.stop_gradient(found)
