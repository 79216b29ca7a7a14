"""Arguments that the parts of the mixture share."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from physnet import _checks


def one_curvature(value: Any, dtype: Any) -> Array:
    """The curvature as a scalar; an error where it is known not to be one positive number."""
    c = jnp.asarray(value, dtype)
    known = _checks.concrete(c)
    if c.size != 1:
        raise ValueError(f"curvature must be one number, got shape {c.shape}")
    if known is not None and not np.all((known > 0) & (known < np.inf)):
        raise ValueError(f"curvature must be positive and finite, got {value!r}")
    return c.reshape(())


def numbers(name: str, value: Any) -> Array:
    """Numbers of experts as int32; -1, no expert, for those that int32 cannot hold."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(f"{name} must be integers, got dtype {array.dtype}")
    if array.dtype.itemsize > 4:
        least = 0 if jnp.issubdtype(array.dtype, jnp.unsignedinteger) else -1
        array = jnp.clip(array, *(jnp.asarray(x, array.dtype) for x in (least, 2**31 - 1)))
    return array.astype(jnp.int32)
