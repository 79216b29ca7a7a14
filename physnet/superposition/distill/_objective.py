"""What a student minimises: a divergence from the mixture, and the loss of known labels."""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from physnet import _checks
from physnet.superposition.distill import _divergence, _mixture

Direction = Literal["forward", "reverse"]


class Losses(NamedTuple):
    """Losses of a batch.

    Attributes:
        total: what is minimised.
        divergence: mean of the KL divergence over all entries that count, in nats.
        cross_entropy: mean over the labelled ones, in nats; 0 where there is none.
    """

    total: jax.Array
    divergence: jax.Array
    cross_entropy: jax.Array


def objective(
    student_logits: Float[Array, "*b V"],
    targets: Float[Array, "*b V"] | None,
    *,
    labels: Int[Array, "*b"] | None = None,
    direction: Direction = "forward",
    hard_weight: ArrayLike = 0.0,
    temperature: ArrayLike = 1.0,
    mask: Bool[Array, "*b"] | None = None,
) -> Losses:
    r"""A student's loss on a batch: KL to the mixture of teachers, and cross-entropy of labels.

        (1 - h) T^2 mean KL + h mean_labelled(-log s_label)

    T^2 keeps the gradient's size as T grows. Inputs without a label (a transfer set, of which there
    may be many more) take part in the KL alone: labelled and unlabelled ones may share a batch.
    Without targets, h = 1 and labels are needed: so teachers are trained.

    Args:
        student_logits: (..., V): of a batch, or of all tokens of sequences (B, T, V).
        targets: (..., V), log-probabilities of the mixture at this temperature, from
            `ensemble_log_probs` or `mixture_log_probs`; or None.
        labels: (...), integers; negative where there is none. None: nowhere. One that is no class
            (>= V) makes the loss NaN.
        direction: "forward" is KL(mixture || student), "reverse" is KL(student || mixture).
        hard_weight: h in [0, 1].
        temperature: T > 0, of the divergence; labels are always met at T = 1.
        mask: (...), True where an entry counts (False: padding, whose logits may be NaN).

    Returns:
        `Losses`, three numbers.

    Raises:
        ValueError: Shapes that do not fit, an unknown direction, a temperature that is known not
            to be positive, a hard weight that is not one number or known to be outside [0, 1]; no
            targets, and not labels with hard_weight=1.
        TypeError: Logits that are not real floating-point arrays, labels that are no integers, a
            mask that is not boolean.

    Example:
        >>> import jax.numpy as jnp
        >>> student = jnp.log(jnp.array([[0.5, 0.5], [0.5, 0.5]]))
        >>> targets = jnp.log(jnp.array([[0.9, 0.1], [0.5, 0.5]]))
        >>> loss = objective(student, targets, labels=jnp.array([0, -1]), hard_weight=0.5)
        >>> print(f"{loss.divergence:.4f} {loss.cross_entropy:.4f} {loss.total:.4f}")
        0.1840 0.6931 0.4386

    References:
        Hinton, Vinyals and Dean, "Distilling the knowledge in a neural network" (2015).
    """
    _checks.one_of("direction", direction, ("forward", "reverse"))
    share = _checks.known("hard_weight", hard_weight)
    outside = share is not None and not np.all((share >= 0) & (share <= 1))
    if np.shape(hard_weight) != () or outside:
        raise ValueError(f"hard_weight must be one number in [0, 1], got {hard_weight}")
    alone = labels is not None and share is not None and np.all(share == 1)
    if targets is None and not alone:
        raise ValueError("targets must be given, or labels with hard_weight=1")
    student = _logits("student_logits", student_logits)
    others = student if targets is None else _logits("targets", targets)
    if others.shape != student.shape:
        raise ValueError(
            f"targets must have the shape {student.shape} of student_logits, got {others.shape}"
        )
    wide = jnp.float64 if jnp.float64 in (student.dtype, others.dtype) else jnp.float32
    student, others = student.astype(wide), others.astype(wide)
    shape = student.shape[:-1]
    counts = jnp.ones(shape, bool)
    if mask is not None:
        counts = _of_shape("mask", mask, shape)
        if counts.dtype != bool:
            raise TypeError(f"mask must be boolean, got dtype {counts.dtype}")
        # Before the divergence: behind it, NaN of padding would come back with the gradient.
        student, others = (jnp.where(counts[..., None], x, 0.0) for x in (student, others))
    loss = jnp.zeros((), student.dtype)
    if targets is not None:
        soft = _mixture.softened(student, temperature)
        kl = _divergence.mixture_kl if direction == "forward" else _divergence.reverse_mixture_kl
        loss = _mean(kl(soft, others[None]), counts)

    labelled = jnp.zeros(shape, bool)
    hard = jnp.zeros(shape, student.dtype)
    if labels is not None:
        labels = _of_shape("labels", labels, shape)
        if not jnp.issubdtype(labels.dtype, jnp.integer):
            raise TypeError(f"labels must be integers, got dtype {labels.dtype}")
        labelled = (labels >= 0) & counts
        at = jnp.maximum(labels, jnp.zeros_like(labels))[..., None]
        hard = -jnp.take_along_axis(jax.nn.log_softmax(student), at, -1)[..., 0]
    known = _mean(hard, labelled)

    share = jnp.asarray(hard_weight, student.dtype)
    scale = jnp.asarray(temperature, student.dtype) ** 2
    # An infinite loss that has no weight must not make 0 * inf.
    soft = jnp.where(share == 1, 0.0, (1 - share) * scale * loss)
    return Losses(soft + jnp.where(share == 0, 0.0, share * known), loss, known)


def _logits(name: str, value: ArrayLike) -> jax.Array:
    array = _checks.real(name, value)
    if array.ndim < 1 or array.shape[-1] == 0:
        raise ValueError(f"{name} must have shape (..., V) with V >= 1, got {array.shape}")
    return array


def _of_shape(name: str, value: ArrayLike, shape: tuple[int, ...]) -> jax.Array:
    array = _checks.array(name, value)
    if array.shape != shape:
        raise ValueError(f"{name} must have the shape {shape} of the examples, got {array.shape}")
    return array


def _mean(values: jax.Array, where: jax.Array) -> jax.Array:
    """Mean of the values that count; 0 of none."""
    count = jnp.sum(where, dtype=values.dtype)
    return jnp.sum(jnp.where(where, values, 0.0)) / jnp.maximum(count, jnp.ones_like(count))
