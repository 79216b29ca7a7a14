"""The Fisher information of categorical predictions, summed over the model's own labels."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from physnet import _checks
from physnet.optim._imaginary_time import _rows


def categorical_rows(
    logits: Callable[[Any, Any], Any],
    params: Any,
    inputs: Any,
    labels: Int[Array, "samples ..."],
    *,
    weights: Float[Array, "samples ..."] | None = None,
    products: bool = False,
    chunk: int | None = None,
) -> _rows.Rows:
    r"""The Fisher information of a classifier or a language model, its own labels summed exactly.

    With p = softmax(logits) of one prediction, q = sqrt(p), its logits' Jacobian Z, and its label's
    unit vector y, every prediction gives one row a class,

        jacobian = sqrt(w) (1 - q q^T) diag(q) Z,        residual = sqrt(w) (p - y) / q

    so that S = sum w Z^T (diag(p) - p p^T) Z, the Fisher information (here the Gauss-Newton matrix
    too), and jacobian^T residual is the gradient of the weighted cross-entropy. The labels enter
    the residual only; see `likelihood_rows` for the empirical Fisher, which is another matrix. No
    class is less likely here than e^-80: the gradient of a label that the model excludes stays
    exact, the metric is off by 1e-35.

    Args:
        logits: logits(params, input) -> (..., classes) of one example: (classes,), or (positions,
            classes) of a sequence.
        params: Real leaves.
        inputs: A tree of arrays with a leading axis (samples,).
        labels: One class a prediction: (samples,), or (samples, positions).
        weights: w >= 0 of each prediction, shaped like labels, taken as they are (0 masks one);
            None is the mean over all.
        products: Give products instead of a matrix, for large models; its memory is that of the
            linearised logits, with no axis of parameters.
        chunk: Examples computed at once; None takes all.

    Returns:
        Jacobian and residual, of labels.size * classes rows.

    Raises:
        ValueError: Shapes that do not fit.
        TypeError: Parameters or weights that are not real floating, labels that are not integers.

    Example:
        A coin of logit 0 each way that fell on 1: gradient (1/2, -1/2), information 1/4 (1, -1).

        >>> import jax, jax.numpy as jnp
        >>> coin = lambda z: categorical_rows(lambda z, _: z, z, jnp.zeros((1, 1)), jnp.array([1]))
        >>> rows = jax.jit(coin)(jnp.zeros(2))
        >>> gradient, fisher = rows.jacobian.T @ rows.residual, rows.jacobian.T @ rows.jacobian
        >>> [f"{x:.2f}" for x in (*gradient, *fisher[0])]
        ['0.50', '-0.50', '0.25', '-0.25']

    References:
        Martens, "New insights and perspectives on the natural gradient method", arXiv 1412.1193.
    """
    params = jax.tree.map(lambda x: _checks.real("params", x), params)
    _checks.stacked("inputs", inputs, "that of samples")
    _checks.function("logits", logits)
    labels = _checks.integer("labels", labels)
    root = _rows.roots(weights, labels.shape, params)
    found = _rows.wide(_rows.over(lambda x: logits(params, x), inputs, chunk))
    if found.shape[:-1] != labels.shape:
        raise ValueError(
            "labels must have one class for each of the logits' predictions "
            f"{found.shape[:-1]}, got shape {labels.shape}"
        )
    if not jnp.issubdtype(found.dtype, jnp.floating) or not found.shape[-1]:
        raise ValueError(
            "logits must be real and of one class at least, got "
            f"{found.dtype}{found.shape[1:]} of an example"
        )
    root = root.astype(found.dtype)
    # Below e^-80 float32 would lose q, and with it the gradient q / q of the label's own logit.
    q = jnp.exp(jnp.maximum(jax.nn.log_softmax(found), -80) / 2)
    own = jax.nn.one_hot(labels, found.shape[-1], dtype=found.dtype)
    gaps = jnp.where(own > 0, q - 1 / q, q)
    residual = _rows.scale(gaps, root).reshape(-1)
    inside = (inputs, q, root)

    def whitened(p, row):
        """Half-way to the metric: linear in the logits' change."""
        x, q, root = row
        moved = q * _rows.wide(logits(p, x))
        return _rows.scale(moved - q * jnp.sum(q * moved, axis=-1, keepdims=True), root)

    if products:
        values = lambda p: _rows.over(lambda row: whitened(p, row), inside, chunk)  # noqa: E731
        return _rows.Rows(_rows.linearised(lambda p: values(p).reshape(-1), params), residual)
    rows = _rows.over(lambda row: jax.jacrev(whitened)(params, row), inside, chunk)
    flat = lambda x, p: _rows.wide(x).reshape(residual.size, *p.shape)  # noqa: E731
    return _rows.Rows(jax.tree.map(flat, rows, params), residual)
