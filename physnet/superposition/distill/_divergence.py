"""Relative entropies between a student and a mixture of teachers, with derivatives in closed form.

With s, m, p_k the probabilities of student, mixture and teacher k, a = log m - log s, and
r_k = P_k p_k / m the part that a teacher has in the mixture:

    F = KL(m || s):    dF/du = s - m             dF/dt_k = P_k p_k (a - sum p_k a)
    R = KL(s || m):    dR/du = -s (a + R)        dR/dt_k = p_k (sum s r_k) - s r_k

Autodiff would meet 0 * inf at classes of probability 0 on the way.
"""

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet.superposition.distill import _mixture


def mixture_kl(
    student_logits: Float[Array, "*b V"],
    teacher_logits: Float[Array, "K *b V"],
    weights: ArrayLike | None = None,
    *,
    temperature: ArrayLike = 1.0,
) -> Float[Array, "*b"]:
    r"""KL(mixture || student): the student is to cover all that some teacher thinks possible.

        sum_v m_v (log m_v - log s_v),   m = sum_k P_k softmax(t_k / T),   s = softmax(u / T)

    Up to the entropy of the mixture this is the cross-entropy with soft labels m: the divergence
    of knowledge distillation, here without its factor T^2 (`objective` has it). It is
    `optax.losses.kl_divergence(log_s, m)`, whose arguments stand in the opposite order (predictions
    first, then targets) of those of its KL(targets || predictions); `reverse_mixture_kl` is the
    other direction.

    Each term is formed as m log(m/s) - m + s >= 0, so that close to 0 the sum keeps its digits; of
    one teacher it is exactly 0 at the student that equals it. Gradients (s - m) / T to the student
    are finite for any logits < inf. A class that a student rules out (-inf) and a teacher does not
    makes the value inf.

    Args:
        student_logits: (..., V), of any floating dtype; sums are at least float32.
        teacher_logits: (K, ..., V), teachers on axis 0; log-probabilities serve as well.
        weights: P_k >= 0 up to normalisation: (K,), or (K, ...) for each example; None weighs all
            alike.
        temperature: T > 0, of student and teachers.

    Returns:
        (...), nats for each example, float32 (float64 from float64).

    Raises:
        ValueError: Shapes that do not fit; weights known to be negative or without a positive,
            finite sum; a temperature that is known not to be positive.
        TypeError: Logits that are not real floating-point arrays, weights that are not real.

    Example:
        >>> import jax.numpy as jnp
        >>> teachers = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5]]))
        >>> student = jnp.log(jnp.array([0.9, 0.1]))
        >>> print(f"{mixture_kl(student, teachers):.4f}")
        0.1537
        >>> print(f"{mixture_kl(student, teachers, jnp.array([1.0, 0.0])):.4f}")
        0.0000

    References:
        Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015).
    """
    student_logits = _checks.real("student_logits", student_logits)
    ready = _mixture.prepared(student_logits, teacher_logits, weights, temperature)
    return _forward(ready.student, ready.teachers, ready.weights)


def reverse_mixture_kl(
    student_logits: Float[Array, "*b V"],
    teacher_logits: Float[Array, "K *b V"],
    weights: ArrayLike | None = None,
    *,
    temperature: ArrayLike = 1.0,
) -> Float[Array, "*b"]:
    r"""KL(student || mixture): the student is to claim nothing that no teacher thinks possible.

        sum_v s_v (log s_v - log m_v),   m = sum_k P_k softmax(t_k / T),   s = softmax(u / T)

    A student that cannot be equal to the mixture prefers one of its modes, and is surer than the
    mixture. The same care as in `mixture_kl` for digits near 0. A class that all teachers rule out
    (-inf) and the student does not makes the value inf, and then it has no gradient (NaN): mask the
    student there as well.

    Args:
        student_logits: (..., V), of any floating dtype; sums are at least float32.
        teacher_logits: (K, ..., V), teachers on axis 0; log-probabilities serve as well.
        weights: P_k >= 0 up to normalisation: (K,), or (K, ...) for each example; None weighs all
            alike.
        temperature: T > 0, of student and teachers.

    Returns:
        (...), nats for each example, float32 (float64 from float64).

    Raises:
        ValueError, TypeError: As `mixture_kl`.

    Example:
        >>> import jax.numpy as jnp
        >>> teachers = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5]]))
        >>> student = jnp.log(jnp.array([0.9, 0.1]))
        >>> print(f"{reverse_mixture_kl(student, teachers):.4f}")
        0.1163

    References:
        Gu, Dong, Wei and Huang, "MiniLLM: knowledge distillation of large language models" (2024),
        for this direction.
    """
    student_logits = _checks.real("student_logits", student_logits)
    ready = _mixture.prepared(student_logits, teacher_logits, weights, temperature)
    return _reverse(ready.student, ready.teachers, ready.weights)


def _relative_entropy(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """sum p log(p/q) - p + q, without cancellation where p and q are close; p = 0 gives 0."""
    p, q = jnp.exp(log_p), jnp.exp(log_q)
    apart = jnp.where(log_p == -jnp.inf, 0.0, log_q - log_p)
    near = jnp.abs(apart) < 0.25
    small = jnp.where(near, apart, 0.0)
    series = jnp.zeros_like(small)
    for order in range(12, 1, -1):  # (e^x - 1 - x) / x^2 = 1/2 (1 + x/3 (1 + x/4 (1 + ...)))
        series = (1 + small * series) / order
    far = (q - p) - p * jnp.where(jnp.isfinite(apart), apart, 0.0)
    # Where p is 0 only by underflow, p * inf would be NaN.
    terms = jnp.where(near & (log_p > -jnp.inf), p * small * small * series, far)
    return jnp.sum(jnp.where(apart == -jnp.inf, jnp.inf, terms), -1)


def _log_ratio(mixed: jax.Array, student: jax.Array) -> jax.Array:
    """log m - log s; 0 at classes that both rule out."""
    both = (mixed == -jnp.inf) & (student == -jnp.inf)
    return jnp.where(both, 0.0, mixed - student)


def _finite_product(p: jax.Array, x: jax.Array) -> jax.Array:
    """p x, 0 where p is 0 whatever x."""
    return p * jnp.where(p == 0, 0.0, x)


@jax.custom_jvp
def _forward(student: jax.Array, teachers: jax.Array, weights: jax.Array) -> jax.Array:
    mixed = _mixture.log_mixture(teachers, weights)
    return _relative_entropy(mixed, jax.nn.log_softmax(student))


def _forward_jvp(primals, tangents):
    student, teachers, weights = primals
    to_student, to_teachers, to_weights = tangents
    mixed = _mixture.log_mixture(teachers, weights)
    log_s = jax.nn.log_softmax(student)
    value = _forward(student, teachers, weights)
    moved = jnp.zeros_like(value)
    if not isinstance(to_student, SymbolicZero):
        moved += jnp.sum((jnp.exp(log_s) - jnp.exp(mixed)) * to_student, -1)
    fixed = isinstance(to_teachers, SymbolicZero) and isinstance(to_weights, SymbolicZero)
    if not fixed:
        each = jnp.exp(jax.nn.log_softmax(teachers))
        ratio = _log_ratio(mixed, log_s)[None]
        mean = jnp.sum(_finite_product(each, ratio), -1, keepdims=True)
        if not isinstance(to_teachers, SymbolicZero):
            slope = weights[..., None] * _finite_product(each, ratio - mean)
            moved += jnp.sum(slope * to_teachers, (0, -1))
        if not isinstance(to_weights, SymbolicZero):
            moved += jnp.sum(mean[..., 0] * to_weights, 0)  # tangents of weights sum to 0
    return value, moved


_forward.defjvp(_forward_jvp, symbolic_zeros=True)


@jax.custom_jvp
def _reverse(student: jax.Array, teachers: jax.Array, weights: jax.Array) -> jax.Array:
    mixed = _mixture.log_mixture(teachers, weights)
    return _relative_entropy(jax.nn.log_softmax(student), mixed)


def _reverse_jvp(primals, tangents):
    student, teachers, weights = primals
    to_student, to_teachers, to_weights = tangents
    mixed = _mixture.log_mixture(teachers, weights)
    log_s = jax.nn.log_softmax(student)
    s = jnp.exp(log_s)
    value = _reverse(student, teachers, weights)
    moved = jnp.zeros_like(value)
    if not isinstance(to_student, SymbolicZero):
        ratio = _log_ratio(mixed, log_s)
        mean = jnp.sum(_finite_product(s, ratio), -1, keepdims=True)
        moved += jnp.sum(_finite_product(s, mean - ratio) * to_student, -1)
    each = jax.nn.log_softmax(teachers)
    lift = (log_s - jnp.where(mixed == -jnp.inf, 0.0, mixed))[None]  # log(s / m)
    if not isinstance(to_teachers, SymbolicZero):
        mass = jnp.exp(_mixture.log_weights(weights) + each + lift)  # s P_k p_k / m
        slope = jnp.exp(each) * jnp.sum(mass, -1, keepdims=True) - mass
        moved += jnp.sum(slope * to_teachers, (0, -1))
    if not isinstance(to_weights, SymbolicZero):
        moved -= jnp.sum(jnp.sum(jnp.exp(each + lift), -1) * to_weights, 0)
    return value, moved


_reverse.defjvp(_reverse_jvp, symbolic_zeros=True)
