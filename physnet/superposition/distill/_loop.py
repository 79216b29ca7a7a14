"""Distillation by gradient steps: init and step for loops of one's own, and a loop over arrays."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Bool, Float, Int

from physnet import _checks
from physnet.superposition.distill import _teachers
from physnet.superposition.distill._objective import Direction, Losses, objective


class State(NamedTuple):
    """A student and its optimiser.

    Attributes:
        params: of the student, the user's pytree.
        optimiser: the optimiser's state.
    """

    params: Any
    optimiser: Any


def init(params: Any, *, optimiser: Any) -> State:
    """A student at the start.

    Args:
        params: a pytree of floating-point arrays, in the structure that `apply` takes.
        optimiser: an `optax.GradientTransformation`.

    Returns:
        A `State`.
    """
    return State(params, optimiser.init(params))


def step(
    state: State,
    inputs: Any,
    *,
    apply: Callable[..., Any],
    optimiser: Any,
    targets: Float[Array, "*b V"] | None = None,
    teachers: Any = None,
    teacher_apply: Callable[..., Any] | None = None,
    weights: ArrayLike | None = None,
    labels: Int[Array, "*b"] | None = None,
    mask: Bool[Array, "*b"] | None = None,
    direction: Direction = "forward",
    hard_weight: ArrayLike = 0.0,
    temperature: ArrayLike = 1.0,
    chunk: int | None = None,
    key: jax.Array | None = None,
) -> tuple[State, Losses]:
    r"""One update of a student on a batch: `objective`, its gradient, and the optimiser.

    What the teachers say is either there (`targets`, made once by `ensemble_log_probs`) or found
    here from their parameters, for inputs that are seen once or augmented. Pure: it runs under jit
    (with apply, optimiser, direction and chunk fixed), scan, and vmap over students.

    Args:
        state: from `init`.
        inputs: a batch, as `apply` takes it; tokens (B, T) of a sequence model are B T examples.
        apply: apply(params, inputs) -> logits (..., V); with a `key`,
            apply(params, inputs, key=key), for dropout.
        optimiser: an `optax.GradientTransformation`.
        targets: (..., V) log-probabilities of the mixture at this temperature.
        teachers: in their place, parameters stacked on axis 0 (K). With neither of them, labels
            and hard_weight=1 train a teacher.
        teacher_apply: of the teachers, where it is not the student's; never given a key.
        weights: P_k of the teachers, (K,) or (K, ...); None weighs all alike.
        labels: (...), integers, negative where there is none.
        mask: (...), True where an example counts.
        direction: "forward" is KL(mixture || student), "reverse" is KL(student || mixture).
        hard_weight: share of the labels' cross-entropy in the loss, in [0, 1].
        temperature: T > 0 of the divergence.
        chunk: teachers at once; None takes all.
        key: for a student that draws.

    Returns:
        The new `State`, and the `Losses` of the batch before the update.

    Raises:
        ValueError: Both targets and teachers, or neither where the loss needs them; and as
            `objective` and `ensemble_log_probs`.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> apply = lambda params, x: x @ params
        >>> teachers = jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
        >>> x = jax.random.normal(jax.random.key(0), (64, 2))
        >>> state = init(jnp.zeros((2, 2)), optimiser=optax.sgd(1.0))
        >>> @jax.jit
        ... def update(state):
        ...     return step(state, x, apply=apply, optimiser=optax.sgd(1.0), teachers=teachers)
        >>> for _ in range(100):
        ...     state, losses = update(state)
        >>> bool(losses.divergence < 1e-3)
        True
    """
    if targets is not None and teachers is not None:
        raise ValueError("targets and teachers must not both be given")
    if teachers is not None:
        targets = _teachers.ensemble_log_probs(
            teachers,
            inputs,
            apply=apply if teacher_apply is None else teacher_apply,
            weights=weights,
            temperature=temperature,
            chunk=chunk,
        )

    def loss(params):
        _checks.function("apply", apply)
        logits = apply(params, inputs) if key is None else apply(params, inputs, key=key)
        losses = objective(
            logits,
            targets,
            labels=labels,
            direction=direction,
            hard_weight=hard_weight,
            temperature=temperature,
            mask=mask,
        )
        return losses.total, losses

    _checks.instance("state", state, State)
    slope, losses = jax.grad(loss, has_aux=True)(state.params)
    updates, optimiser_state = optimiser.update(slope, state.optimiser, state.params)
    return State(jax.tree.map(_moved, state.params, updates), optimiser_state), losses


def fit(
    key: jax.Array,
    params: Any,
    inputs: Any,
    *,
    apply: Callable[..., Any],
    optimiser: Any,
    steps: int,
    batch_size: int,
    targets: Float[Array, "N *b V"] | None = None,
    teachers: Any = None,
    teacher_apply: Callable[..., Any] | None = None,
    weights: Float[Array, " K"] | None = None,
    labels: Int[Array, "N *b"] | None = None,
    mask: Bool[Array, "N *b"] | None = None,
    direction: Direction = "forward",
    hard_weight: ArrayLike = 0.0,
    temperature: ArrayLike = 1.0,
    chunk: int | None = None,
    stochastic: bool = False,
) -> tuple[Any, Losses]:
    """A student trained by `step` on batches drawn from arrays, as one program.

    Labelled inputs and a transfer set go in together: `labels` are negative on the latter. Where
    the teachers are given, each batch is shown to them as it comes; `ensemble_log_probs` makes
    targets once for all, which is cheaper after a few epochs and takes N V numbers.

    Args:
        key: draws batches, with replacement, and what a stochastic student draws.
        params: of the student at the start.
        inputs: an array, or a pytree of arrays, with N examples on axis 0.
        apply: as in `step`.
        optimiser: an `optax.GradientTransformation`.
        steps: how many.
        batch_size: examples in each.
        targets: (N, ..., V), or
        teachers: parameters stacked on axis 0 (K).
        labels: (N, ...), integers, negative where there is none.
        mask: (N, ...), True where an example counts.
        teacher_apply, weights, direction, hard_weight, temperature, chunk: as in `step`.
        stochastic: whether `apply` takes a key.

    Returns:
        The student's parameters, and `Losses` of all batches (steps,).

    Raises:
        ValueError: Inputs without a common first axis, or N of them and another number of targets,
            labels or of the mask; and as `step`.
        TypeError: steps or batch_size that are no ints.

    Example:
        >>> import jax, jax.numpy as jnp, optax
        >>> apply = lambda params, x: x @ params
        >>> teachers = jnp.stack([jnp.eye(2), 2 * jnp.eye(2)])
        >>> x = jax.random.normal(jax.random.key(0), (256, 2))
        >>> student, losses = fit(
        ...     jax.random.key(1), jnp.zeros((2, 2)), x, apply=apply, optimiser=optax.sgd(1.0),
        ...     steps=100, batch_size=32, teachers=teachers)
        >>> losses.total.shape, bool(losses.divergence[-1] < 1e-3)
        ((100,), True)
    """
    _checks.positive_int("steps", steps)
    batch_size = _checks.positive_int("batch_size", batch_size)
    key = _checks.key("key", key)
    params = jax.tree.map(lambda x: _checks.array("params", x), params)
    count = _checks.stacked("inputs", inputs, "that of examples")
    data = {"targets": targets, "labels": labels, "mask": mask}
    rows = {"inputs": inputs} | {name: x for name, x in data.items() if x is not None}
    rows = jax.tree.map(jnp.asarray, rows)  # a NumPy array takes no traced index
    for name, value in rows.items():
        if name != "inputs" and value.shape[:1] != (count,):
            raise ValueError(f"{name} must have {count} rows, as inputs, got shape {value.shape}")

    def one(state, key):
        draw, own = jax.random.split(key)
        at = jax.random.randint(draw, (batch_size,), 0, count, jnp.int32)
        batch = jax.tree.map(lambda x: x[at], rows)
        return step(
            state,
            batch.pop("inputs"),
            apply=apply,
            optimiser=optimiser,
            teachers=teachers,
            teacher_apply=teacher_apply,
            weights=weights,
            direction=direction,
            hard_weight=hard_weight,
            temperature=temperature,
            chunk=chunk,
            key=own if stochastic else None,
            **batch,
        )

    state, losses = lax.scan(one, init(params, optimiser=optimiser), jax.random.split(key, steps))
    return state.params, losses


def _moved(param: jax.Array, update: jax.Array) -> jax.Array:
    """The sum in at least float32, in the dtype of the parameter."""
    dtype = jnp.float64 if param.dtype == jnp.float64 else jnp.float32
    return (param.astype(dtype) + update.astype(dtype)).astype(param.dtype)
