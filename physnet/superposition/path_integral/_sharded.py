"""Particles spread over the devices of a mesh."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array

from physnet.superposition.path_integral._state import Info, State
from physnet.superposition.path_integral._step import step

Step = Callable[..., tuple[State, Info]]


def sharded_step(mesh: Mesh, axis: str) -> Step:
    """`step` with the particles spread over an axis of a mesh, in one process or in several.

    Each device makes the noise of its own range of particles from the step's key, and evaluates
    them; weights come of all K losses. What devices exchange in a step are two sums: K losses, and
    the moments of the noise, of the parameters' size. States, losses and what the loss function
    takes are the same on all devices, and the new state is that of one device to rounding. Noise
    does not depend on the number of devices.

    Within a `shard_map` of the user's own, `step` itself does this where `init` got
    `axis_name`; loss functions may then differ between devices in what they close over, and
    communicate over other axes of the mesh (a sharded batch, a model in parts).

    Args:
        mesh: of devices; those along its other axes repeat the work.
        axis: name of the axis of the mesh. K is best a multiple of its size, and of twice that
            with antithetic particles: else some devices evaluate a particle again and drop it.

    Returns:
        A function like `step`, (key, state, loss_fn, *args) -> (state, info), to be compiled with
        `jax.jit(..., static_argnums=2)` or within a function of the user's. With several processes
        (`jax.distributed`) each calls it with the same key, state and args: arrays as they were
        made, or over the whole mesh.

    Raises:
        ValueError: An axis that the mesh lacks.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from physnet.superposition import path_integral
        >>> mesh = jax.make_mesh((jax.device_count(),), ("particles",),
        ...                      axis_types=(jax.sharding.AxisType.Auto,))
        >>> step = jax.jit(path_integral.sharded_step(mesh, "particles"), static_argnums=2)
        >>> sphere = lambda p, centre: jnp.sum((p - centre) ** 2)
        >>> state = path_integral.init(jnp.zeros(3), particles=16, sigma=0.5)
        >>> for i in range(60):
        ...     state, info = step(jax.random.key(i), state, sphere, jnp.ones(3))
        >>> bool(jnp.abs(state.params - 1).max() < 1e-3)
        True
    """
    if axis not in mesh.axis_names:
        raise ValueError(f"axis must be one of the mesh's axes {mesh.axis_names}, got {axis!r}")

    def run(
        key: Array, state: State, loss_fn: Callable[..., Any], *args: Any
    ) -> tuple[State, Info]:
        config = state.config

        def one(key, state, args):
            here = dataclasses.replace(config, axis_name=axis)
            new, info = step(key, dataclasses.replace(state, config=here), loss_fn, *args)
            return dataclasses.replace(new, config=config), info

        same = PartitionSpec()
        # Unchecked: loss functions may hold loops that know nothing of the axis.
        each = jax.shard_map(one, mesh=mesh, in_specs=same, out_specs=same, check_vma=False)
        return each(key, state, args)

    return run
