"""The mesh of devices that the settings ask for, and how the arrays of a run lie on it."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from lm import scale
from lm.errors import UserError

AXES = ("data", "expert", "sequence", "tensor")
"""Neighbours along the last ones lie nearest, on one host: these exchange the most."""
BATCH = ("data", "expert")
"""Axes over which the windows of a batch are split."""


def sizes(mesh: scale.Mesh, devices: int, *, all_of_them: bool) -> dict[str, int]:
    """The size of each axis on so many devices.

    Raises:
        UserError: the sizes do not fit the devices.
    """
    found = {name: getattr(mesh, name) for name in AXES}
    if all_of_them and set(found.values()) == {1}:
        found["data"] = -1
    known = math.prod(size for size in found.values() if size != -1)
    if devices % known == 0:
        found = {name: devices // known if size == -1 else size for name, size in found.items()}
    used = math.prod(found.values())
    if used < 0 or used > devices or (all_of_them and used != devices):
        listed = " x ".join(f"{name} {getattr(mesh, name)}" for name in AXES)
        raise UserError(
            f"--mesh of {listed} does not fit {devices} devices"
            + (": several processes use all that they have" if all_of_them else "")
        )
    return found


def build(mesh: scale.Mesh) -> jax.sharding.Mesh:
    """The mesh; several processes use all their devices, one process as many as it takes."""
    several = jax.process_count() > 1
    found = sizes(mesh, jax.device_count(), all_of_them=several)
    return jax.make_mesh(
        tuple(found.values()),
        tuple(found),
        axis_types=(jax.sharding.AxisType.Auto,) * len(found),
        devices=jax.devices()[: math.prod(found.values())],
    )


def whole(mesh: jax.sharding.Mesh) -> NamedSharding:
    """On every device all of it."""
    return NamedSharding(mesh, PartitionSpec())


def put(value: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process has, laid on the mesh."""
    value = np.asarray(value)
    return jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])


def on_mesh(tree: Any) -> bool:
    """Whether arrays lie on a mesh."""
    return any(isinstance(_sharding(leaf), NamedSharding) for leaf in jax.tree.leaves(tree))


def whole_here(value: Any) -> Any:
    """An array of a mesh as one of this process; any other as it is."""
    sharding = _sharding(value)
    if not isinstance(sharding, NamedSharding):
        return value
    if not sharding.is_fully_replicated:
        value = jax.device_put(value, whole(sharding.mesh))
    return np.asarray(value.addressable_data(0))


def _sharding(value: Any) -> Any:
    return getattr(value, "sharding", None)


def like_parameters(tree: Any, params: Mapping[str, Any], specs: Any) -> Any:
    """Specs for a tree that holds copies of the parameters' tree, as an optimiser's state does.

    A leaf whose path ends with that of a parameter of its shape lies as that one does; any other
    is whole on every device.
    """
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    found = dict(zip([path for path, _ in flat], jax.tree.leaves(specs), strict=True))
    shapes = {path: leaf.shape for path, leaf in flat}

    def spec(path: Any, leaf: Any) -> PartitionSpec:
        ends = (path[start:] for start in range(len(path)))
        one = next((end for end in ends if end in found), None)
        fits = one is not None and shapes[one] == leaf.shape
        return found[one] if one is not None and fits else PartitionSpec()

    return jax.tree_util.tree_map_with_path(spec, tree)


def indivisible(mesh: jax.sharding.Mesh, params: Any, specs: Any) -> str | None:
    """A sentence about a leaf that the mesh cannot split evenly, if there is one."""
    flat, _ = jax.tree_util.tree_flatten_with_path(params)
    for (path, leaf), spec in zip(flat, jax.tree.leaves(specs), strict=True):
        for size, axis in zip(leaf.shape, spec, strict=False):
            if axis is not None and size % mesh.shape[axis]:
                advice = {"tensor": "; --bk.hidden-multiple makes widths that can"}
                return (
                    f"{jax.tree_util.keystr(path)} of shape {leaf.shape} cannot be split into the "
                    f"{mesh.shape[axis]} parts of --mesh.{axis}{advice.get(axis, '')}"
                )
    return None
