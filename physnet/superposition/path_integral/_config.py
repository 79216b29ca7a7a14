"""What is static about a cloud of particles."""

import dataclasses
from typing import Literal

Covariance = Literal["none", "diagonal", "full", "low_rank"]


@dataclasses.dataclass(frozen=True)
class Config:
    """The options of `init`, hashable: the static part of a `State`.

    Attributes:
        particles: K, how many particles a step evaluates.
        effective: share of K that the effective sample size of the weights is held at.
        antithetic: whether particles come in pairs, W + e and W - e.
        covariance: what is learned of the shape of the cloud.
        directions: r of covariance "low_rank".
        rank: of the perturbations of leaves of two or more axes; None is full rank.
        adapt_sigma: whether the step size follows the evolution path.
        chunk: how many particles are evaluated at once; None is all.
        axis_name: the axis of a mesh over which the particles are spread; None is one device.
        materialise: whether low-rank perturbations are added to the weights before the loss
            function sees them; otherwise it sees `Perturbed` weights.
    """

    particles: int
    effective: float
    antithetic: bool
    covariance: Covariance
    directions: int
    rank: int | None
    adapt_sigma: bool
    chunk: int | None
    axis_name: str | None
    materialise: bool
