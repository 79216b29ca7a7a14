"""Adam with a Fisher metric: momentum whose index is raised by F^{-1}, not by Adam's v^{-1/2}."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet.optim import _charts, _leaves
from physnet.optim._fisher import _metric

_NOT_GIVEN: Any = object()


class FisherAdamState(NamedTuple):
    """State of `fisher_adam`: trees shaped like the parameters, float32 or float64.

    Attributes:
        count: Steps taken.
        seen: How often scores shaped the metric.
        mean: First moment of the gradients.
        metric: Moments of the scores, a leaf each: squares, or pairs of rows and of columns with
            their eigenbases.
    """

    count: Int[Array, ""]
    seen: Int[Array, ""]
    mean: Any
    metric: Any


def fisher_adam(
    learning_rate: float | Float[Array, ""] | optax.Schedule,
    *,
    metric: _metric.Metric = "diagonal",
    source: Literal["jacobian", "gradients"] = "jacobian",
    damping: ArrayLike | Callable[[Array], ArrayLike] = 1e-3,
    b1: ArrayLike = 0.9,
    b2: ArrayLike = 0.95,
    power: float = 1.0,
    trust: ArrayLike | None = None,
    matrices: Any = None,
    largest: int = 1024,
    every: int = 1,
) -> optax.GradientTransformationExtraArgs:
    r"""Adam in the Riemannian metric of the Fisher information, diagonal or Kronecker-factored.

    With g the gradient, and J the scores, a row an example: derivatives of its log-likelihood,
    over the root of the number of examples, so that J^T J is the mean of their outer products:

        m <- b1 m + (1 - b1) g,     F <- b2 F + (1 - b2) form(J^T J)
        updates = -lr (F / (1 - b2^n) + damping)^{-power} m / (1 - b1^t)

    at step t, when scores have come n times.

    m is a covector: it keeps its components from step to step and its index is raised by the
    metric at hand. F keeps one of two forms of J^T J:

        "diagonal"     its diagonal, F_ii = sum of J_si^2 over s
        "kronecker"    a leaf's last two axes hold a matrix, and each of its scores one too, G: with
                       R = sum of G G^T, C = sum of G^T G, F = R (x) C / tr R, which is one power
                       iteration from the identity towards the nearest Kronecker product (and the
                       metric of Shampoo with exponents 1/2). Of `OuterScores`, G = x^T d, it is
                       E[x x^T] (x) E[d d^T]: K-FAC, and where the positions of a sequence are
                       examples, KFAC-expand. All other leaves are diagonal.

    The damped inverse of a Kronecker form is exact, in eigenbases of R and C.

    **This is not Adam with another name.** Adam divides by sqrt(v), and its v is the mean square of
    gradients of batches: of B examples E[g]^2 + Var(score) / B, which is no Fisher information, and
    its root would not be the inverse of one. power = 1/2 with source = "gradients" is Adam, with
    damping as its eps_root. power = 1 and b1 = 0 is natural gradient descent with the damped
    diagonal of F (`imaginary_time` takes all of it), whose steps at damping 0 do not depend on the
    units of the parameters; those of K-FAC follow any linear change of x and y. `riemannian_adam`
    has the metric of hyperbolic space instead, where parameters are points, and its options of
    charts mean nothing here.

    `likelihood_rows` and `categorical_rows` make J, `outer_scores` its factors. At labels drawn
    from the model E[J^T J] is the Fisher information, at those of the data the "empirical Fisher",
    another matrix where the fit is not perfect. Of B independent examples with drawn labels
    sqrt(B) times the gradient of the *mean* log-likelihood, as a single row, has the same mean: for
    one more gradient, and no gradient an example.

    Args:
        learning_rate: Of the natural gradient, or a schedule of the step's number.
        metric: "diagonal" or "kronecker".
        source: Where the rows come from: "jacobian", an extra argument of update; or "gradients",
            each gradient as the single row: Adam's second moment, Shampoo's pairs.
        damping: Added to F, or a schedule; in units of squared scores. At 0 the inverse is a
            pseudo-inverse: what no score has moved stays.
        b1: Decay of the first moment, in [0, 1).
        b2: Decay of the metric, in [0, 1), for each time that scores come.
        power: 1 is the natural gradient, 1/2 what Adam and Shampoo take; > 0.
        trust: Steps longer than this in the metric (F + damping)^power, all leaves together, are
            shortened to it; with power = 1 a step of length r changes the model's distribution by
            about r^2 / 2 nats an example. A NaN then reaches all leaves.
        matrices: For "kronecker", a tree of booleans like the parameters, or a function of them:
            which leaves are matrices. None: those with two axes or more.
        largest: Matrices with a longer axis than this get a diagonal metric.
        every: Eigenbases are renewed when scores come for the (1 + every n)-th time.

    Returns:
        An `optax.GradientTransformationExtraArgs` with update(grads, state, params=None, *,
        jacobian). `jacobian` is a tree like the gradients, of rows (S, *leaf) or `OuterScores`;
        None at a leaf keeps its metric, None as a whole all of it (to renew it at some steps only).
        Complex rows count as their real and imaginary parts; leading axes of a leaf of more than
        two count matrices. A NaN in a gradient or a score makes its own entry NaN, or its own
        matrix; no other. Infinite scores end a diagonal entry's steps.

    Raises:
        ValueError: An option out of range where it is known; from update, no `jacobian` where
            it is the source, or one that does not fit the gradients.
        TypeError: From init, leaves that are not real floating.

    Example:
        >>> import jax.numpy as jnp, optax
        >>> x, w = jnp.array([[1.0, 0.0], [0.0, 2.0]]), jnp.zeros(2)   # logistic regression, zero
        >>> optimiser = fisher_adam(1.0, b1=0.0, damping=0.0)
        >>> scores = 0.5 * x                         # at labels 1; at 0 their negatives
        >>> grads, jacobian = -jnp.mean(scores, axis=0), scores / jnp.sqrt(2.0)
        >>> updates, _ = optimiser.update(grads, optimiser.init(w), w, jacobian=jacobian)
        >>> [f"{step:.2f}" for step in updates]      # F = diag(1/8, 1/2)
        ['2.00', '1.00']

    References:
        Amari, "Natural gradient works efficiently in learning", Neural Computation 10 (1998), 251.
        Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate
        curvature", arXiv 1503.05671.
        Kunstner, Balles and Hennig, "Limitations of the empirical Fisher approximation for natural
        gradient descent", arXiv 1905.12558.
        Morwani et al., "A new perspective on Shampoo's preconditioner", arXiv 2406.17748.
        Eschenhagen et al., "Kronecker-factored approximate curvature for modern neural network
        architectures", arXiv 2311.00636.
    """
    _checks.one_of("metric", metric, ("diagonal", "kronecker"))
    _checks.one_of("source", source, ("jacobian", "gradients"))
    _charts.one_number(learning_rate=learning_rate, damping=damping)
    for name, value in (("b1", b1), ("b2", b2)):
        _charts.in_range(name, value, 0.0, 1.0)
    power = _checks.number("power", power)
    _charts.in_range("power", power, 0.0, float("inf"), open_below=True)
    if not callable(damping):
        _charts.in_range("damping", damping, 0.0, float("inf"))
    if trust is not None:
        _charts.in_range("trust", trust, 0.0, float("inf"), open_below=True)
    _checks.positive_int("largest", largest)
    _checks.positive_int("every", every)

    def init(params: Any) -> FisherAdamState:
        for path, leaf in jax.tree.leaves_with_path(params):
            _checks.real(f"fisher_adam: params{jax.tree_util.keystr(path)}", leaf)

        leaves, structure = jax.tree.flatten(params, is_leaf=_absent)
        chosen = matrices(params) if callable(matrices) else matrices
        full = [True] * len(leaves) if chosen is None else structure.flatten_up_to(chosen)

        def start(leaf, is_matrix):
            if _absent(leaf):
                return leaf
            small = (
                jnp.ndim(leaf) > 1 and jnp.size(leaf) > 0 and max(jnp.shape(leaf)[-2:]) <= largest
            )
            return _metric.zeros(leaf, metric if is_matrix and small else "diagonal")

        start_metric = structure.unflatten(map(start, leaves, full))
        mean = jax.tree.map(lambda x: jnp.zeros_like(_leaves.wide(x)), params)
        zero = jnp.zeros([], jnp.int32)
        return FisherAdamState(zero, zero, mean, start_metric)

    def update(
        updates: Any, state: Any, params: Any = None, *, jacobian: Any = _NOT_GIVEN, **_: Any
    ) -> tuple[Any, FisherAdamState]:
        del params
        grads, structure = jax.tree.flatten(updates, is_leaf=_absent)
        try:
            means, metrics = (structure.flatten_up_to(x) for x in (state.mean, state.metric))
        except ValueError as error:
            raise ValueError(f"updates must be a tree like params: {error}") from None
        for grad in grads:
            if not _absent(grad):
                _checks.real("fisher_adam: updates", grad)
        given = _scores(source, jacobian, grads, structure)
        count = jnp.asarray(optax.safe_increment(state.count))
        seen = state.seen if given is None else jnp.asarray(optax.safe_increment(state.seen))
        rate, damp = (_leaves.rate(value, state.count) for value in (learning_rate, damping))

        steps, lengths = [], []
        for index, grad in enumerate(grads):
            if _absent(grad):
                steps.append(grad)
                continue
            old = means[index]
            if jnp.shape(grad) != getattr(old, "shape", None):
                raise ValueError(
                    f"fisher_adam: updates must have the shapes of params, got {jnp.shape(grad)} "
                    f"beside {getattr(old, 'shape', None)}"
                )
            d1, d2, extra = (jnp.asarray(value, old.dtype) for value in (b1, b2, damp))
            means[index] = d1 * old + (1 - d1) * jnp.asarray(grad, old.dtype)
            mean = means[index] / (1 - d1 ** count.astype(old.dtype))
            if given is not None and given[index] is not None:
                metrics[index] = _metric.moved(metrics[index], given[index], d2, seen, every)
            steps.append(_metric.solve(metrics[index], mean, extra, power))
            lengths.append(jnp.sum(steps[-1] * mean))
        scale = jnp.asarray(rate)
        if trust is not None and lengths:
            wide = jnp.result_type(*lengths)
            length = jnp.sqrt(jnp.maximum(sum(x.astype(wide) for x in lengths), 0))
            most = jnp.asarray(trust, wide) / jnp.where(length == 0, 1, length)
            signed = scale.astype(wide)
            scale = jnp.sign(signed) * jnp.minimum(jnp.abs(signed), most)
        steps = [
            step if _absent(step) else (-scale.astype(step.dtype) * step).astype(grad.dtype)
            for step, grad in zip(steps, grads, strict=True)
        ]
        new = (structure.unflatten(column) for column in (means, metrics))
        return structure.unflatten(steps), FisherAdamState(count, seen, *new)

    return optax.GradientTransformationExtraArgs(init, update)


def _absent(grad: Any) -> bool:
    """A place without a gradient: None, or what `optax.masked` puts there."""
    return grad is None or isinstance(grad, optax.MaskedNode)


def _scores(source: str, jacobian: Any, grads: list, structure: Any) -> list | None:
    """A leaf's scores each, in the order of the gradients; None keeps the metric."""
    if source == "gradients":
        return [None if _absent(grad) else jnp.asarray(grad)[None] for grad in grads]
    if jacobian is _NOT_GIVEN:
        raise ValueError(
            "fisher_adam needs scores: call update(grads, state, params, jacobian=...), with "
            "jacobian=None to keep the metric, or make it with source='gradients'"
        )
    if jacobian is None:
        return None
    try:
        given = structure.flatten_up_to(jacobian)
    except ValueError as error:
        raise ValueError(f"jacobian must be a tree like the gradients: {error}") from None
    for index, (found, grad) in enumerate(zip(given, grads, strict=True)):
        if _absent(found) or _absent(grad):
            given[index] = None
        else:
            _metric.check(f"jacobian, leaf {index},", found, jnp.asarray(grad))
    return given
