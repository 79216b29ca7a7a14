"""BK-Core as a Flax NNX module."""

from typing import Any

import jax
from flax import nnx
from jaxtyping import Array, Int

from physnet.models.bk_core import _generate, _model
from physnet.nn import ParamsModule


class BKCore(ParamsModule):
    """The functions of this package with their parameters in one object.

    Args:
        config: the sizes.
        rngs: Flax random streams; `params` is used.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> from physnet.models import bk_core
        >>> config = bk_core.BKCoreConfig(vocab_size=7, layers=1, heads=2, width=16, chains=4)
        >>> model = bk_core.BKCore(config, rngs=nnx.Rngs(0))
        >>> tokens = jnp.array([[1, 2, 3, 4]])
        >>> nnx.jit(lambda model: model.calibrate(tokens))(model)
        >>> nnx.jit(lambda model: model(tokens))(model).shape
        (1, 4, 7)
    """

    def __init__(self, config: _model.BKCoreConfig, *, rngs: nnx.Rngs) -> None:
        self.config = config
        super().__init__(_model.init(config, rngs.params()))

    def __call__(self, tokens: Int[Array, "B T"], **options: Any) -> Any:
        """`apply`."""
        return _model.apply(self.config, self.tree(), tokens, **options)

    def calibrate(self, tokens: Int[Array, "B T"], **options: Any) -> None:
        """Set the gates, and with a key the experts' centroids, from a sample, in place."""
        self.replace(_model.calibrate(self.config, self.tree(), tokens, **options))

    def generate(
        self, prompt: Int[Array, "B P"], count: int, *, key: jax.Array, **options: Any
    ) -> Int[Array, "B count"]:
        """Sample the tokens that follow a prompt."""
        return _generate.generate(self.config, self.tree(), prompt, count, key=key, **options)
