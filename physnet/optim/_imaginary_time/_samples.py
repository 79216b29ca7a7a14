"""Natural gradients by a solve over the samples (minSR): for more parameters than samples."""

from jaxtyping import Array, Float

from physnet.optim._imaginary_time import _gram


def least_squares(
    rows: Float[Array, "r p"],
    target: Float[Array, " r"],
    damping: Float[Array, ""],
    rtol: Float[Array, ""] | None,
) -> Float[Array, " p"]:
    """J^T (J J^T + damping)^-1 target."""
    gram = _gram.product(rows, rows.T)
    if rtol is None:
        return _gram.product(rows.T, _gram.damped(gram, damping, target))
    found = _gram.spectrum(gram, rtol)
    return _gram.product(rows.T, _gram.divide(found, target, found.values + damping))


def natural(
    rows: Float[Array, "r p"],
    gradient: Float[Array, " p"],
    damping: Float[Array, ""],
    rtol: Float[Array, ""] | None,
) -> Float[Array, " p"]:
    """(J^T J + damping)^-1 gradient = (g - J^T (J J^T + damping)^-1 J g) / damping (Woodbury)."""
    gram = _gram.product(rows, rows.T)
    image = _gram.product(rows, gradient)
    if rtol is None:
        inside = _gram.product(rows.T, _gram.damped(gram, damping, image))
        return (gradient - inside) / damping
    found = _gram.spectrum(gram, rtol)
    divisor = found.values * (found.values + damping)
    return _gram.product(rows.T, _gram.divide(found, image, divisor))
