"""The settings that spread a run over devices and processes and leave alone what it learns."""

import dataclasses
from typing import Literal

from lm.errors import UserError

Input = Literal["device", "grain"]


@dataclasses.dataclass(frozen=True)
class Mesh:
    """Devices side by side; their number is the product, and all ones mean one device.

    A size of -1 takes the devices that the others leave. Losses do not depend on the mesh.
    """

    data: int = 1
    """Parts of a batch, each on devices of its own."""
    tensor: int = 1
    """Parts of the heads, chains and hidden channels of each layer."""
    expert: int = 1
    """Parts of the experts, and of a batch as well (of a row without experts of a batch alone)."""
    sequence: int = 1
    """Parts of each window of text."""

    def __post_init__(self) -> None:
        for name, size in dataclasses.asdict(self).items():
            if size < 1 and size != -1:
                raise UserError(f"--mesh.{name} must be -1 or at least 1, got {size}")
        if sum(size == -1 for size in dataclasses.astuple(self)) > 1:
            raise UserError(f"only one size of --mesh can be -1, got {self}")


ONE_DEVICE = Mesh()


@dataclasses.dataclass(frozen=True)
class Process:
    """This process among those of --distributed; None where Slurm or Open MPI tell it."""

    coordinator: str | None = None
    """HOST:PORT of process 0."""
    count: int | None = None
    """Number of processes."""
    index: int | None = None
    """Which one this is, from 0."""
    devices: tuple[int, ...] = ()
    """Which GPUs of this host it uses; empty: one a process under Slurm and Open MPI, else all."""
    detect: str | None = None
    """How the three are found: slurm, ompi, mpi4py (for other MPIs; needs that package), or None
    for what is there."""

    def __post_init__(self) -> None:
        host, colon, port = (self.coordinator or "host:0").rpartition(":")
        if not (host and colon and port.isdecimal()):
            raise UserError(f"--process.coordinator must be HOST:PORT, got {self.coordinator}")
        if self.count is not None and self.count < 1:
            raise UserError(f"--process.count must be at least 1, got {self.count}")
        index = 0 if self.index is None else self.index
        if index < 0 or (self.count is not None and index >= self.count):
            raise UserError(
                f"--process.index must be in [0, --process.count {self.count}), got {self.index}"
            )


ALONE = Process()
