"""A row on a mesh of devices: its arrays in parts, and the programs that keep them there.

Loss and gradient come from `lm.sharded`. Updates are elementwise but for one norm, so these are
left to the compiler, over arrays that stay in parts.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from lm import mesh as meshes
from lm import sharded
from lm.devices import OneDevice
from lm.errors import UserError
from lm.mesh import BATCH, put, whole
from lm.rows import Model
from lm.settings import Training
from lm.step import initial_state, placed, program


class OnMesh(OneDevice):
    """The devices of a mesh with the axes of `lm.mesh`."""

    def __init__(self, mesh: jax.sharding.Mesh) -> None:
        self._mesh, self._whole = mesh, whole(mesh)
        self.parts = math.prod(mesh.shape[name] for name in BATCH)

    def check(self, model: Model, training: Training) -> None:
        for name, value, parts in (
            ("batch", training.batch, self.parts),
            ("block", training.block, self._mesh.shape["sequence"]),
        ):
            if value % parts:
                raise UserError(
                    f"--training.{name} must be a multiple of the {parts} parts that --mesh "
                    f"splits it into, got {value}"
                )
        if model.penalty is not None and sharded.axes(self._mesh, model) is not None:
            raise UserError(f"{model.label}: its penalty can be spread over --mesh.data alone")
        params = jax.eval_shape(lambda: model.init(model.config, jax.random.key(0)))
        specs = sharded.partition(self._mesh, model, params)
        if problem := meshes.indivisible(self._mesh, params, specs):
            raise UserError(f"{model.label}: {problem}")

    def begin(self, model: Model, training: Training) -> Any:
        start = functools.partial(initial_state, model, training)
        return jax.jit(start, out_shardings=self._shardings(model, training))()

    def placed(self, model: Model, training: Training, params: Any, tokens: Any) -> Any:
        own = functools.partial(placed, sharded.alone(self._mesh, model), training)
        shardings = self._shardings(model, training)["params"]
        return jax.jit(own, out_shardings=shardings)(params, tokens)

    def text(self, tokens: np.ndarray) -> jax.Array:
        return put(tokens, self._whole)

    def rows(self, size: int) -> tuple[int, int]:
        where = self._batch().addressable_devices_indices_map((size,))
        bounds = {part.indices(size)[:2] for (part,) in where.values()}
        first, last = min(low for low, _ in bounds), max(high for _, high in bounds)
        own = last - first
        if sum(high - low for low, high in bounds) != own or first % own or size % own:
            raise UserError("--input grain needs a mesh on which a process has one part of a batch")
        return first, last

    def batches(self, windows: np.ndarray, size: int) -> jax.Array:
        shape = (len(windows), size, windows.shape[2])
        return jax.make_array_from_process_local_data(self._batch(None), windows, shape)

    def program(self, model: Model, training: Training, count: int, *, given: bool) -> Any:
        run = program(
            sharded.alone(self._mesh, model),
            training,
            count,
            given=given,
            differentiated=functools.partial(sharded.differentiated, self._mesh),
        )
        shardings = self._shardings(model, training)
        return jax.jit(run, donate_argnums=0, out_shardings=(shardings, self._whole))

    def shapes(self, model: Model, training: Training) -> Any:
        state = jax.eval_shape(functools.partial(initial_state, model, training))
        specs = sharded.partition(self._mesh, model, state["params"])
        placing = meshes.like_parameters(state, state["params"], specs)

        def shape(leaf: jax.ShapeDtypeStruct, spec: P) -> jax.ShapeDtypeStruct:
            sharding = NamedSharding(self._mesh, spec)
            return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

        return jax.tree.map(shape, state, placing)

    def text_shape(self, *shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=self._whole)

    def batches_shape(self, training: Training, count: int) -> jax.ShapeDtypeStruct:
        shape = count, training.batch, training.block + 1
        return jax.ShapeDtypeStruct(shape, jnp.int32, sharding=self._batch(None))

    def evaluation(self, some: Any, model: Model, dtype: Any) -> Any:
        run = functools.partial(sharded.measured, self._mesh, model, dtype)
        run = jax.jit(run, out_shardings=self._whole)

        def placed(params, rows, lengths):
            if not meshes.on_mesh(params):
                specs = sharded.partition(self._mesh, model, params)
                params = jax.tree.map(
                    lambda leaf, spec: put(leaf, NamedSharding(self._mesh, spec)), params, specs
                )
            return run(params, rows, lengths)

        return placed

    def gathered(self, params: Any) -> Any:
        return jax.tree.map(lambda leaf: jnp.asarray(meshes.whole_here(leaf)), params)

    def _shardings(self, model: Model, training: Training) -> Any:
        return jax.tree.map(lambda leaf: leaf.sharding, self.shapes(model, training))

    def _batch(self, *before: None) -> NamedSharding:
        return NamedSharding(self._mesh, P(*before, BATCH))
