"""A stack of layers `layer(params_l, h) -> h`, params stacked on axis 0, as functions take it."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Array

from physnet import _checks

Layer: TypeAlias = Callable[[Any, Array], Array]


def check(layer: Layer, params: Any, h: Any) -> tuple[int, Array]:
    """Number of layers and the input, or an error that says what does not fit."""
    h = _checks.real("h", h)
    shapes = [jnp.shape(leaf) for leaf in jax.tree.leaves(params)]
    counts = {shape[0] if shape else 0 for shape in shapes}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            "params must hold arrays with one and the same number of layers >= 1 on axis 0, "
            f"got shapes {shapes}"
        )
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), params)
    out = jax.eval_shape(layer, one, jax.ShapeDtypeStruct(h.shape, h.dtype))
    got = (getattr(out, "shape", None), getattr(out, "dtype", None))
    if got != (h.shape, h.dtype):
        what = f"{got[1]}{got[0]}" if hasattr(out, "shape") else f"a {type(out).__name__}"
        raise ValueError(
            f"layer must keep the shape and dtype of h, {h.dtype}{h.shape}, got {what}"
        )
    return counts.pop(), h
