"""What is static about a cloud of particles."""

import dataclasses
from typing import Any, Literal, get_args

from physnet import _checks

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
        chunk: how many particles are evaluated at once; None is as many as hold 2^24 numbers.
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


def checked(config: Config) -> Config:
    """The same options, or an error that names the one that makes no sense."""
    sizes: dict[str, Any] = {}
    sizes["particles"] = count = _checks.positive_int("particles", config.particles, minimum=2)
    if config.antithetic and count % 2:
        raise ValueError(f"particles must be even with antithetic=True, got {count}")
    if not 0 < _checks.number("effective", config.effective) < 1:
        raise ValueError(f"effective must be between 0 and 1, got {config.effective}")
    _checks.one_of("covariance", config.covariance, get_args(Covariance))
    for name in ("directions", "rank", "chunk"):
        if getattr(config, name) is not None:
            sizes[name] = _checks.positive_int(name, getattr(config, name))
    if not config.materialise and (config.rank is None or config.covariance != "none"):
        raise ValueError(
            "materialise=False needs a rank and covariance 'none': otherwise a perturbation is no "
            f"product of thin matrices; got rank={config.rank}, covariance={config.covariance!r}"
        )
    return dataclasses.replace(config, **sizes)
