"""Mechanisms over meshes: memory and jumping gradients; parameters in parts that do not fit.

Values and gradients in a process with 8 devices; what is refused, and types, by shapes alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from bk_models import CONFIG, VARIANTS
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from physnet import holography
from physnet.models import Axes, bk_core, transformer

SHARDED = """
import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, PartitionSpec as P

from physnet import holography
from physnet.models import Axes, bk_core

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
MEMORY = holography.memory.Config(window=2, block=2, sinks=1, landmarks=1, per_level=2, levels=1)
CORE = bk_core.BKCoreConfig(
    vocab_size=11, layers=1, heads=2, width=16, hidden=8, chains=4, local_window=3
)
rng = np.random.default_rng(0)
rows = rng.integers(0, 11, (4, 9)).astype(np.int32)
tokens, targets = rows[:, :-1], rows[:, 1:]


def parameters(config):
    def draw(path, leaf):
        x = rng.normal(scale=0.2, size=leaf.shape).astype(np.float32)
        return abs(x) if path[-1].key == "threshold" else x + (leaf.ndim < 3)

    shapes = jax.eval_shape(lambda key: bk_core.init(config, key), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def loss(config, axes, over, params, tokens, targets):
    logits = bk_core.apply(config, params, tokens, axes=axes)
    found = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
    return lax.pmean(-jnp.mean(found), over) if over else -jnp.mean(found)


for config, axes, sizes in (
    (dataclasses.replace(CORE, memory=MEMORY), Axes("tensor"), dict(data=2, tensor=2)),
    (dataclasses.replace(
        CORE, layers=2, attention=False, teleport=0.3, experts=4, expert_top_k=2, expert_width=6,
        route_dim=3,
     ), Axes("tensor", "expert", "sequence"), dict(expert=2, tensor=2, sequence=2)),
):
    params = parameters(config)
    count = int(np.prod(list(sizes.values())))
    mesh = jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes),
        devices=jax.devices()[:count],
    )
    specs = bk_core.partition(config, params, axes)
    piece = P(tuple(sizes)[0], axes.sequence)
    over = tuple(name for name in sizes if name != "tensor")
    split = jax.shard_map(
        jax.value_and_grad(functools.partial(loss, config, axes, over)), mesh=mesh,
        in_specs=(specs, piece, piece), out_specs=(P(), specs),
    )
    one = jax.value_and_grad(functools.partial(loss, config, None, ()))
    got, want = (jax.jit(f)(params, tokens, targets) for f in (split, one))
    np.testing.assert_allclose(got[0], want[0], rtol=1e-6)
    for a, b in zip(jax.tree.leaves(got[1]), jax.tree.leaves(want[1]), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=7e-6 * max(np.abs(b).max(), 1e-3))
print("equal")
"""


@pytest.mark.slow
def test_equal_to_one_device(on_devices):
    assert on_devices(SHARDED, 8) == "equal"


MEMORY = holography.memory.Config(window=4, block=2, sinks=2, landmarks=3, per_level=2, levels=3)
PLAIN = transformer.TransformerConfig(vocab_size=11, layers=1, heads=2, width=8, context=16)
EXPERTS = VARIANTS["experts"]


def module_of(config):
    return transformer if isinstance(config, transformer.TransformerConfig) else bk_core


def shapes(config):
    module = module_of(config)
    return module, jax.eval_shape(lambda key: module.init(config, key), jax.random.key(0))


def test_a_reversible_sequence_under_x64():
    """Strict promotion; what varies over an axis is what the specs say."""
    config, axes = dataclasses.replace(CONFIG, layers=1, reversible=True), Axes(sequence="b")
    module, params = shapes(config)
    split = jax.shard_map(
        jax.grad(lambda params, tokens: jnp.mean(module.apply(config, params, tokens, axes=axes))),
        mesh=AbstractMesh((2, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2),
        in_specs=(PartitionSpec(), PartitionSpec("a", "b")),
        out_specs=PartitionSpec(),
    )
    gradient = jax.eval_shape(split, params, jax.ShapeDtypeStruct((4, 16), jnp.int32))
    assert jax.tree.map(lambda x: x.dtype, gradient) == jax.tree.map(lambda x: x.dtype, params)


@pytest.mark.parametrize("bits", [None, 8])
def test_memories_take_tokens_of_a_device(bits):
    """An empty memory is the same on all devices, the tokens that come to it are not."""
    config = dataclasses.replace(MEMORY, bits=bits)

    def decode(x, mass):
        held = holography.memory.init(None, 8, config=config)
        y, held = holography.memory.decode(x, held, x, x, mass, threshold=0.1)
        held = holography.memory.append(holography.memory.extend(held, x, x, mass), x[0], x[0])
        return y, holography.memory.attend(x, held)

    split = jax.shard_map(
        decode,
        mesh=AbstractMesh((2,), ("a",), axis_types=(AxisType.Auto,)),
        in_specs=PartitionSpec("a"),
        out_specs=PartitionSpec("a"),
    )
    given = (jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((14, 8), (14,)))
    assert [y.shape for y in jax.eval_shape(split, *given)] == [(14, 8), (14, 8)]


WHOLE = PartitionSpec()
PARTS = {  # what the parameters are split over, and what apply is told
    "2 of the 4 chains": (CONFIG, None, Axes("a")),
    "12 of the 24 columns of qkv": (PLAIN, None, Axes("a")),
    "all 4 chains: no axis": (CONFIG, Axes("a"), None),
    "all 24 columns of qkv: no axis": (PLAIN, Axes("a"), None),
    "2 of the 4 experts": (EXPERTS, None, Axes(expert="a")),
    "all 4 experts: no axis": (EXPERTS, Axes(expert="a"), None),
}


@pytest.mark.parametrize("words", PARTS)
def test_other_parts_of_the_parameters_are_refused(words):
    config, given, axes = PARTS[words]
    module, params = shapes(config)
    specs = module.partition(config, params, given)
    piece = PartitionSpec("a") if axes is None or axes.expert else WHOLE

    def refused(function):
        split = jax.shard_map(
            function,
            mesh=AbstractMesh((2,), ("a",), axis_types=(AxisType.Auto,)),
            in_specs=(specs, piece),
            out_specs=piece,
        )
        with pytest.raises(ValueError, match=f"params must be those of {words}"):
            jax.eval_shape(split, params, jax.ShapeDtypeStruct((4, 16), jnp.int32))

    refused(lambda params, tokens: module.apply(config, params, tokens, axes=axes))
    if module is bk_core and axes is None:  # of these none takes a part
        refused(lambda params, tokens: bk_core.calibrate(config, params, tokens))
        cache = bk_core.init_cache(config, 2, 16)
        refused(lambda params, tokens: bk_core.extend(config, params, tokens, cache))
        key = jax.random.key(0)
        refused(lambda params, tokens: bk_core.isometry_penalty(config, params, tokens, key=key))
