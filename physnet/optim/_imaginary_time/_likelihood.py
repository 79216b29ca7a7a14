"""Scores of single examples: rows of the empirical Fisher matrix."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import _checks
from physnet.optim._imaginary_time import _rows


def likelihood_rows(
    log_likelihood: Callable[[Any, Any], Any],
    params: Any,
    examples: Any,
    *,
    weights: Float[Array, " samples"] | None = None,
    products: bool = False,
    chunk: int | None = None,
) -> _rows.Rows:
    r"""Scores of single examples, as `imaginary_time` takes them: the empirical Fisher.

        jacobian_i = sqrt(w_i) d log p(example_i) / d params,         residual_i = -sqrt(w_i)

    so that jacobian^T residual is the gradient of the loss -sum_i w_i log p(example_i), and
    S = sum_i w_i score_i score_i^T. With the data's own labels S is the **empirical Fisher**, which
    is not the Fisher information: it vanishes where the fit is perfect and says nothing of the
    curvature where the fit is bad. The **Fisher information** averages over labels drawn from the
    model. `categorical_rows` sums over them; or draw them, give them here as examples (an unbiased
    S), drop the residual, and give update the gradients of the loss of the data.

    Scores are not centred: their mean under the model is 0.

    Args:
        log_likelihood: log_likelihood(params, example) -> scalar, of one example (a sequence is
            one example, or many: its tokens' scores summed are one row).
        params: Real leaves.
        examples: A tree of arrays with a leading axis (samples,).
        weights: w >= 0, taken as they are; None is 1 / samples, the mean.
        products: Give products instead of a matrix, for large models.
        chunk: Examples whose scores are computed at once; None takes all.

    Returns:
        Jacobian and residual.

    Raises:
        ValueError: Shapes that do not fit.
        TypeError: Parameters or weights that are not real floating.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> log_p = lambda mean, x: -((x - mean) ** 2) / 2
        >>> rows = likelihood_rows(log_p, jnp.array(0.0), jnp.array([1.0, 3.0]))
        >>> print(f"{rows.jacobian @ rows.residual:.2f}, {rows.jacobian @ rows.jacobian:.2f}")
        -2.00, 5.00

    References:
        Kunstner, Balles and Hennig, "Limitations of the empirical Fisher approximation for natural
        gradient descent", arXiv 1905.12558.
    """
    params = jax.tree.map(lambda x: _checks.real("params", x), params)
    _checks.function("log_likelihood", log_likelihood)
    count = _checks.stacked("examples", examples, "that of samples")
    root = _rows.roots(weights, (count,), params)
    if products:
        values = lambda p: _rows.over(lambda x: log_likelihood(p, x), examples, chunk)  # noqa: E731
        pair = _rows.linearised(lambda p: _rows.scale(_rows.wide(values(p)), root), params)
        return _rows.Rows(pair, -root)
    one = jax.eval_shape(log_likelihood, params, jax.tree.map(lambda x: x[0], examples))
    if getattr(one, "shape", None) != () or not jnp.issubdtype(one.dtype, jnp.floating):
        raise TypeError(f"log_likelihood must return one real floating-point number, got {one}")
    score = jax.grad(log_likelihood)
    scores = _rows.over(lambda example: score(params, example), examples, chunk)
    scaled = jax.tree.map(lambda x: _rows.scale(_rows.wide(x), root), scores)
    return _rows.Rows(scaled, -root)
