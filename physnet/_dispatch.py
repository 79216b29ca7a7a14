"""The only place that chooses an implementation.

`None` takes the fastest implementation that is installed and serves the call; a named one runs or
raises `NotImplementedError` that says what there is. Nothing falls back from a name in silence.
"""

from typing import Literal

Implementation = Literal["xla", "mosaic_gpu", "triton"]

# What each operation has, fastest first. "xla" runs on every device.
_AVAILABLE: dict[str, tuple[Implementation, ...]] = {
    "greens.diagonal": ("xla",),
    "greens.left": ("xla",),
    "greens.window": ("xla",),
    "greens.propagate": ("xla",),
    "attention.scattering_attention": ("xla",),
    "attention.block_sparse_attention": ("xla",),
}


def choose(operation: str, implementation: Implementation | None) -> Implementation:
    """Name of the implementation that will run `operation`.

    Args:
        operation: A key of the table above, such as "greens.diagonal".
        implementation: A name, or None for the fastest one.

    Returns:
        The name of an implementation that exists.

    Raises:
        NotImplementedError: `implementation` names one that this operation does not have.
    """
    available = _AVAILABLE[operation]
    if implementation is None:
        return available[0]
    if implementation not in available:
        raise NotImplementedError(
            f"{operation} has no implementation={implementation!r}; it has "
            + ", ".join(repr(name) for name in available)
        )
    return implementation
