"""Routes by GPU kernels against float64 and against the "xla" form."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from route_oracle import moved, regret

from physnet import _dispatch, moe

gpu = pytest.mark.gpu


def near_boundary(radius, count=2000, size=8, clusters=32, shuffle=False):
    """Clusters at that radius, 8 siblings each about 1 apart, tokens at noise .3 of experts."""
    rng = np.random.default_rng(0)
    unit = lambda *shape: (x := rng.normal(size=shape)) / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    centres = np.repeat(unit(clusters, 1, size) * radius / 2, 8, 1)
    experts = moved(centres, unit(clusters, 8, size) / np.sqrt(2)).reshape(-1, size)
    experts = experts.astype(np.float32)
    if shuffle:
        experts = rng.permutation(experts)
    own = experts[rng.integers(0, len(experts), count)]
    tokens = moved(own.astype(np.float64), 0.3 * rng.normal(size=(count, size)))
    return jnp.asarray(tokens.astype(np.float32)), jnp.asarray(experts)


@functools.partial(jax.jit, static_argnames=("top_k", "implementation"))
def routed(tokens, centroids, curvature=1.0, top_k=1, implementation="triton"):
    return moe.route(
        tokens, centroids, top_k=top_k, curvature=curvature, implementation=implementation
    )


def normal(n, d, scale=1.0, seed=0):
    x = np.random.default_rng(seed).normal(size=(n, d))
    return jnp.asarray(scale * x, jnp.float32)


@gpu
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("radius", [3, 5, 7, 9, 11, 13])
def test_no_token_goes_wrong_near_the_boundary(radius, shuffle):
    tokens, experts = near_boundary(radius, shuffle=shuffle)
    routing = routed(tokens, experts)
    worse, chosen = regret(routing.expert, tokens, experts)
    assert worse.max() < 1e-4
    assert routing.certified.all()
    np.testing.assert_allclose(routing.distance, chosen, rtol=1e-3 if radius > 9 else 1e-4)


@gpu
@pytest.mark.parametrize("top_k", [1, 2, 5, 8, 16])
@pytest.mark.parametrize("radius", [3, 9])
def test_top_k_near_the_boundary_nearest_first(radius, top_k):
    tokens, experts = near_boundary(radius, count=500)
    routing = routed(tokens, experts, top_k=top_k)
    worse, chosen = regret(routing.expert, tokens, experts)
    assert np.abs(worse).max() < 2e-4
    assert (np.diff(chosen) > -2e-4).all()
    assert all(len(set(row)) == top_k for row in np.asarray(routing.expert).tolist())


@gpu
@pytest.mark.parametrize("d", [1, 2, 5, 16, 33, 64, 128, 256])
@pytest.mark.parametrize(("n", "experts"), [(1, 1), (17, 63), (130, 64), (257, 1000)])
def test_any_size(n, experts, d):
    tokens, centroids = normal(n, d, 2 / np.sqrt(d)), normal(experts, d, 2 / np.sqrt(d), 1)
    for top_k in (1, 2, 8):
        if top_k <= experts:
            routing = routed(tokens, centroids, 0.7, top_k=top_k)
            worse, _ = regret(routing.expert, tokens, centroids, 0.7)
            assert np.abs(worse).max() < 1e-5
            assert routing.certified.all()
            xla = routed(tokens, centroids, 0.7, top_k=top_k, implementation="xla")
            np.testing.assert_allclose(routing.distance, xla.distance, rtol=1e-5)
            np.testing.assert_array_equal(routing.evaluations, np.full(n, experts))


@gpu
@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e-2, 20.0, 40.0])
def test_every_scale(scale):
    """Tiny: 1 - cosh loses all digits. Huge: cosh overflows, and all are compared one by one."""
    tokens, centroids = normal(300, 3, scale), normal(50, 3, scale, 1)
    routing = routed(tokens, centroids)
    worse, chosen = regret(routing.expert, tokens, centroids)
    assert (worse <= 1e-4 * chosen).all()
    assert np.isfinite(routing.distance).all()


@gpu
@pytest.mark.parametrize("top_k", [1, 3])
def test_equal_centroids_are_told_apart_by_their_numbers(top_k):
    """More copies than the lists hold: all of them are visited, or the token is not certified."""
    few = normal(3, 6)
    centroids = jnp.tile(few, (200, 1))
    routing = routed(few, centroids, top_k=top_k)
    want = np.arange(3)[:, None] + 3 * np.arange(top_k)[None]
    assert regret(routing.expert, few, centroids)[0].max() == 0
    np.testing.assert_array_equal(np.asarray(routing.expert) % 3, want % 3)
    assert all(len(set(row)) == top_k for row in np.asarray(routing.expert).tolist())


@gpu
@pytest.mark.parametrize("count", [50, 3000])
@pytest.mark.parametrize("top_k", [1, 4])
def test_more_siblings_than_the_lists_hold(count, top_k):
    """Every token needs the sweep, or all but a few do not."""
    rng = np.random.default_rng(3)
    centre = np.broadcast_to(6.0 * np.eye(6)[:1], (1000, 6))
    experts = moved(centre, 0.5 * rng.normal(size=(1000, 6))).astype(np.float32)
    tokens = moved(centre[:50], 0.5 * rng.normal(size=(50, 6))).astype(np.float32)
    easy = 0.5 * rng.normal(size=(count - 50, 6)).astype(np.float32)
    tokens = jnp.asarray(rng.permutation(np.concatenate([tokens, easy])), jnp.float32)
    experts = jnp.asarray(np.concatenate([experts, 0.5 * rng.normal(size=(99, 6))]), jnp.float32)
    routing = routed(tokens, experts, top_k=top_k)
    assert routing.certified.all()
    assert np.abs(regret(routing.expert, tokens, experts)[0]).max() < 1e-4
    assert all(len(set(row)) == top_k for row in np.asarray(routing.expert).tolist())


@gpu
@pytest.mark.parametrize("cut", [{"lanes": 4}, {"lanes": 16}, {"kept": 1}, {"pairs": 32}])
def test_how_the_kernels_are_cut_up_changes_nothing(cut):
    kernels = _dispatch.load("nearest_centroid", "triton")
    tokens, experts = near_boundary(5, shuffle=True)
    for top_k in (1, 3):
        index, certified = jax.jit(
            lambda v, w, top_k=top_k: kernels.nearest(
                v, w, jnp.float32(2), top_k=top_k, swept=32, sweep_warps=2, **cut
            )
        )(tokens, experts)
        assert certified.all()
        assert np.abs(regret(index, tokens, experts)[0]).max() < 1e-4


@gpu
def test_bad_tokens_and_centroids_do_as_in_xla():
    good = normal(200, 4)
    tokens = normal(60, 4, seed=1).at[7].set(jnp.nan).at[9, 2].set(jnp.inf)
    for centroids in (good, good.at[150, 1].set(jnp.nan)):
        ours, xla = (routed(tokens, centroids, implementation=name) for name in ("triton", "xla"))
        usable = np.isfinite(np.asarray(tokens)).all(1)
        np.testing.assert_array_equal(ours.certified, xla.certified)
        np.testing.assert_array_equal(ours.expert[usable], xla.expert[usable])
        np.testing.assert_allclose(ours.gate[usable], xla.gate[usable], rtol=1e-5)
        assert np.isnan(np.asarray(ours.gate)[7]).all()
        assert ((np.asarray(ours.expert) >= 0) & (np.asarray(ours.expert) < 200)).all()
    assert routed(tokens[:0], good).expert.shape == (0, 1)


@gpu
def test_every_element_is_written():
    """Memory full of NaN beforehand; rows and columns that no tile divides."""
    tokens, centroids = normal(4097, 20, 0.4), normal(333, 20, 0.4, 1)
    want = routed(tokens, centroids, top_k=3, implementation="xla")
    routed(tokens, centroids, top_k=3)
    for _ in range(3):
        poison = jax.block_until_ready([jnp.full(2**k, jnp.nan) for k in range(10, 24)])
        del poison
        got = routed(tokens, centroids, top_k=3)
        np.testing.assert_allclose(got.distance, want.distance, rtol=1e-5)


def total(tokens, centroids, c, implementation="triton"):
    gate = moe.route(
        tokens, centroids, top_k=2, curvature=c, normalise=True, implementation=implementation
    ).gate
    return jnp.sum(gate * jnp.array([[1, 2]], gate.dtype))


@gpu
def test_gradients_are_those_of_xla():
    arrays = (normal(40, 6), normal(90, 6, seed=1), jnp.float32(0.7))
    for one, other in zip(
        jax.jit(jax.grad(total, (0, 1, 2)))(*arrays),
        jax.jit(jax.grad(functools.partial(total, implementation="xla"), (0, 1, 2)))(*arrays),
        strict=True,
    ):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@gpu
def test_vmap_over_tokens_and_over_centroids():
    tokens = normal(54, 4, seed=5).reshape(3, 2, 9, 4)
    centroids = normal(3 * 70, 4, seed=6).reshape(3, 70, 4)
    got = jax.jit(jax.vmap(jax.vmap(routed, (0, None))))(tokens, centroids)
    slopes = jax.vmap(jax.vmap(jax.grad(total), (0, None, None)), (0, 0, None))
    assert np.isfinite(jax.jit(slopes)(tokens, centroids, jnp.float32(1.0))).all()
    for i in range(3):
        for j in range(2):
            one = routed(tokens[i, j], centroids[i], implementation="xla")
            np.testing.assert_array_equal(got.expert[i, j], one.expert)
            np.testing.assert_allclose(got.gate[i, j], one.gate, rtol=1e-5)


@gpu
def test_scores_are_never_in_memory():
    shapes = [jax.ShapeDtypeStruct((n, 64), jnp.float32) for n in (2**16, 2**13)]
    compiled = jax.jit(lambda *x: moe.route(*x, implementation="triton").expert)
    memory = compiled.lower(*shapes).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 2**26  # scores: 2^31


def test_what_the_kernel_does_not_serve(bare_errors, monkeypatch):
    x, e = normal(30, 4), normal(40, 4)
    if all(device.platform != "gpu" for device in jax.devices()):
        with pytest.raises(NotImplementedError, match="compute capability"):
            moe.route(x, e, implementation="triton")
    monkeypatch.setattr(_dispatch, "_capability", lambda facts: (9, 0))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    for call, match in [
        (lambda: moe.route(x, e, search="tree", implementation="triton"), "has no implementation"),
        (lambda: moe.route(x, e, top_k=17, implementation="triton"), "top_k of at most 16, got 17"),
        (lambda: moe.route(x, e, implementation="mosaic_gpu"), "has no implementation"),
        (
            lambda: moe.route(x.astype(jnp.float64), e, implementation="triton"),
            "dtype float32, got float64",
        ),
        (
            lambda: moe.route(normal(3, 300), normal(3, 300), implementation="triton"),
            "d of at most 256, got 300",
        ),
    ]:
        with pytest.raises(NotImplementedError, match=match):
            call()
