"""A model within `jax.shard_map`: where its parameters lie, and what its devices tell each other.

Along a tensor axis each device holds columns of the matrices that read the stream and rows of those
that write to it; what it computes is a part of a sum, which one `psum` completes. JAX keeps count
of what varies over an axis, and transposes that count: the sum of the cotangents of what is the
same on all devices stands where these begin to differ.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec

from physnet import _varying
from physnet.models._axes import Axes
from physnet.nn.layers import Drop

NONE = Axes()

Rules = dict[tuple[str, ...], tuple[str | None, ...]]  # end of a path -> "tensor" | "expert" | None


def partition(params: Any, axes: Axes | None, rules: Rules) -> Any:
    """The tree of `PartitionSpec`: that of the longest rule that a leaf's path ends with."""
    axes = axes or NONE
    names = {"tensor": axes.tensor, "expert": axes.expert, None: None}

    def spec(path: Any, leaf: Any) -> PartitionSpec:
        keys: Any = tuple(getattr(part, "key", None) for part in path)
        ends = [keys[-n:] for n in range(len(keys), 0, -1) if keys[-n:] in rules]
        if not ends or len(rules[ends[0]]) > len(leaf.shape):
            return PartitionSpec()
        entries = [names[name] for name in rules[ends[0]]]
        lead = [None] * (len(leaf.shape) - len(entries))  # layers, stacked
        return PartitionSpec(*lead, *entries) if any(entries) else PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec, params)


def check(axes: Axes, tokens: jax.Array) -> None:
    """Raise where tokens are not split over an axis as the model takes them."""
    varying = _varying.axes(tokens)
    for field in ("expert", "sequence"):
        name = getattr(axes, field)
        if name is not None and name not in varying:
            raise ValueError(
                f"tokens must be split over the axis {name!r} of axes.{field}, within "
                f"jax.shard_map with check_vma=True; they vary over {sorted(varying)}"
            )
    if axes.tensor is not None and axes.tensor in varying:
        raise ValueError(
            f"tokens must be the same over the axis {axes.tensor!r} of axes.tensor; they vary "
            f"over {sorted(varying)}"
        )


def size(axis_name: str | None) -> int:
    """Devices along an axis."""
    return 1 if axis_name is None else lax.axis_size(axis_name)


def offset(axis_name: str | None, length: int) -> Any:
    """The position of the first of `length` tokens of this device's piece."""
    return 0 if axis_name is None else lax.axis_index(axis_name) * length


def share(axes: Axes, **counts: int) -> dict[str, int]:
    """What a device of the tensor axis has of each count."""
    devices = size(axes.tensor)
    for name, count in counts.items():
        if count % devices:
            raise ValueError(
                f"{name} must be a multiple of the {devices} devices of the axis "
                f"{axes.tensor!r}, got {count}"
            )
    return {name: count // devices for name, count in counts.items()}


def hold(what: str, found: int, whole: int, axis_name: str | None) -> None:
    """Raise where parameters have another share of `whole` than a device of the axis has."""
    devices = size(axis_name)
    if found * devices != whole:
        raise ValueError(
            f"params must be those of {whole // devices} of the {whole} {what}, as `partition` "
            f"splits them over the axis {axis_name!r}, got {found}"
            if axis_name is not None
            else f"params must be those of all {whole} {what}: no axis splits them, got {found}"
        )


def read(x: jax.Array, axis_name: str | None) -> jax.Array:
    """The stream as the parts of a block read it: their cotangents are summed here, at once."""
    return x if axis_name is None else _varying.alike(x, lax.axis_index(axis_name))


def summed(x: Any, axis_name: str | None) -> Any:
    """The sum of the parts that devices hold."""
    return x if axis_name is None else lax.psum(x, axis_name)


def settled(tree: Any, axis_name: str | None) -> Any:
    """What is equal on all devices of an axis, though JAX does not know it, so that it does."""
    if axis_name is None:
        return tree
    first = lax.axis_index(axis_name) == 0

    def one(x: jax.Array) -> jax.Array:
        if axis_name not in _varying.axes(x):
            return x
        return lax.psum(jnp.where(first, x, jnp.zeros_like(x)), axis_name)

    return jax.tree.map(one, tree)


def gathered(x: jax.Array, axis_name: str | None, axis: int) -> jax.Array:
    """The pieces of all devices, one behind the other, and known to be the same on all of them."""
    if axis_name is None:
        return x
    shape = list(x.shape)
    shape[axis] *= lax.axis_size(axis_name)
    empty = _varying.alike(jnp.zeros(shape, x.dtype), x)
    start = lax.axis_index(axis_name) * x.shape[axis]
    return lax.psum(lax.dynamic_update_slice_in_dim(empty, x, start, axis), axis_name)


def columns(weight: jax.Array, parts: int, axis_name: str | None) -> jax.Array:
    """This device's columns of each of `parts` matrices that lie side by side (W, parts W).

    Split along the columns, a device holds pieces that are not those of its heads: all of them are
    gathered, and only its own are multiplied with.
    """
    if axis_name is None:
        return weight
    whole = lax.all_gather(weight, axis_name, axis=1, tiled=True)
    whole = whole.reshape(len(whole), parts, -1)
    own = whole.shape[2] // lax.axis_size(axis_name)
    mine = lax.dynamic_slice_in_dim(whole, lax.axis_index(axis_name) * own, own, axis=2)
    return mine.reshape(len(whole), -1)


def sliced(drop: Drop, axis_name: str | None, axis: int = -1) -> Drop:
    """Dropout of this device's part along `axis`, by the mask that one device would draw."""
    if axis_name is None:
        return drop
    devices, index = lax.axis_size(axis_name), lax.axis_index(axis_name)

    def part(x: jax.Array, site: int) -> jax.Array:
        shape = list(x.shape)
        shape[axis] *= devices
        one = jnp.ones((), x.dtype)
        factor = drop(jnp.broadcast_to(one, shape), site)
        factor = lax.dynamic_slice_in_dim(factor, index * x.shape[axis], x.shape[axis], axis)
        return jnp.where(factor == 0, jnp.zeros((), x.dtype), x * factor)

    return part


def own_key(key: jax.Array | None, axis_name: str | None) -> jax.Array | None:
    """A key for each piece of a sequence."""
    if key is None or axis_name is None:
        return key
    return jax.random.fold_in(key, lax.axis_index(axis_name))
