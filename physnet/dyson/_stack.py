"""A stack of layers `layer(params_l, h) -> h`, params stacked on axis 0: checks, and probes."""

from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from physnet import _checks
from physnet.dyson._matrices import computing_dtype

Layer: TypeAlias = Callable[[Any, Array], Array]


def check(layer: Layer, params: Any, h: Any) -> tuple[int, Array]:
    """Number of layers and the input, or an error that says what does not fit."""
    _checks.function("layer", layer)
    h = _checks.real("h", h)
    layers = _checks.stacked("params", params, "layers")
    one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x)[1:], jnp.result_type(x)), params)
    out = jax.eval_shape(layer, one, jax.ShapeDtypeStruct(h.shape, h.dtype))
    got = (getattr(out, "shape", None), getattr(out, "dtype", None))
    if got != (h.shape, h.dtype):
        what = f"{got[1]}{got[0]}" if hasattr(out, "shape") else f"a {type(out).__name__}"
        raise ValueError(
            f"layer must keep the shape and dtype of h, {h.dtype}{h.shape}, got {what}"
        )
    return layers, h


def probed(
    layer: Layer,
    params: Any,
    h: Array,
    key: Array,
    probes: int,
    draw: Callable[..., Array],
    measure: Callable[[Array, Array], Any],
    *,
    remat: bool = False,
) -> Any:
    """measure(v, J_l v) of random v, a tree of (L, probes) arrays, float32 at least.

    One forward pass, with one push through each layer a probe; `draw(key, shape, dtype)` makes v.
    """
    layers, h = check(layer, params, h)
    key = _checks.key("key", key)
    dtype = computing_dtype(h)

    def step(h, of_layer):
        own, key = of_layer
        h, push = jax.linearize(lambda h: layer(own, h), h)

        def probe(key):
            v = draw(key, h.shape, h.dtype)
            return measure(v.astype(dtype), push(v).astype(dtype))

        return h, jax.vmap(probe)(jax.random.split(key, probes))

    step = jax.checkpoint(step) if remat else step
    return lax.scan(step, h, (params, jax.random.split(key, layers)))[1]
