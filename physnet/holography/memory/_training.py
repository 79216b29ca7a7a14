"""A whole sequence at once: every row as the streaming form gives it, with a gradient."""

from jax.typing import ArrayLike
from jaxtyping import Array, Float

from physnet import _checks
from physnet._dtypes import accurate
from physnet.holography.memory import _packing
from physnet.holography.memory._config import Config
from physnet.holography.memory._groups import in_groups
from physnet.holography.memory._read import Rotate, one_scale, slot_worth


def attention(
    query: Float[Array, "T d"],
    key: Float[Array, "T d"],
    value: Float[Array, "T e"],
    score: Float[Array, " T"] | None = None,
    *,
    config: Config,
    scale: float | None = None,
    rotate: Rotate | None = None,
    threshold: ArrayLike | None = None,
    slot_bias: ArrayLike | None = None,
    tokens_at_once: int = 512,
) -> Float[Array, "T e"]:
    """Causal attention through a memory: row t is `append` of token t, then `attend` of query t.

    The same numbers as token by token, to rounding, for a model to train with the memory that it
    will decode with. Time and memory are linear in T.

    Args:
        query: (T, d), as they are to be multiplied, hence rotated.
        key: (T, d), before rotary positions.
        value: (T, e).
        score: (T,) masses, as in `append`; None for 1.
        config: the sizes of the memory. Static.
        scale: of the products; None for d^{-1/2}.
        rotate: of keys, as in `attend`.
        threshold: as in `append`. No gradient.
        slot_bias: as in `attend`.
        tokens_at_once: tokens of a group: more are faster and take more memory. Static.

    Returns:
        (T, e), of the dtype of the query. Differentiable in query, key, value, slot_bias and score,
        that also where masses weigh the means; which tokens are landmarks has no gradient, and
        quantised entries pass it as if they were exact.

    Raises:
        ValueError: shapes that do not belong together.
        TypeError: not real floating-point numbers.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.holography import memory
        >>> x = jax.random.normal(jax.random.key(0), (256, 8))
        >>> small = memory.Config(window=32, block=16, sinks=2, landmarks=8, levels=4)
        >>> y = jax.jit(memory.attention, static_argnames="config")(x, x, x, config=small)
        >>> held = jax.jit(memory.extend)(memory.init(None, 8, config=small), x, x)
        >>> bool(jnp.allclose(y[-1], jax.jit(memory.attend)(x[-1], held), atol=1e-5))
        True
    """
    query, key, value = (
        _checks.real(name, x) for name, x in (("query", query), ("key", key), ("value", value))
    )
    if query.ndim != 2 or key.shape != query.shape or value.ndim != 2:
        raise ValueError(
            "query, key and value must have the shapes (T, d), (T, d) and (T, e), "
            f"got {query.shape}, {key.shape} and {value.shape}"
        )
    time, size = query.shape
    if 0 in (size, value.shape[1]):
        raise ValueError(
            f"query and value must have channels, got shapes {query.shape} and {value.shape}"
        )
    if len(value) != time or not time:
        raise ValueError(f"value must have the T={time} >= 1 rows of the query, got {value.shape}")
    if score is not None and _checks.real("score", score).shape != (time,):
        raise ValueError(f"score must have the shape ({time},), got {score.shape}")
    _checks.positive_int("tokens_at_once", tokens_at_once)
    if config.bits is not None:
        for x in (key, value):
            _packing.fill(x.shape[1], config.bits)
    scale = one_scale(scale, size)
    static = {"config": config, "rotate": rotate, "most": tokens_at_once}
    worth = slot_worth(config, slot_bias, accurate(key.dtype))
    return in_groups(query, key, value, score, scale, threshold, worth, **static)
