"""Natural gradients by a solve over the parameters (SR): for more samples than parameters."""

from jaxtyping import Array, Float

from physnet.optim._imaginary_time import _gram


def natural(
    rows: Float[Array, "r p"],
    gradient: Float[Array, " p"],
    damping: Float[Array, ""],
    rtol: Float[Array, ""] | None,
) -> Float[Array, " p"]:
    """(J^T J + damping)^-1 gradient."""
    gram = _gram.product(rows.T, rows)
    if rtol is None:
        return _gram.damped(gram, damping, gradient)
    found = _gram.spectrum(gram, rtol)
    return _gram.divide(found, gradient, found.values + damping)


def least_squares(
    rows: Float[Array, "r p"],
    target: Float[Array, " r"],
    damping: Float[Array, ""],
    rtol: Float[Array, ""] | None,
) -> Float[Array, " p"]:
    """(J^T J + damping)^-1 J^T target."""
    return natural(rows, _gram.product(rows.T, target), damping, rtol)
