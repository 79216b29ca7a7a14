"""The shape of the cloud: C^(1/2), and how each kind of covariance learns it."""

from typing import Any

from physnet.superposition.path_integral import _diagonal, _full, _low_rank
from physnet.superposition.path_integral._config import Config

DIRECTIONS = 8  # of "low_rank" where none are named

_KINDS = {"diagonal": _diagonal, "full": _full, "low_rank": _low_rank}


def init(config: Config, params: Any) -> Any:
    """C = 1."""
    return None if config.covariance == "none" else _KINDS[config.covariance].init(config, params)


def scale(config: Config, shape: Any, noise: Any) -> Any:
    """C^(1/2) z."""
    return noise if config.covariance == "none" else _KINDS[config.covariance].scale(shape, noise)


def second(config: Config, shape: Any) -> Any:
    """Which weighted second moment of the noise `update` needs."""
    return None if config.covariance == "none" else _KINDS[config.covariance].second(shape)


def update(config: Config, shape: Any, seen: Any) -> Any:
    """C^(1/2) after what one step has seen."""
    return None if config.covariance == "none" else _KINDS[config.covariance].update(shape, seen)
