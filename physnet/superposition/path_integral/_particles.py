"""Losses of all particles and weighted moments of their noise, in chunks and over devices.

No noise is kept: a draw is made from its number's key for the losses and again for the moments, so
that memory is that of one chunk. Antithetic particles 2 i and 2 i + 1 share draw i, with both
signs. Within a `shard_map` each device takes a range of the draws; two sums over devices, of all
losses and of the moments, are all that they exchange.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from physnet import _checks, _varying
from physnet.superposition.path_integral import _noise
from physnet.superposition.path_integral._config import Config
from physnet.superposition.path_integral._perturbed import Perturbed

_AT_ONCE = 2**24  # numbers of the particles of one chunk, where nobody says how many particles


class Moments(NamedTuple):
    """Weighted sums over particles: of the noise, and of its squares, products or a function."""

    mean: Any
    second: Any


class _Layout(NamedTuple):
    """How draws are spread over devices and chunks."""

    signs: Float[Array, "s"]
    first: Any  # this device's first draw
    draws: int  # of this device; those beyond the last of all are made and dropped
    chunks: int
    chunk: int
    devices: int


def _layout(params: Any, config: Config) -> _Layout:
    signs = jnp.asarray([1.0, -1.0] if config.antithetic else [1.0], jnp.float32)
    draws, devices, first = -(-config.particles // signs.size), 1, 0
    if config.axis_name is not None:
        devices = lax.axis_size(config.axis_name)
        draws = -(-draws // devices)
        first = lax.axis_index(config.axis_name) * draws
    chunk = config.chunk
    if chunk is None:
        held = _noise.numbers(params, None if config.materialise else config.rank)
        chunk = _AT_ONCE // max(held, 1)
    chunk = min(max(chunk // signs.size, 1), draws)
    chunks = -(-draws // chunk)
    return _Layout(signs, first, draws, chunks, -(-draws // chunks), devices)


def _numbers(layout: _Layout) -> Array:
    return jnp.arange(layout.chunks * layout.chunk, dtype=jnp.int32)


def losses(
    key: Array,
    params: Any,
    scale: Callable[[Any], Any],
    config: Config,
    loss_fn: Callable[..., Any],
    args: tuple[Any, ...],
) -> Float[Array, "K"]:
    """Losses of the particles params + scale(z_j): float32, or float64 where the function's are."""
    _checks.function("loss_fn", loss_fn)
    layout = _layout(params, config)

    def one(index):
        noise = _draw(key, index, params, config)

        def loss(sign):
            value = loss_fn(_particle(params, _noise.signed(noise, sign), scale, config), *args)
            return _number(value)

        return jax.vmap(loss)(layout.signs)

    # The last draw again where chunks or devices are not full: a particle that the user knows.
    last = -(-config.particles // layout.signs.size) - 1
    index = jnp.minimum(layout.first + _numbers(layout), last)
    if layout.chunks == 1:
        found = jax.vmap(one)(index)
    else:
        found = lax.map(jax.vmap(one), index.reshape(layout.chunks, layout.chunk))
    found = found.reshape(-1)[: layout.draws * layout.signs.size]
    if config.axis_name is not None:
        every = jnp.zeros((layout.devices, found.size), found.dtype)
        every = every.at[lax.axis_index(config.axis_name)].set(found)
        found = lax.psum(every, config.axis_name).reshape(-1)
    return found[: config.particles]


def particles(key: Array, params: Any, scale: Callable[[Any], Any], config: Config) -> Any:
    """All particles params + scale(z_j), on axis 0 of every leaf, none of them `Perturbed`."""
    layout = _layout(params, config)

    def one(index):
        noise = _noise.dense(_draw(key, index, params, config))
        return jax.vmap(lambda sign: _dense(params, _noise.signed(noise, sign), scale))(
            layout.signs
        )

    draws = -(-config.particles // layout.signs.size)
    found = jax.vmap(one)(jnp.arange(draws, dtype=jnp.int32))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[: config.particles], found)


def moments(
    key: Array,
    params: Any,
    weights: Float[Array, "K"],
    config: Config,
    *,
    second: str | Callable[[Any], Any] | None = None,
) -> Moments:
    """sum_j P_j z_j, and sum_j P_j of what `second` says; the weights may have any sign and sum.

    Args:
        key: of the step, as in `losses`.
        params: like which noise is drawn.
        weights: P.
        config: the options.
        second: None; "diagonal" for z^2; "full" for z z^T of all leaves in one vector; or a
            function of a particle's noise (dense), which gives a tree.
    """
    layout = _layout(params, config)
    width = layout.signs.size
    padding = layout.devices * layout.draws * width - config.particles
    every = jnp.pad(weights, (0, padding)).reshape(-1, width)
    mine = every
    if config.axis_name is not None:
        mine = lax.dynamic_slice_in_dim(every, layout.first, layout.draws)
    mine = jnp.pad(mine, ((0, layout.chunks * layout.chunk - layout.draws), (0, 0)))
    index = layout.first + _numbers(layout)

    def part(index, weight):
        noise = jax.vmap(lambda i: _draw(key, i, params, config))(index)
        odd = weight[:, 0] - weight[:, 1] if width == 2 else weight[:, 0]
        mean = _map(lambda z: _first(z, odd), noise)
        if second is None:
            return Moments(mean, None)
        if second == "diagonal":
            return Moments(mean, _map(lambda z: _squares(z, weight.sum(1)), noise))
        noise = jax.vmap(_noise.dense)(noise)
        if second == "full":
            return Moments(mean, _products(noise, weight.sum(1)))
        function = second
        if not callable(function):
            raise ValueError(f"second must be 'diagonal', 'full' or a function, got {second!r}")
        values = jax.vmap(
            lambda z: jax.vmap(lambda sign: function(_noise.signed(z, sign)))(layout.signs)
        )(noise)
        total = jax.tree.map(lambda x: jnp.tensordot(weight.astype(x.dtype), x, axes=2), values)
        return Moments(mean, total)

    if layout.chunks == 1:
        found = part(index, mine)
    else:
        by_chunk = (layout.chunks, layout.chunk)
        rows = index.reshape(by_chunk), mine.reshape(*by_chunk, width)
        shapes = jax.eval_shape(part, *(x[0] for x in rows))
        start = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        start = _varying.alike(start, *rows)
        add = lambda total, row: (jax.tree.map(jnp.add, total, part(*row)), None)  # noqa: E731
        found, _ = lax.scan(add, start, rows)
    if config.axis_name is not None:
        found = lax.psum(found, config.axis_name)
    return found


def _number(loss: Any) -> Float[Array, ""]:
    """A loss as it came, at least float32; pairs such as (loss, metrics) are an error."""
    if not jax.tree_util.all_leaves([loss]):
        raise TypeError(
            f"loss_fn must return one real floating-point number, got {type(loss).__name__}"
        )
    value = jnp.asarray(loss)
    if value.ndim or not jnp.issubdtype(value.dtype, jnp.floating):
        raise TypeError(
            "loss_fn must return one real floating-point number, got shape "
            f"{value.shape}, dtype {value.dtype}"
        )
    return value.astype(_noise.dtype(value))


def _draw(key: Array, index: Array, params: Any, config: Config) -> Any:
    return _noise.factors(jax.random.fold_in(key, index), params, rank=config.rank)


def _particle(params: Any, noise: Any, scale: Callable[[Any], Any], config: Config) -> Any:
    """What the loss function sees of params + scale(noise)."""
    if config.materialise:
        return _dense(params, _noise.dense(noise), scale)
    # The step is sigma z, leaf by leaf: sigma of each leaf is the step of a 1.
    sizes = scale(jax.tree.map(lambda x: jnp.ones((), _noise.dtype(x)), params))

    def one(leaf, size, z):
        if not isinstance(z, _noise.LowRank):
            return (leaf.astype(z.dtype) + size * z).astype(leaf.dtype)
        return Perturbed(leaf, (size * z.left).astype(leaf.dtype), z.right.astype(leaf.dtype))

    return jax.tree.map(one, params, sizes, noise)


def _dense(params: Any, noise: Any, scale: Callable[[Any], Any]) -> Any:
    return jax.tree.map(lambda x, e: (x.astype(e.dtype) + e).astype(x.dtype), params, scale(noise))


def _map(rule: Callable[[Any], Any], noise: Any) -> Any:
    return jax.tree.map(rule, noise, is_leaf=lambda z: isinstance(z, _noise.LowRank))


def _first(z: Any, weight: Array) -> Array:
    """sum_j P_j z_j of a leaf; of factors as one product over particles and rank together."""
    if not isinstance(z, _noise.LowRank):
        return jnp.tensordot(weight.astype(z.dtype), z, axes=1, precision="highest")
    left = z.left * weight.astype(z.left.dtype).reshape(-1, *(1,) * (z.left.ndim - 1))
    return jnp.einsum("k...mr,k...nr->...mn", left, z.right, precision="highest")


def _squares(z: Any, weight: Array) -> Array:
    """sum_j P_j z_j^2; of factors from (L R^T)^2 = sum_{a,b} (L_a L_b) (R_a R_b)^T."""
    if not isinstance(z, _noise.LowRank):
        return _first(z * z, weight)
    m, n, rank = z.left.shape[-2], z.right.shape[-2], z.left.shape[-1]
    if rank**2 * (m + n) >= m * n:
        return _first(z.dense() ** 2, weight)
    pairs = (x[..., :, None] * x[..., None, :] for x in (z.left, z.right))
    return _first(_noise.LowRank(*(x.reshape(*x.shape[:-2], rank**2) for x in pairs)), weight)


def _products(noise: Any, weight: Array) -> Array:
    """sum_j P_j z_j z_j^T over all leaves."""
    rows = [x.reshape(len(x), -1) for x in jax.tree.leaves(noise)]
    kind = np.result_type(*(x.dtype for x in rows))
    flat = jnp.concatenate([x.astype(kind) for x in rows], axis=1)
    return jnp.matmul((flat * weight.astype(kind)[:, None]).T, flat, precision="highest")
