"""A Flax NNX module that holds a tree of parameters and leaves the work to pure functions."""

from typing import Any

import jax
from flax import nnx

CONSTANTS = ("ceiling", "threshold")  # calibrated, not learned


class Calibrated(nnx.Variable):
    """A constant that calibration sets: optimisers that ask for `nnx.Param` leave it alone."""


class ParamsModule(nnx.Module):
    """`params` is the dict that the pure functions take, each leaf an `nnx.Param`.

    The gates' calibrated constants are `Calibrated` variables instead, out of reach of gradients
    and weight decay.

    Args:
        params: a nested dict of arrays.
    """

    def __init__(self, params: Any) -> None:
        self.params = nnx.data(jax.tree_util.tree_map_with_path(_variable, params))

    def tree(self) -> Any:
        """The parameters as plain arrays."""
        return jax.tree.map(lambda leaf: leaf[...], self.params, is_leaf=_is_variable)

    def replace(self, params: Any) -> None:
        """Take other arrays for the parameters."""

        def write(variable: nnx.Variable, array: jax.Array) -> None:
            variable[...] = array

        jax.tree.map(write, self.params, params, is_leaf=_is_variable)


def _variable(path: tuple[Any, ...], leaf: jax.Array) -> nnx.Variable:
    return Calibrated(leaf) if path[-1].key in CONSTANTS else nnx.Param(leaf)


def _is_variable(leaf: Any) -> bool:
    return isinstance(leaf, nnx.Variable)
