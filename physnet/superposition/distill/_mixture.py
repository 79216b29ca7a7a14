"""The mixture of teachers: a weighted mean of probabilities, formed in log space."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks


def mixture_log_probs(
    teacher_logits: Float[Array, "K *b V"],
    weights: ArrayLike | None = None,
    *,
    temperature: ArrayLike = 1.0,
) -> Float[Array, "*b V"]:
    r"""Log-probabilities of a weighted mixture of teachers: what a student is to imitate.

        log m_v = log sum_k P_k softmax(t_k / T)_v,   P_k = w_k / sum_j w_j

    A mean of probabilities, not of logits or of parameters: where teachers disagree it is less
    sure than any of them. All is done in log space, at least in float32. A class that every teacher
    rules out by a logit of -inf stays at -inf, with zero derivatives.

    Args:
        teacher_logits: (K, ..., V), teachers on axis 0; logits or log-probabilities.
        weights: w_k >= 0, not necessarily normalised: (K,), or (K, ...) for each example, with
            axes of 1 where they are the same; None weighs all alike. A teacher of weight 0 takes
            no part, even where its logits are NaN. Under jit, negative weights and sums of 0 or
            infinity make NaN.
        temperature: T > 0, of all teachers.

    Returns:
        (..., V), float32 (float64 from float64), normalised.

    Raises:
        ValueError: No teacher; weights of another shape, or known to be negative or without a
            positive, finite sum; a temperature that is known not to be positive.
        TypeError: Logits that are not real floating-point arrays, weights that are not real.

    Example:
        >>> import jax.numpy as jnp
        >>> sure_and_not = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5]]))
        >>> [round(float(p), 3) for p in jnp.exp(mixture_log_probs(sure_and_not, jnp.ones(2)))]
        [0.7, 0.3]
    """
    ready = prepared(None, teacher_logits, weights, temperature)
    return log_mixture(ready.teachers, ready.weights)


class Ready(NamedTuple):
    """Checked arguments in the dtype of the sums, with logits divided by the temperature."""

    student: jax.Array  # (..., V)
    teachers: jax.Array  # (K, ..., V)
    weights: jax.Array  # (K, ...) with axes of 1, their sum 1


def prepared(
    student_logits: Any, teacher_logits: Any, weights: Any, temperature: ArrayLike
) -> Ready:
    """Arguments as the sums take them; without a student, the first teacher in its place."""
    teachers = _checks.real("teacher_logits", teacher_logits)
    if teachers.ndim < 2 or 0 in (teachers.shape[0], teachers.shape[-1]):
        raise ValueError(
            "teacher_logits must have shape (K, ..., V) with K, V >= 1, teachers on axis 0, got "
            f"{teachers.shape}"
        )
    student = teachers[0]
    if student_logits is not None:
        student = _checks.real("student_logits", student_logits)
    if student.shape != teachers.shape[1:]:
        raise ValueError(
            f"student_logits (..., V) and teacher_logits (K, ..., V) do not fit: got "
            f"{student.shape} and {teachers.shape}"
        )
    dtype = jnp.float64 if jnp.float64 in (student.dtype, teachers.dtype) else jnp.float32
    weights = shares(weights, teachers.shape[:-1], dtype)
    teachers = without_broken(teachers.astype(dtype), weights)
    student = softened(student.astype(dtype), temperature)
    return Ready(student, softened(teachers, temperature), weights)


def without_broken(teachers: jax.Array, weights: jax.Array) -> jax.Array:
    """Teachers of weight 0 that have no distribution (NaN, inf) count as uniform ones.

    Replaced before the softmax: behind it, NaN would come back with its derivative.
    """
    broken = jnp.any(~(teachers < jnp.inf), -1) | jnp.all(teachers == -jnp.inf, -1)
    return jnp.where((broken & (weights == 0))[..., None], jnp.zeros_like(teachers), teachers)


def shares(weights: Any, shape: tuple[int, ...], dtype: Any) -> jax.Array:
    """Weights of sum 1 over axis 0, with as many axes as `shape` = (K, ...)."""
    if weights is None:
        return jnp.full((shape[0],) + (1,) * (len(shape) - 1), 1 / shape[0], dtype)
    weights = _checks.array("weights", weights)
    if jnp.issubdtype(weights.dtype, jnp.complexfloating):
        raise TypeError(f"weights must be real, got dtype {weights.dtype}")
    fits = weights.ndim == len(shape) and all(
        size in (1, full) for size, full in zip(weights.shape[1:], shape[1:], strict=True)
    )
    if weights.shape[:1] != shape[:1] or not (weights.ndim == 1 or fits):
        raise ValueError(
            f"weights must have shape ({shape[0]},), or {shape} with axes of 1 behind the first, "
            f"got {weights.shape}"
        )
    known = _checks.concrete(weights)
    if known is not None:
        with np.errstate(over="ignore"):
            sums = np.sum(known.astype(dtype), 0)
        if not (np.all(known >= 0) and np.all((sums >= np.finfo(dtype).tiny) & (sums < np.inf))):
            raise ValueError(f"weights must be >= 0 with a positive, finite sum, got {weights}")
    weights = weights.astype(dtype).reshape(weights.shape + (1,) * (len(shape) - weights.ndim))
    total = jnp.sum(weights, 0, keepdims=True)
    # Over an infinite sum all would be 0, and the divergence of no mixture some finite number.
    return weights / jnp.where((total > 0) & (total < jnp.inf), total, jnp.nan)


def softened(logits: jax.Array, temperature: ArrayLike) -> jax.Array:
    """Logits over the temperature; -inf stays, without a derivative in the temperature."""
    if isinstance(temperature, (int, float)) and temperature == 1:
        return logits
    temperature = _checks.one_positive("temperature", temperature, logits.dtype)
    masked = logits == -jnp.inf
    return jnp.where(masked, logits, jnp.where(masked, 0.0, logits) / temperature)


def log_weights(weights: jax.Array) -> jax.Array:
    """log w as (K, ..., 1), -inf without a derivative at 0."""
    none = weights == 0
    some = jnp.where(none, jnp.ones_like(weights), weights)
    return jnp.where(none, -jnp.inf, jnp.log(some))[..., None]


@jax.custom_jvp
def log_mixture(teachers: jax.Array, weights: jax.Array) -> jax.Array:
    """log sum_k P_k softmax(t_k), of weights P_k that sum to 1: (K, ..., V) to (..., V)."""
    # Of one teacher P = 1, and this returns its log-probabilities to the bit.
    return jax.nn.logsumexp(log_weights(weights) + jax.nn.log_softmax(teachers), 0)


def _log_mixture_jvp(primals, tangents):
    teachers, weights = primals
    to_teachers, to_weights = tangents
    mixed = log_mixture(teachers, weights)
    each = jax.nn.log_softmax(teachers)
    masked = mixed == -jnp.inf
    base = jnp.where(masked, 0.0, mixed)[None]
    moved = jnp.zeros_like(mixed)
    if not isinstance(to_teachers, SymbolicZero):
        mean = jnp.sum(jnp.exp(each) * to_teachers, -1, keepdims=True)
        share = jnp.exp(log_weights(weights) + each - base)  # of teacher k in what m_v is
        moved += jnp.sum(share * (to_teachers - mean), 0)
    if not isinstance(to_weights, SymbolicZero):
        moved += jnp.sum(jnp.exp(each - base) * to_weights[..., None], 0)
    return mixed, jnp.where(masked, 0.0, moved)


log_mixture.defjvp(_log_mixture_jvp, symbolic_zeros=True)
