"""Over which axes of a device mesh a model is split."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Axes:
    """Names of the axes of a `jax.shard_map` that split a model; None: not split in that way.

    The batch is the caller's: split over further axes, of which the model need not know.

    Attributes:
        tensor: heads, chains and hidden channels; parameters are split, tokens are not.
        expert: the experts of each layer. Tokens travel to their experts and back, so that each
            device must bring tokens of its own: the batch is split over this axis too (or it is
            the axis of the batch, or that of the sequence).
        sequence: the time axis of the tokens, in contiguous pieces of equal length.

    Raises:
        ValueError: tensor is also the name of another one.

    Example:
        >>> from jax.sharding import PartitionSpec as P
        >>> from physnet.models import Axes
        >>> axes = Axes(tensor="tensor", sequence="sequence")
        >>> tokens = P("data", axes.sequence)  # what goes with it in shard_map's in_specs
        >>> axes.expert is None
        True
    """

    tensor: str | None = None
    expert: str | None = None
    sequence: str | None = None

    def __post_init__(self) -> None:
        if self.tensor is not None and self.tensor in (self.expert, self.sequence):
            raise ValueError(
                "tensor must be an axis of its own: tokens are the same on all of its devices, "
                f"got {self}"
            )
