"""Attention over entries with masses.

Shapes: n queries, m entries, d and e channels of keys and values.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet._dtypes import accurate
from physnet.holography.memory._config import Config
from physnet.holography.memory._state import Memory, slots

Rotate = Callable[[Array, Array], Array]


def attend(
    query: Float[Array, "*n d"],
    memory: Memory,
    *,
    scale: float | None = None,
    rotate: Rotate | None = None,
    slot_bias: ArrayLike | None = None,
) -> Float[Array, "*n e"]:
    r"""Attention of queries over all that a memory holds.

    $$ y = \sum_j w_j \bar v_j / \sum_j w_j, \qquad w_j = m_j e^{s q \cdot \bar k_j} $$

    over entries of mass m, the sum of the scores of the tokens for which it stands, and their mean
    key and value: an entry weighs as much as its tokens would if all were at the mean.

    Args:
        query: (d,) or (n, d). All see the whole memory.
        memory: of one head of one sequence.
        scale: s; None for d^{-1/2}.
        rotate: rotate(keys (m, d), positions (m,)) -> keys, for keys at their mean positions
            (floating-point). The query comes as it is to be multiplied, hence rotated.
        slot_bias: a number or (levels,), added to the logits of merged slots: how much less (or
            more) than its tokens a mean is worth. Differentiable; -inf leaves them out; None for 0.

    Returns:
        (e,) or (n, e), of the dtype of the query; 0 where the memory is empty.

    Raises:
        ValueError: the query has other channels than the keys, or more than two axes; slot_bias
            of another shape.

    Example:
        >>> import jax.numpy as jnp
        >>> from physnet.holography import memory
        >>> print(memory.attend(jnp.ones(4), memory.init(8_192, 4)))
        [0. 0. 0. 0.]
    """
    query = _checks.real("query", query)
    _checks.instance("memory", memory, Memory)
    size = memory.near.key.shape[1]
    if query.ndim not in (1, 2) or query.shape[-1] != size:
        raise ValueError(f"query must have the shape ({size},) or (n, {size}), got {query.shape}")
    found = slots(memory)
    key = found.key if rotate is None else rotate(found.key, found.position)
    rows = query.reshape(-1, size)
    own = one_scale(scale, size)
    config = memory.config
    mass = found.mass
    if slot_bias is not None:
        begin = config.sinks + config.landmarks
        worth = slot_worth(config, slot_bias, mass.dtype)
        mass = mass.at[begin : begin + config.slots].multiply(worth)
    y = weigh(rows, key, found.value, (mass > 0)[None], mass[None], scale=own)
    return y.reshape(*query.shape[:-1], y.shape[-1])


def one_scale(scale: Any, size: int) -> Any:
    """The scale of products, or an error where it is not one number."""
    if scale is None:
        return size**-0.5
    _checks.known("scale", scale)
    if jnp.ndim(scale):
        raise ValueError(f"scale must be one number, got shape {jnp.shape(scale)}")
    return scale


def slot_worth(config: Config, slot_bias: ArrayLike | None, dtype: Any) -> Float[Array, " C"]:
    """By what the masses of the slots are multiplied for a bias of their logits."""
    bias = _checks.array("slot_bias", 0.0 if slot_bias is None else slot_bias, dtype)
    if bias.shape not in ((), (config.levels,)):
        raise ValueError(
            f"slot_bias must be a number or have the shape ({config.levels},) of the levels, "
            f"got {bias.shape}"
        )
    return jnp.repeat(jnp.exp(jnp.broadcast_to(bias, (config.levels,))), config.per_level)


def weigh(
    query: Float[Array, "*b n d"],
    key: Float[Array, "*b m d"],
    value: Float[Array, "*b m e"],
    seen: Array,
    mass: Array,
    *,
    scale: ArrayLike,
) -> Float[Array, "*b n e"]:
    """Softmax of scale q k + log mass over the entries that are seen; both broadcast to logits."""
    dtype = accurate(query.dtype)
    key, value = key.astype(query.dtype), value.astype(query.dtype)
    logits = jnp.einsum("...nd,...md->...nm", query, key, preferred_element_type=dtype)
    bias = jnp.log(jnp.where(mass > 0, mass, 1)).astype(dtype)
    logits = jnp.where(seen, logits * scale + bias, -jnp.inf)
    # The derivative of a maximum looks for it among the logits; computed again in a backward pass
    # they may differ from it by their last bit. Weights do not depend on it.
    top = lax.stop_gradient(jnp.max(logits, -1, keepdims=True))
    weight = jnp.exp(logits - jnp.where(top == -jnp.inf, 0, top))
    total = jnp.sum(weight, -1, keepdims=True)
    weight = (weight / jnp.where(total == 0, 1, total)).astype(query.dtype)
    # A value that is not finite would be 0 * NaN for the queries that do not see it, too.
    broken = ~jnp.all(jnp.isfinite(value), -1)
    y = jnp.einsum("...nm,...me->...ne", weight, jnp.where(broken[..., None], 0, value))
    return jnp.where(jnp.any(seen & broken[..., None, :], -1)[..., None], jnp.nan, y)
