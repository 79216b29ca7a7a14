"""A Flax NNX module that holds a tree of parameters and leaves the work to pure functions."""

from typing import Any

import jax
from flax import nnx


class ParamsModule(nnx.Module):
    """`params` is the dict that the pure functions take, each leaf an `nnx.Param`."""

    def __init__(self, params: Any) -> None:
        self.params = nnx.data(jax.tree.map(nnx.Param, params))

    def tree(self) -> Any:
        """The parameters as plain arrays."""
        is_param = lambda leaf: isinstance(leaf, nnx.Variable)  # noqa: E731
        return jax.tree.map(lambda leaf: leaf[...], self.params, is_leaf=is_param)

    def replace(self, params: Any) -> None:
        """Take other arrays for the parameters."""
        is_param = lambda leaf: isinstance(leaf, nnx.Variable)  # noqa: E731

        def write(variable: nnx.Variable, array: jax.Array) -> None:
            variable[...] = array

        jax.tree.map(write, self.params, params, is_leaf=is_param)
