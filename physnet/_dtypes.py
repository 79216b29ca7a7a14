"""Which dtype to compute in."""

from typing import Any

import jax.numpy as jnp


def accurate(dtype: Any) -> Any:
    """The dtype for norms, softmax and logits: `dtype`, or float32 where that is narrower."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.float32
