"""The loss of a row and its gradient on a mesh of devices, in `shard_map`.

Every device takes its part of the batch that one device would take whole; what it needs of others
travels by explicit collectives, as GPU kernels require, which the compiler cannot split.
"""

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec as P

from lm.errors import UserError
from lm.evaluation import tallied
from lm.mesh import BATCH
from lm.rows import Model
from lm.step import losses, penalised
from physnet.models import Axes

SPLIT = (*BATCH, "sequence")
"""Axes over which the tokens of a batch are split."""
TOKENS = P(BATCH, "sequence")


def axes(mesh: jax.sharding.Mesh, model: Model) -> Axes | None:
    """What splits the model; where it has no experts their axis splits batches alone."""
    experts = getattr(model.config, "experts", 0)
    names = ("tensor", "sequence", "expert") if experts else ("tensor", "sequence")
    split = {name: name for name in names if mesh.shape[name] > 1}
    return Axes(**split) if split else None


def partition(mesh: jax.sharding.Mesh, model: Model, params: Any) -> Any:
    """The specs of parameters, given them or their shapes."""
    split = axes(mesh, model)
    if split is None or model.partition is None:
        return jax.tree.map(lambda _: P(), params)
    return model.partition(model.config, params, split)


def differentiated(
    mesh: jax.sharding.Mesh,
    model: Model,
    dtype: Any,
    params: Any,
    windows: jax.Array,
    key: jax.Array,
    taught: None = None,
) -> tuple[jax.Array, Any]:
    """As `step.differentiated`: the same loss and gradient but for the order of sums.

    Dropout is drawn apart for each part of the batch, so that its masks are not those of one
    device.
    """
    assert taught is None
    specs = partition(mesh, model, params)
    count = model.penalty.windows if model.penalty is not None else 0

    def own(params, inputs, targets, key, first):
        # The parameters of a device become its own, so that one sum of gradients stands below, and
        # none where a parameter is used.
        params = jax.tree.map(_its_own, params, specs)
        apart = key
        if mesh.shape["data"] * mesh.shape["expert"] > 1:
            apart = jax.random.fold_in(key, lax.axis_index(BATCH))

        def objective(params):
            logits = _apply(mesh, model, params, inputs, dtype=dtype, key=apart)
            loss = jnp.mean(losses(logits, targets))
            return penalised(model, dtype, params, first, key, loss)

        (_, loss), gradient = jax.value_and_grad(objective, has_aux=True)(params)
        mean = functools.partial(_mean, math.prod(mesh.shape[name] for name in SPLIT))
        return lax.pmean(loss, SPLIT), jax.tree.map(mean, gradient, specs)

    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(specs, TOKENS, TOKENS, P(), P()),
        out_specs=(P(), specs),
    )(params, windows[:, :-1], windows[:, 1:], key, windows[:count])


def measured(
    mesh: jax.sharding.Mesh,
    model: Model,
    dtype: Any,
    params: Any,
    rows: jax.Array,
    lengths: jax.Array,
) -> tuple[jax.Array, ...]:
    """What an evaluation sums over batches of held-out windows: nats, hits, pairs, load."""
    inside = jnp.arange(rows.shape[1] - 1, dtype=jnp.int32)[None] < lengths[:, None]

    def own(params, inputs, targets, inside):
        logits, info = _apply(mesh, model, params, inputs, dtype=dtype, return_info=True)
        nats, hits = tallied(logits, targets, inside)
        load = info.get("expert_load", jnp.zeros((0, 0), jnp.float32))
        means = map(_alike, (jnp.mean(info["kept_pairs"]), load))
        return lax.psum(nats, "sequence"), lax.psum(hits, SPLIT), *means

    return jax.shard_map(
        own,
        mesh=mesh,
        in_specs=(partition(mesh, model, params), TOKENS, TOKENS, TOKENS),
        out_specs=(P(BATCH), P(), P(), P()),
    )(params, rows[:, :-1], rows[:, 1:], inside)


def alone(mesh: jax.sharding.Mesh, model: Model) -> Model:
    """The model whose gates and experts every device sets by itself, from all parameters."""

    def each(function):
        def run(config, params, tokens, **options):
            arrays = {"key": options.pop("key")} if "key" in options else {}

            def own(params, tokens, arrays):
                return function(config, params, tokens, **arrays, **options)

            whole = jax.shard_map(own, mesh=mesh, in_specs=P(), out_specs=P())
            return whole(params, tokens, arrays)

        return None if function is None else run

    return model._replace(calibrate=each(model.calibrate), place=each(model.place))


def _apply(mesh, model, params, tokens, **options) -> Any:
    split = axes(mesh, model)
    if split is not None:
        options["axes"] = split
    try:
        return model.apply(model.config, params, tokens, **options)
    except ValueError as error:
        raise UserError(f"{model.label} cannot be split as --mesh has it: {error}") from error


def _mean(parts: int, gradient: jax.Array, spec: P) -> jax.Array:
    """Of the gradients of the parts of a batch; an axis that holds a leaf's parts has summed."""
    others = _others(spec)
    return (lax.psum(gradient, others) if others else gradient) / parts


def _its_own(leaf: jax.Array, spec: P) -> jax.Array:
    others = _others(spec)
    return lax.pcast(leaf, others, to="varying") if others else leaf


def _others(spec: P) -> tuple[str, ...]:
    """Axes that split a batch, and not a parameter of this spec."""
    return tuple(name for name in SPLIT if name not in spec)


def _alike(x: jax.Array) -> jax.Array:
    """The mean over the parts of a batch."""
    varying = tuple(name for name in SPLIT if name in jax.typeof(x).manual_axis_type.varying)
    return lax.pmean(x, varying) if varying else x
