"""Arguments that the parts of the mixture share."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from physnet import _checks


def numbers(name: str, value: Any) -> Array:
    """Numbers of experts as int32; -1, no expert, for those that int32 cannot hold."""
    array = _checks.integer(name, value)
    if array.dtype.itemsize > 4:
        least = 0 if jnp.issubdtype(array.dtype, jnp.unsignedinteger) else -1
        array = jnp.clip(array, *(jnp.asarray(x, array.dtype) for x in (least, 2**31 - 1)))
    return array.astype(jnp.int32)
