"""A named implementation runs or raises; None runs the fastest there is."""

import functools
import importlib.util
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import _dispatch, attention, birman_schwinger, greens, moe, scattering
from physnet.attention import _over_blocks
from physnet.hyperbolic import polar
from physnet.models import transformer
from physnet.moe import _route

MECHANISMS = (attention, birman_schwinger, greens, moe, polar, scattering)
NAMES = ("xla", "mosaic_gpu", "triton", "cudnn", "cuda")
HOPPER, AMPERE, NO_GPU = (9, 0), (8, 6), (0, 0)


@functools.cache
def _arguments():
    """Arguments with which each function that takes `implementation` runs."""
    onsite = jnp.array([0.3, -0.2, 0.5, 0.1], jnp.float32)
    hopping = jnp.array([1.0, 0.7, 0.9], jnp.float32)
    chain = (onsite, hopping, 0.2 + 0.1j)
    x = jnp.linspace(-1.0, 1.0, 1 * 8 * 2 * 4).reshape(1, 8, 2, 4)
    points = x[0, :, 0].astype(jnp.float32)
    return {
        "greens.diagonal": (chain, {}),
        "greens.left": (chain, {}),
        "greens.window": ((onsite, hopping), {"center": 0.0, "radius": 1.0}),
        "greens.propagate": ((*chain, jnp.ones((4, 2), jnp.float32)), {}),
        "attention.scattering_attention": (
            (x, x, x, jnp.linspace(0.0, 1.0, 8, dtype=jnp.float32)[None]),
            {"threshold": 0.3},
        ),
        "attention.block_sparse_attention": ((x, x, x, jnp.ones((2, 2), bool)), {}),
        "moe.route(search='dense')": ((points, points[:3] + 1), {}),
        "moe.route(search='tree')": ((points, points[:3] + 1), {}),
        "hyperbolic.polar.pairwise": ((points, points[:3] + 1), {}),
        "models.transformer.apply": (
            (jax.jit(INIT)(jax.random.key(0)), jnp.arange(8, dtype=jnp.int32)[None] % 5),
            {},
        ),
    }


def _dispatched():
    """Every public function that takes `implementation`; of `moe.route`, each of its searches."""
    found = {
        f"{module.__name__.removeprefix('physnet.')}.{name}": function
        for module in MECHANISMS
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and "implementation" in inspect.signature(function).parameters
    }
    route = found.pop("moe.route")
    return found | {
        f"moe.route(search={search!r})": functools.partial(route, search=search)
        for search in ("dense", "tree")
    }


TINY = transformer.TransformerConfig(vocab_size=5, layers=1, heads=2, width=8, context=8)
INIT = functools.partial(transformer.init, TINY)
KERNELS = _dispatched()  # those of this library; the model takes cuDNN's
FUNCTIONS = KERNELS | {"models.transformer.apply": functools.partial(transformer.apply, TINY)}
operations = pytest.mark.parametrize("operation", sorted(FUNCTIONS))


def test_table_and_cases_cover_every_function_that_dispatches():
    assert set(FUNCTIONS) == set(_dispatch._TABLE) == set(_arguments())


@operations
def test_signature(operation):
    parameter = inspect.signature(FUNCTIONS[operation]).parameters["implementation"]
    assert parameter.kind is parameter.KEYWORD_ONLY
    assert parameter.default is None
    assert list(_dispatch._TABLE[operation])[-1] == "xla"
    assert _dispatch._TABLE[operation]["xla"] == ()


@operations
def test_a_name_that_is_not_there_raises_and_says_what_is(operation, bare_errors):
    arguments, options = _arguments()[operation]
    available = _dispatch._TABLE[operation]
    missing = [name for name in NAMES if name not in available]
    assert "cuda" in missing
    for name in missing:
        call = functools.partial(FUNCTIONS[operation], **options, implementation=name)
        for run in (call, functools.partial(jax.eval_shape, call)):
            with pytest.raises(NotImplementedError) as raised:
                run(*arguments)
            for word in (operation, repr(name), *map(repr, available)):
                assert word in str(raised.value)


@operations
def test_none_agrees_with_the_reference(operation):
    arguments, options = _arguments()[operation]
    call = functools.partial(FUNCTIONS[operation], *arguments, **options)
    chosen, reference = (
        jax.jit(functools.partial(call, implementation=name))() for name in (None, "xla")
    )
    leaves = jax.tree.leaves(reference)
    for a, b in zip(jax.tree.leaves(chosen), leaves, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)
    assert all(np.abs(np.asarray(leaf, complex)).max() > 0.01 for leaf in leaves)


@pytest.fixture
def device(monkeypatch):
    """device(capability, installed): dispatch as if on such a machine."""

    def pretend(capability, installed=("jax_triton", "triton")):
        monkeypatch.setattr(_dispatch, "_capability", lambda facts: capability)
        found = importlib.util.find_spec

        def find_spec(name):
            if name in ("jax_triton", "triton"):
                return object() if name in installed else None
            return found(name)

        monkeypatch.setattr(importlib.util, "find_spec", find_spec)

    return pretend


ATTENTION = {
    "dtype": jnp.bfloat16,
    "score_dtype": jnp.float32,
    "head_dim": 128,
    "block_size": 128,
    "pairs": 10**6,
}


@pytest.mark.parametrize(
    ("capability", "installed", "facts", "want"),
    [
        (HOPPER, True, {}, "mosaic_gpu"),
        (HOPPER, False, {}, "mosaic_gpu"),
        (HOPPER, True, {"dtype": jnp.float32}, "triton"),
        (HOPPER, False, {"dtype": jnp.float32}, "xla"),
        (HOPPER, True, {"dtype": jnp.float64}, "xla"),
        (HOPPER, True, {"head_dim": 257}, "xla"),
        (HOPPER, True, {"block_size": 96}, "xla"),
        (HOPPER, True, {"pays": False}, "xla"),
        (HOPPER, True, {"pairs": 0}, "xla"),
        (HOPPER, True, {"score_dtype": jnp.float64}, "xla"),
        (AMPERE, True, {}, "triton"),
        (AMPERE, False, {}, "xla"),
        ((10, 0), True, {}, "triton"),
        ((7, 5), True, {}, "xla"),
        (NO_GPU, True, {}, "xla"),
    ],
)
def test_none_takes_the_fastest_that_serves(device, capability, installed, facts, want):
    device(capability, ("jax_triton", "triton") if installed else ())
    for operation in ("attention.scattering_attention", "attention.block_sparse_attention"):
        assert _dispatch.choose(operation, None, **ATTENTION | facts) == want


@pytest.mark.parametrize(
    ("name", "capability", "installed", "facts", "why"),
    [
        ("mosaic_gpu", NO_GPU, True, {}, "9.0"),
        ("mosaic_gpu", AMPERE, True, {}, "9.0"),
        ("mosaic_gpu", HOPPER, True, {"dtype": jnp.float32}, "bfloat16 or float16, got float32"),
        ("mosaic_gpu", HOPPER, True, {"head_dim": 512}, "at most 256, got 512"),
        ("mosaic_gpu", HOPPER, True, {"block_size": 64}, "multiple of 128, got 64"),
        ("mosaic_gpu", HOPPER, True, {"pairs": 0}, "at least one query"),
        ("triton", NO_GPU, True, {}, "8.0"),
        ("triton", HOPPER, False, {}, "jax_triton: pip install 'physnet[triton]'"),
        ("triton", AMPERE, True, {"dtype": jnp.float64}, "got float64"),
    ],
)
def test_a_name_that_does_not_serve_the_call_says_why(
    device, name, capability, installed, facts, why
):
    device(capability, ("jax_triton", "triton") if installed else ())
    for pays in (True, False):
        with pytest.raises(NotImplementedError) as raised:
            _dispatch.choose("attention.scattering_attention", name, pays=pays, **ATTENTION | facts)
        assert why in str(raised.value)
        assert "implementation=None" in str(raised.value)


def test_the_device_is_where_an_array_lies_else_the_default_one(monkeypatch, bare_errors):
    class Device:
        platform, compute_capability = "gpu", "9.0"

    here = jnp.zeros(2)
    monkeypatch.setattr(jax, "devices", lambda *backend: [Device()])
    assert _dispatch._capability({}) == HOPPER
    assert _dispatch._capability({"arrays": (here,)}) == NO_GPU  # on the CPU of this machine
    assert jax.jit(lambda x: _dispatch._capability({"arrays": (x,)})[0] * jnp.ones(()))(here) == 9
    Device.compute_capability = "12.1"
    assert _dispatch._capability({}) == (12, 1)
    Device.compute_capability = "gfx942"  # another maker's
    assert _dispatch._capability({}) == NO_GPU
    with jax.default_device(next(iter(here.devices()))):
        assert _dispatch._capability({}) == NO_GPU


@pytest.mark.parametrize("operation", sorted(n for n in KERNELS if len(_dispatch._TABLE[n]) > 1))
def test_no_fallback_is_silent(operation, device, monkeypatch):
    """Whatever is chosen is what runs; a kernel that cannot be loaded raises."""
    arguments, options = _arguments()[operation]
    if operation.startswith("attention."):
        arguments = (*(a.astype(jnp.bfloat16) for a in arguments[:3]), *arguments[3:])
        monkeypatch.setattr(_over_blocks, "KERNEL_PAIRS", 0)
        monkeypatch.setattr(_over_blocks, "DENSE_QUERIES", 0)
    if operation == "attention.block_sparse_attention":
        options = options | {"block_size": 128}
        arguments = (*arguments[:3], jnp.ones((1, 1), bool))
    monkeypatch.setattr(_route, "PAYS", 0)
    monkeypatch.setattr(polar, "PAYS", 0)
    asked = []

    def load(folder, name):
        asked.append(name)
        raise ImportError(f"no module for {folder} and {name}")

    monkeypatch.setattr(_dispatch, "load", load)
    device(HOPPER)
    names = [name for name in _dispatch._TABLE[operation] if name != "xla"]
    assert names
    for name in (*names, None):
        with pytest.raises(ImportError, match="no module"):
            jax.eval_shape(
                functools.partial(FUNCTIONS[operation], **options, implementation=name), *arguments
            )
        assert asked.pop() == (name or names[0])
        assert not asked
    run = functools.partial(FUNCTIONS[operation], **options, implementation="xla")
    jax.jit(run)(*arguments)
    assert not asked
