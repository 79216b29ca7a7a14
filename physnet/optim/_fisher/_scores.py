"""Scores of matrices as their factors, for Kronecker metrics without a gradient an example."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import _checks
from physnet.optim._fisher._metric import OuterScores

Tap = Callable[[str, Any, Any], Any]


def outer_scores(
    log_likelihood: Callable[..., Float[Array, ""]], params: Any, *args: Any
) -> dict[str, OuterScores]:
    r"""Inputs and output scores of every marked product y = x W: what `fisher_adam` takes.

    With l = sum_s l_s over examples, of which each uses its own row of y alone, row s of dl/dy is
    the derivative of l_s, and that by W is x_s^T (dl_s/dy_s): all scores for one gradient, no
    product larger than the model's own. Axes before the last count examples (those of positions in
    a sequence, too: KFAC-expand), S in all.

    Args:
        log_likelihood: (tap, params, *args) to the sum of log-likelihoods, a scalar. In it
            y = tap(name, x, x @ W) marks a product: x (..., I), y (..., O), each name once; a bias
            is added to y before or after. Not from within `scan` or `vmap` inside of it.
        params: What to evaluate it at.
        args: Its further arguments. For the Fisher information of the model draw the labels from
            it (`jax.random.categorical` of logits without gradient); at the labels of the data
            this is the empirical Fisher.

    Returns:
        `OuterScores` x (S, I) and dl/dy / sqrt(S) (S, O) for each name, so that their metric is a
        mean. The scores of a bias are `.outputs`.

    Raises:
        ValueError: A name marked twice, none marked, or x and y of different leading axes.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def log_likelihood(tap, w, x, labels):
        ...     logits = tap("w", x, x @ w)
        ...     return jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(logits), labels, -1))
        >>> x, labels = jnp.array([[1.0], [2.0]]), jnp.array([[0], [1]])
        >>> scores = outer_scores(log_likelihood, jnp.zeros((1, 2)), x, labels)["w"]
        >>> [f"{d:.3f}" for d in scores.outputs[1]]
        ['-0.354', '0.354']

    References:
        Martens and Grosse, "Optimizing neural networks with Kronecker-factored approximate
        curvature", arXiv 1503.05671.
    """
    _checks.function("log_likelihood", log_likelihood)
    params = jax.tree.map(lambda x: _checks.array("params", x), params)
    args = jax.tree.map(lambda x: _checks.array("args", x), args)
    shapes: dict[str, Any] = {}

    def record(name, x, y):
        if name in shapes:
            raise ValueError(f"tap names must be used once, got {name!r} again")
        if jnp.ndim(x) < 1 or jnp.shape(x)[:-1] != jnp.shape(y)[:-1]:
            raise ValueError(
                f"tap {name!r} needs x (..., I) and y (..., O) of one leading shape, got "
                f"{jnp.shape(x)}, {jnp.shape(y)}"
            )
        shapes[name] = jax.ShapeDtypeStruct(jnp.shape(y), jnp.result_type(y))
        return y

    value = jax.eval_shape(lambda p, rest: log_likelihood(record, p, *rest), params, args)
    if getattr(value, "shape", None) != () or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(f"log_likelihood must return one real floating-point number, got {value}")
    if not shapes:
        raise ValueError("log_likelihood must mark a product with tap, got none")

    def total(offsets):
        inputs = {}

        def tap(name, x, y):
            inputs[name] = x
            return y + offsets[name]

        return log_likelihood(tap, params, *args), inputs

    offsets = {name: jnp.zeros(y.shape, y.dtype) for name, y in shapes.items()}
    outputs, inputs = jax.grad(total, has_aux=True)(offsets)
    found = {}
    for name in shapes:
        x, d = (
            y.reshape(math.prod(y.shape[:-1]), y.shape[-1]) for y in (inputs[name], outputs[name])
        )
        found[name] = OuterScores(x, d / len(d) ** 0.5)
    return found
