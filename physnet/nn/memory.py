"""Gated attention through a boundary memory: the parameters of `nn.attention`, a bounded cache.

A head's score is the mass of a token: its weight in the logits, where tokens merge, and its rank as
a landmark. Tokens whose score no partner could lift over the threshold go from the window straight
to the levels.

Shapes: B batch, T time, W width, N heads, D = W / N.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from physnet import _checks
from physnet.holography import memory
from physnet.nn import _arguments, attention
from physnet.nn.layers import linear, rotary

Params = dict[str, Any]

_LEAST_MASS = 1e-6  # so that a token always sees itself, with a bounded gradient of log mass


def init(
    config: memory.Config, *, batch: int, heads: int, head_dim: int, dtype: Any = jnp.float32
) -> memory.Memory:
    """Empty memories of all heads of a batch: leaves (B, N, ...), but for the one count.

    Args:
        config: the sizes of one head's memory.
        batch: B.
        heads: N.
        head_dim: D.
        dtype: of keys and values.

    Returns:
        A `holography.memory.Memory` without tokens, for `extend` and `over_heads`.

    Raises:
        ValueError: a number is below 1.
        TypeError: a number is not a static int, config no `holography.memory.Config`.

    Example:
        >>> from physnet.holography import memory
        >>> held = init(memory.configure(8_192, 4), batch=2, heads=3, head_dim=4)
        >>> held.near.key.shape[:2], held.nbytes <= 2 * 3 * 8_192
        ((2, 3), True)
    """
    _checks.instance("config", config, memory.Config)
    batch, heads = _checks.positive_int("batch", batch), _checks.positive_int("heads", heads)
    one = memory.init(None, head_dim, config=config, dtype=dtype)

    def every(x: Array) -> Array:
        return jnp.broadcast_to(x, (batch, heads, *x.shape))

    near, far = jax.tree.map(every, (one.near, one.far))
    return memory.Memory(one.count, near, far, config)


def over_heads(
    one: Callable[..., tuple[Array, memory.Memory]], held: memory.Memory, *args: Array
) -> tuple[Float[Array, "B N *t"], memory.Memory]:
    """one(memory, *arrays) -> (y, memory) of all heads of a batch.

    The count is common to them, and so the branch that a full block takes stays a branch.

    Args:
        one: takes T tokens of one head.
        held: from `init` or an earlier call.
        args: (B, N, T, ...) each, or (N,) what a head has for all sequences; the first of them
            tells T.

    Returns:
        (B, N, ...) and the new memory.

    Raises:
        ValueError: no arrays, or one of another shape than the memory's batch and heads.
        TypeError: one is no function, held no `holography.memory.Memory`, an argument no array.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.holography import memory
        >>> held = init(memory.configure(8_192, 4), batch=2, heads=3, head_dim=4)
        >>> q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 3, 5, 4))
        >>> decode = lambda held, q, k, v: memory.decode(q, held, k, v)
        >>> y, held = jax.jit(lambda held, *x: over_heads(decode, held, *x))(held, q, k, v)
        >>> y.shape, int(held.count), bool(jnp.allclose(y[:, :, 0], v[:, :, 0], atol=1e-6))
        ((2, 3, 5, 4), 5, True)
    """
    _checks.function("one", one)
    lead = _checks.instance("held", held, memory.Memory).near.key.shape[:-2]
    if len(lead) != 2:
        raise ValueError(f"held must have axes of batch and heads, got {lead} in front of its own")
    batch, heads = lead
    arrays = [_checks.array(f"args[{index}]", x) for index, x in enumerate(args)]
    for index, x in enumerate(arrays):
        fits = x.shape[:2] == (batch, heads) and x.ndim > 2
        if not fits and (index == 0 or x.shape != (heads,)):
            raise ValueError(
                f"args[{index}] must have shape ({batch}, {heads}, T, ...)"
                f"{f' or ({heads},)' if index else ''}, got {x.shape}"
            )
    if not arrays:
        raise ValueError("args must be at least one array, got none")

    def run(near: Any, far: Any, *given: Array) -> tuple[Array, Any, Any]:
        y, new = one(memory.Memory(held.count, near, far, held.config), *given)
        return y, new.near, new.far

    common = [None if x.ndim == 1 else 0 for x in arrays]
    y, near, far = jax.vmap(jax.vmap(run), (0, 0, *common))(held.near, held.far, *arrays)
    return y, memory.Memory(held.count + arrays[0].shape[2], near, far, held.config)


def apply(
    params: Params,
    x: Float[Array, "B T W"],
    score: Float[Array, "B T N"],
    *,
    config: memory.Config,
    rotary_base: float = 1000.0,
) -> Float[Array, "B T W"]:
    """Attention of a whole sequence through a memory: the same numbers as `extend` token by token.

    Args:
        params: of `nn.attention.init`.
        x: (B, T, W).
        score: (B, T, N) in [0, 1], as `nn.attention.score` makes it.
        config: the sizes of one head's memory.
        rotary_base: as in `layers.rotary`.

    Returns:
        (B, T, W), in the dtype of x. Its gradient reaches the score.

    Raises:
        ValueError: shapes that do not fit, a base that is not positive and finite.
        TypeError: x or score is not real floating-point, params no dict, config no
            `holography.memory.Config`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.holography import memory
        >>> from physnet.nn import attention
        >>> config = memory.Config(window=4, block=4, sinks=1, landmarks=2, per_level=2, levels=3)
        >>> params = attention.init(jax.random.key(0), 16, heads=2)
        >>> x = jax.random.normal(jax.random.key(1), (1, 30, 16))
        >>> score = jax.random.uniform(jax.random.key(2), (1, 30, 2))
        >>> run = jax.jit(lambda x: apply(params, x, score, config=config))
        >>> y, moved = run(x), run(x.at[:, 9].set(0.0))
        >>> y.shape, bool(jnp.all(y[:, :9] == moved[:, :9]))
        ((1, 30, 16), True)
    """
    _checks.instance("config", config, memory.Config)
    query, key, value, mass, threshold = _heads_first(params, x, score, 0, rotary_base)
    rotate = _rotation(_checks.number("rotary_base", rotary_base))

    def head(query, key, value, mass, threshold):
        static = {"config": config, "rotate": rotate}
        return memory.attention(query, key, value, mass, threshold=threshold, **static)

    y = jax.vmap(jax.vmap(head), (0, 0, 0, 0, None))(query, key, value, mass, threshold)
    return _written(params, y)


def extend(
    params: Params,
    x: Float[Array, "B T W"],
    score: Float[Array, "B T N"],
    held: memory.Memory,
    *,
    rotary_base: float = 1000.0,
) -> tuple[Float[Array, "B T W"], memory.Memory]:
    """Attention of tokens behind those in a memory, and the memory with them.

    Args:
        params: of `nn.attention.init`.
        x: (B, T, W).
        score: (B, T, N), as in `apply`.
        held: from `init` or an earlier call.
        rotary_base: as in `layers.rotary`.

    Returns:
        (B, T, W), in the dtype of x, and the new memory.

    Raises:
        ValueError: shapes that do not fit, a base that is not positive and finite.
        TypeError: x or score is not real floating-point, params no dict, held no
            `holography.memory.Memory`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.holography import memory
        >>> from physnet.nn import attention
        >>> config = memory.Config(window=4, block=4, sinks=1, landmarks=2, per_level=2, levels=3)
        >>> params = attention.init(jax.random.key(0), 16, heads=2)
        >>> x = jax.random.normal(jax.random.key(1), (1, 30, 16))
        >>> score = jax.random.uniform(jax.random.key(2), (1, 30, 2))
        >>> held = init(config, batch=1, heads=2, head_dim=8)
        >>> run = jax.jit(lambda x, score, held: extend(params, x, score, held))
        >>> first, held = run(x[:, :15], score[:, :15], held)
        >>> rest, held = run(x[:, 15:], score[:, 15:], held)
        >>> whole = jax.jit(lambda x: apply(params, x, score, config=config))(x)
        >>> bool(jnp.allclose(jnp.concatenate([first, rest], 1), whole, atol=1e-6))
        True
    """
    _checks.instance("held", held, memory.Memory)
    parts = _heads_first(params, x, score, held.count, rotary_base)
    batch, heads, _, size = parts[0].shape
    lead, found = held.near.key.shape[:-2], held.near.key.shape[-1]
    if (*lead, found) != (batch, heads, size):
        raise ValueError(
            f"held must be of batch {batch}, {heads} heads and {size} channels, "
            f"got {(*lead, found)}"
        )

    rotate = _rotation(_checks.number("rotary_base", rotary_base))

    def head(held, query, key, value, mass, threshold):
        return memory.decode(query, held, key, value, mass, threshold=threshold, rotate=rotate)

    y, held = over_heads(head, held, *parts)
    return _written(params, y), held


def _written(params: Params, y: Array) -> Array:
    """Heads (B, N, T, D) as what a layer adds to the stream (B, T, W)."""
    y = jnp.swapaxes(y, 1, 2)
    return linear(y.reshape(*y.shape[:2], -1), params["out"])


@functools.lru_cache(maxsize=16)  # one function a base: compiled programs are found by it
def _rotation(base: float) -> Callable[[Array, Array], Array]:
    """`layers.rotary` of keys (m, D) at the tokens nearest to their positions (m,)."""

    def rotate(key: Array, position: Array) -> Array:
        token = jnp.round(position).astype(jnp.int32)
        return rotary(key[:, None], token, base=base)[:, 0]

    return rotate


def _heads_first(params, x, score, start, rotary_base) -> tuple[Array, ...]:
    """Rotated queries, keys that are not, values (B, N, T, D), masses (B, N, T), threshold (N,)."""
    x, score = _arguments.scored(params, x, score)
    still = jnp.zeros((x.shape[1],), jnp.int32)
    parts = attention.project(params, x, still, rotary_base=rotary_base)
    position = start + jnp.arange(x.shape[1], dtype=jnp.int32)
    query = rotary(parts.query, position, base=rotary_base)
    mass = jnp.maximum(score, _LEAST_MASS)
    heads = (jnp.swapaxes(part, 1, 2) for part in (query, parts.key, parts.value, mass))
    return (*heads, params["threshold"])
