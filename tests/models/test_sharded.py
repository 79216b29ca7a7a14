"""The models over meshes of 8 devices, in a process of its own: equal to one device.

Losses, logits and the gradients of all parameters, over tensor, expert and sequence axes.
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
from jax.sharding import AxisType, PartitionSpec as P

from physnet.models import Axes, bk_core, transformer

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")
rng = np.random.default_rng(0)
CORE = bk_core.BKCoreConfig(
    vocab_size=11, layers=1, heads=2, width=16, hidden=12, chains=4, local_window=3, density=0.5,
    soft_gate=True, learn_hopping=True, dropout=0.3,
)
DEEP = dataclasses.replace(CORE, layers=2, reversible=True, soft_gate=False, learn_hopping=False)
EXPERTS = dataclasses.replace(
    CORE, attention=False, soft_gate=False, experts=4, expert_top_k=2, expert_width=6, route_dim=3
)
PLAIN = transformer.TransformerConfig(
    vocab_size=11, layers=1, heads=2, width=16, hidden=12, context=16, dropout=0.3
)
SPLIT = Axes(tensor="tensor", sequence="sequence")
ALL = Axes(tensor="tensor", expert="expert", sequence="sequence")
rows = rng.integers(0, 11, (8, 17)).astype(np.int32)


@functools.cache
def parameters(config):
    module = transformer if config is PLAIN else bk_core

    shapes = jax.eval_shape(lambda key: module.init(config, key), jax.random.key(0))

    def draw(path, leaf):  # all in use; by NumPy, which compiles nothing
        scale = path[-1].key.startswith("norm") or path[-1].key == "ceiling"
        return np.float32(scale) + rng.normal(scale=0.2, size=leaf.shape).astype(leaf.dtype)

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    if config is not PLAIN:
        params = jax.jit(functools.partial(bk_core.calibrate, config))(params, rows)
    return module, params


def nats(logits, targets):
    found = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[..., None], axis=-1)
    return -jnp.mean(found)


def functions(config, axes, key=None, gradients=True, **sizes):
    # of (params, tokens, targets): loss, gradients, logits, and what is reported
    module, params = parameters(config)
    mesh = jax.make_mesh(
        tuple(sizes.values()), tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes),
        devices=jax.devices()[: int(np.prod(list(sizes.values())))],
    )
    batch = tuple(name for name in sizes if name in ("data", "expert"))
    over = tuple(name for name in sizes if name != "tensor")
    report = config is CORE and gradients

    def loss(params, tokens, targets, axes, mean):
        own = None if key is None else jax.random.fold_in(key, jnp.max(tokens))  # not known
        out = module.apply(config, params, tokens, key=own, axes=axes, return_info=report)
        logits, info = out if report else (out, {})
        kept = mean(info["kept_pairs"], batch) if report else 0.0
        return mean(nats(logits, targets), over), (logits, kept)

    def run(params, tokens, targets, axes=None):
        mean = jax.lax.pmean if axes and over else lambda x, _: x
        if not gradients:
            return loss(params, tokens, targets, axes, mean)
        return jax.value_and_grad(loss, has_aux=True)(params, tokens, targets, axes, mean)

    specs = module.partition(config, params, axes)
    piece = P(batch or None, axes.sequence)
    split = jax.shard_map(
        lambda *x: run(*x, axes), mesh=mesh, in_specs=(specs, piece, piece),
        out_specs=((P(), (piece, P())), specs) if gradients else (P(), (piece, P())),
    )
    return params, jax.jit(split), jax.jit(run)


def compare(got, want, tolerance=1e-5):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * max(np.abs(b).max(), 1e-3))
    np.testing.assert_allclose(jax.tree.leaves(got)[0], jax.tree.leaves(want)[0], rtol=1e-6)


tokens, targets = rows[:, :-1], rows[:, 1:]
for config, axes, sizes in (
    (CORE, SPLIT, dict(data=2, tensor=2, sequence=2)),
    (PLAIN, SPLIT, dict(data=2, tensor=2, sequence=2)),
    (EXPERTS, Axes(expert="expert"), dict(expert=4, data=2)),
    (DEEP, Axes(sequence="sequence"), dict(sequence=8)),
):
    params, split, one = functions(config, axes, **sizes)
    found = split(params, tokens, targets)
    compare(found, one(params, tokens, targets))
    gradients = jax.tree_util.tree_leaves_with_path(found[1])
    assert all(np.any(g) for path, g in gradients if path[-1].key not in ("ceiling", "threshold"))

# A token that there is not, in the third piece of the last: NaN from there on, in the pieces
# behind too.
broken = tokens.copy()
broken[3, 5] = 11
(_, (logits, _)), _ = split(params, broken, targets)
(_, (before, _)), _ = found
assert (np.delete(logits, 3, axis=0) == np.delete(before, 3, axis=0)).all()
assert (logits[3, :5] == before[3, :5]).all() and np.isnan(logits[3, 5:]).all()

# All axes at once; dropout, whose masks the tensor axis does not change.
half = dict(expert=2, tensor=2, sequence=2)
for config, axes, key, sizes in (
    (dataclasses.replace(EXPERTS, attention=True), ALL, None, half),
    (CORE, Axes(tensor="tensor"), jax.random.key(2), dict(tensor=2)),
    (DEEP, Axes(tensor="tensor"), jax.random.key(2), dict(tensor=2)),
    (PLAIN, Axes(tensor="tensor"), jax.random.key(2), dict(tensor=2)),
):
    params, split, one = functions(config, axes, key, gradients=False, **sizes)
    compare(split(params, tokens, targets), one(params, tokens, targets))
print("equal")
"""


@pytest.mark.slow
def test_equal_to_one_device(on_devices):
    assert on_devices(SHARDED, 8) == "equal"


MEMORY = holography.memory.Config(window=4, block=2, sinks=2, landmarks=3, per_level=2, levels=3)
PLAIN = transformer.TransformerConfig(vocab_size=11, layers=1, heads=2, width=8, context=40)
REFUSED = {  # what is refused: the model, its axes, how tokens are split over "a" and "b"
    "heads must be a multiple of the 4": (CONFIG, Axes(tensor="a"), ()),
    "same over the axis 'a' of axes.tensor": (CONFIG, Axes(tensor="a"), ("a",)),
    "split over the axis 'a' of axes.sequence": (CONFIG, Axes(sequence="a"), ()),
    "split over the axis 'a' of axes.expert": (VARIANTS["experts"], Axes(expert="a"), (None, "b")),
    "axes.expert must be None without experts": (CONFIG, Axes(expert="a"), ("a",)),
    "with config.memory": (
        dataclasses.replace(CONFIG, memory=MEMORY), Axes(sequence="a"), (None, "a")),
    "teleport_mode='gated'": (
        dataclasses.replace(CONFIG, teleport=0.1, teleport_mode="gated"),
        Axes(sequence="a"), (None, "a")),
    "there are no experts": (PLAIN, Axes(expert="a"), ("a",)),
    "with config.memory, which": (
        dataclasses.replace(PLAIN, memory=MEMORY), Axes(sequence="a"), (None, "a")),
    "at most context=40 long, got 48": (PLAIN, Axes(sequence="a"), (None, "a")),
}  # fmt: skip


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_split_is_refused(words):
    config, axes, spec = REFUSED[words]
    module = transformer if isinstance(config, transformer.TransformerConfig) else bk_core
    params = jax.eval_shape(lambda key: module.init(config, key), jax.random.key(0))
    split = jax.shard_map(
        lambda params, tokens: module.apply(config, params, tokens, axes=axes),
        mesh=AbstractMesh((4, 2), ("a", "b"), axis_types=(AxisType.Auto,) * 2),
        in_specs=(PartitionSpec(), PartitionSpec(*spec)),
        out_specs=PartitionSpec(("a", "b")),
    )
    with pytest.raises(ValueError, match=words):
        jax.eval_shape(split, params, jax.ShapeDtypeStruct((4, 48), jnp.int32))


def test_axes_share_no_name_with_the_tensor_axis():
    Axes(expert="a", sequence="a")
    with pytest.raises(ValueError, match="tensor must be an axis of its own"):
        Axes(tensor="a", sequence="a")


@pytest.mark.parametrize("name", ["soft", "experts", "plain"])
def test_partition_splits_all_but_what_reads_or_writes_whole_tokens(name):
    config = PLAIN if name == "plain" else VARIANTS[name]
    module = transformer if name == "plain" else bk_core
    params = jax.eval_shape(lambda key: module.init(config, key), jax.random.key(0))
    moments = {"mu": params, "count": jax.ShapeDtypeStruct((), jnp.int32)}
    specs = module.partition(config, moments, Axes(tensor="t", expert="e"))
    assert specs["count"] == PartitionSpec()
    whole = set()

    def fits(path, leaf, spec):
        assert len(spec) in (0, len(leaf.shape))
        if not any(spec):
            whole.add(path[-1].key)

    jax.tree_util.tree_map_with_path(fits, params, specs["mu"])
    assert whole <= {
        *("token", "position", "norm", "norm_mixer", "norm_mlp", "norm_attention"),
        *("project", "centroids"),
    }
    nowhere = jax.tree.leaves(module.partition(config, params, None))
    assert nowhere == [PartitionSpec()] * len(jax.tree.leaves(params))
