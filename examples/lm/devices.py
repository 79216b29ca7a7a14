"""Where a row's arrays lie and its programs run: one device here, a mesh of them in `lm.spread`."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lm.rows import Model
from lm.settings import Training
from lm.step import begin, placed, program


class OneDevice:
    """JAX's default device: arrays and programs as they are."""

    parts = 1
    """Into which a batch is split."""

    def check(self, model: Model, training: Training) -> None:
        """Raise a UserError where the row cannot run here."""

    def begin(self, model: Model, training: Training) -> Any:
        """The state before the first step."""
        return begin(model, training)

    def placed(self, model: Model, training: Training, params: Any, tokens: Any) -> Any:
        """The parameters with experts placed where tokens of a text are."""
        start = jax.jit(lambda params, tokens: placed(model, training, params, tokens))
        return start(params, tokens)

    def text(self, tokens: np.ndarray) -> jax.Array:
        """Tokens that every device reads."""
        return jnp.asarray(tokens)

    def rows(self, size: int) -> tuple[int, int]:
        """Which rows of a batch of this size this process reads: from, to."""
        return 0, size

    def batches(self, windows: np.ndarray, size: int) -> jax.Array:
        """Those rows (count, rows, T + 1) of `count` batches, as parts of the whole ones."""
        return jnp.asarray(windows)

    def program(self, model: Model, training: Training, count: int, *, given: bool) -> Any:
        """`step.program`, to be lowered; it takes its state's memory over."""
        options = {"given": True} if given else {}
        return jax.jit(program(model, training, count, **options), donate_argnums=0)

    def shapes(self, model: Model, training: Training) -> Any:
        """Those of the state, to lower programs for."""
        return jax.eval_shape(lambda: begin(model, training))

    def text_shape(self, *shape: int) -> jax.ShapeDtypeStruct:
        """Of `text` for tokens of this shape."""
        return jax.ShapeDtypeStruct(shape, jnp.int32)

    def batches_shape(self, training: Training, count: int) -> jax.ShapeDtypeStruct:
        """Of `batches` for so many."""
        return jax.ShapeDtypeStruct((count, training.batch, training.block + 1), jnp.int32)

    def evaluation(self, some: Any, model: Model, dtype: Any) -> Any:
        """The function (params, rows, lengths) that measures a batch of held-out windows."""
        return lambda *arguments: some(model.apply, model.config, dtype, *arguments)

    def gathered(self, params: Any) -> Any:
        """The parameters whole, on this process's first device."""
        return params


ONE = OneDevice()
