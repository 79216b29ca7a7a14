"""Routes against a float64 comparison with every centroid, also where float32 products fail."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from route_oracle import moved, regret

from physnet import moe
from physnet.hyperbolic import tree


def near_boundary(radius, count=4000, size=8, seed=0):
    """32 clusters at that radius, 8 siblings each about 1 apart, tokens at noise .3 of experts."""
    rng = np.random.default_rng(seed)
    unit = lambda *shape: (x := rng.normal(size=shape)) / np.linalg.norm(x, axis=-1, keepdims=True)  # noqa: E731
    centres = np.repeat(unit(32, 1, size) * radius / 2, 8, 1)
    experts = moved(centres, unit(32, 8, size) / np.sqrt(2)).reshape(256, size).astype(np.float32)
    own = experts[rng.integers(0, 256, count)]
    tokens = moved(own.astype(np.float64), 0.3 * rng.normal(size=(count, size)))
    return jnp.asarray(tokens.astype(np.float32)), jnp.asarray(experts)


@functools.partial(jax.jit, static_argnames=("top_k", "normalise"))
def routed(tokens, centroids, curvature=1.0, top_k=1, normalise=False):
    return moe.route(
        tokens, centroids, top_k=top_k, curvature=curvature, search="dense", normalise=normalise
    )


@pytest.mark.parametrize("radius", [3, 5, 7, 9, 11, 13])
def test_no_token_goes_wrong_near_the_boundary(radius):
    tokens, experts = near_boundary(radius)
    routing = routed(tokens, experts)
    worse, chosen = regret(routing.expert, tokens, experts)
    assert worse.max() < 1e-4
    assert routing.certified.all()
    np.testing.assert_allclose(routing.distance, chosen, rtol=1e-3 if radius > 9 else 1e-4)


@pytest.mark.parametrize("radius", [3, 9])
def test_top_k_near_the_boundary_nearest_first(radius):
    tokens, experts = near_boundary(radius, count=500)
    routing = routed(tokens, experts, top_k=4)
    worse, chosen = regret(routing.expert, tokens, experts)
    assert np.abs(worse).max() < 2e-4
    assert (np.diff(chosen) > -2e-4).all()


@pytest.mark.parametrize("c", [0.25, 3.0])
@pytest.mark.parametrize(("top_k", "experts"), [(1, 1), (2, 40), (3, 20), (7, 7), (20, 30)])
def test_any_curvature_and_number_of_experts(c, top_k, experts):
    rng = np.random.default_rng(1)
    tokens = jnp.asarray(rng.normal(size=(60, 5)), jnp.float32)
    centroids = jnp.asarray(rng.normal(size=(experts, 5)), jnp.float32)
    routing = routed(tokens, centroids, c, top_k=top_k)
    worse, chosen = regret(routing.expert, tokens, centroids, c)
    assert np.abs(worse).max() < 1e-5
    assert routing.certified.all()
    np.testing.assert_allclose(routing.distance, chosen, rtol=1e-5)
    np.testing.assert_array_equal(routing.evaluations, np.full(60, experts))


@pytest.mark.parametrize("scale", [1e-12, 1e-4, 1e-2, 20.0, 40.0])
def test_every_scale(scale):
    """Tiny: 1 - cosh loses all digits. Huge: cosh overflows, and all are compared one by one."""
    rng = np.random.default_rng(2)
    draw = lambda n: jnp.asarray(scale * rng.normal(size=(n, 6)), jnp.float32)  # noqa: E731
    tokens, centroids = draw(300), draw(100)
    routing = routed(tokens, centroids)
    worse, chosen = regret(routing.expert, tokens, centroids)
    assert (worse <= 1e-4 * chosen).all()
    assert np.isfinite(routing.distance).all()


@pytest.mark.slow
def test_by_a_tree():
    c = 0.5
    tokens, experts = near_boundary(7, count=40)
    tokens, experts = (x[:100] / np.float32(np.sqrt(c)) for x in (tokens, experts))
    call = jax.jit(lambda t, e, c: moe.route(t, e, top_k=2, curvature=c, search="tree"))
    routing = call(tokens, experts, c)
    worse, chosen = regret(routing.expert, tokens, experts, c)
    assert np.abs(worse).max() < 1e-4
    np.testing.assert_allclose(routing.distance, chosen, rtol=1e-4)
    assert routing.evaluations.dtype == jnp.int32

    def built_before(t, e):
        return moe.route(t, e, search=tree.build(e, key=jax.random.key(1)))

    shapes = jax.eval_shape(built_before, tokens, experts)
    assert shapes.expert.shape == (40, 1)


def test_more_siblings_than_candidates_fall_back_to_all():
    """100 experts that the product cannot tell apart."""
    rng = np.random.default_rng(3)
    centre = np.broadcast_to(6.0 * np.eye(6)[:1], (300, 6))
    experts = moved(centre[:100], 0.5 * rng.normal(size=(100, 6))).astype(np.float32)
    tokens = moved(centre, 0.5 * rng.normal(size=(300, 6))).astype(np.float32)
    routing = routed(jnp.asarray(tokens), jnp.asarray(experts))
    assert not routing.certified.all()
    assert regret(routing.expert, tokens, experts)[0].max() < 1e-4


def test_gates():
    tokens, centroids = near_boundary(3, count=500)
    plain = routed(tokens, centroids, top_k=4)
    np.testing.assert_allclose(plain.gate, np.exp(-np.asarray(plain.distance)), rtol=1e-6)
    normal = routed(tokens, centroids, top_k=4, normalise=True)
    np.testing.assert_allclose(
        normal.gate, plain.gate / plain.gate.sum(1, keepdims=True), rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32, jnp.float64])
def test_dtypes(dtype):
    tokens, centroids = (x.astype(dtype) for x in near_boundary(3))
    routing = routed(tokens, centroids)
    want = jnp.float64 if dtype == jnp.float64 else jnp.float32
    assert (routing.gate.dtype, routing.distance.dtype) == (want, want)
    assert (routing.expert.dtype, routing.evaluations.dtype) == (jnp.int32, jnp.int32)
    single = [np.asarray(x.astype(want)) for x in (tokens, centroids)]
    assert regret(routing.expert, *single)[0].max() < 1e-4


def total(tokens, centroids, c):
    gate = moe.route(tokens, centroids, top_k=2, curvature=c, normalise=True).gate
    return jnp.sum(gate * jnp.array([[1, 2]], gate.dtype))


slopes = jax.jit(jax.grad(total, (0, 1, 2)))


def test_gradients_reach_tokens_centroids_and_curvature():
    rng = np.random.default_rng(4)
    arrays = [rng.normal(size=(6, 3)), rng.normal(size=(5, 3)), np.float64(0.7)]
    arrays = [jnp.asarray(x) for x in arrays]
    got = slopes(*arrays)
    value = jax.jit(total)
    forward = jax.jit(lambda x, t: jax.jvp(total, x, t)[1])
    for i, gradient in enumerate(got):
        step = jnp.asarray(rng.normal(size=gradient.shape))
        ends = [value(*arrays[:i], arrays[i] + t * step, *arrays[i + 1 :]) for t in (1e-5, -1e-5)]
        slope = (ends[0] - ends[1]) / 2e-5
        np.testing.assert_allclose(jnp.sum(gradient * step), slope, rtol=1e-6)
        tangents = [jnp.zeros_like(x) for x in arrays]
        tangents[i] = step
        np.testing.assert_allclose(forward(tuple(arrays), tuple(tangents)), slope, rtol=1e-6)


@pytest.mark.parametrize("where", [0.0, 1.0, 9.0])
def test_gradients_are_finite_on_a_centroid(where):
    point = jnp.full((1, 4), where, jnp.float32)
    centroids = jnp.concatenate([point, -point - 1])
    gradients = slopes(point, centroids, jnp.float32(1.0))
    assert all(np.isfinite(g).all() for g in gradients)
    routing = routed(point, centroids)
    assert (routing.distance.item(), routing.gate.item()) == (0, 1)


@pytest.mark.slow
def test_vmap_over_tokens_and_over_centroids():
    rng = np.random.default_rng(5)
    tokens = jnp.asarray(rng.normal(size=(3, 2, 9, 4)), jnp.float32)
    centroids = jnp.asarray(rng.normal(size=(3, 30, 4)), jnp.float32)
    inner = jax.vmap(routed, (0, None))
    got = jax.jit(jax.vmap(inner))(tokens, centroids)
    grads = jax.jit(jax.vmap(jax.vmap(jax.grad(total), (0, None, None)), (0, 0, None)))(
        tokens, centroids, jnp.float32(1.0)
    )
    for i in range(3):
        for j in range(2):
            one = routed(tokens[i, j], centroids[i])
            np.testing.assert_array_equal(got.expert[i, j], one.expert)
            np.testing.assert_allclose(got.gate[i, j], one.gate, rtol=1e-6)
    assert np.isfinite(grads).all()


def test_no_and_bad_tokens():
    centroids = jnp.eye(4, dtype=jnp.float32)
    assert routed(jnp.zeros((0, 4), jnp.float32), centroids).expert.shape == (0, 1)
    tokens = jnp.array([[1.0, 0, 0, 0], [jnp.nan, 0, 0, 0]], jnp.float32)
    for experts in (centroids, jnp.tile(centroids, (10, 1))):  # with and without the product
        routing = routed(tokens, experts)
        assert routing.expert[0, 0] == 0
        assert np.isnan(routing.gate[1, 0])
        assert 0 <= int(routing.expert[1, 0]) < len(experts)
        assert routing.certified.tolist() == [True, False]


@pytest.mark.slow
def test_nan_among_the_centroids_and_no_curvature_certify_nothing():
    tokens, few = jnp.ones((3, 4), jnp.float32), jnp.eye(4, dtype=jnp.float32)
    bad = few.at[2, 1].set(jnp.nan)
    for centroids, c in ((bad, 1.0), (jnp.tile(bad, (10, 1)), 1.0), (few, 0.0), (few, jnp.nan)):
        assert not routed(tokens, centroids, c).certified.any()
    by_tree = jax.jit(lambda t, e: moe.route(t, e, search="tree"))
    assert not by_tree(tokens, jnp.tile(bad, (10, 1))).certified.any()


def test_scores_are_never_all_in_memory():
    """Twice the experts, and no more temporary memory; the scores would take 256 MiB."""
    sizes = []
    for experts in (8192, 16384):
        shapes = [jax.ShapeDtypeStruct((n, 4), jnp.float32) for n in (4096, experts)]
        compiled = jax.jit(lambda *x: moe.route(*x).expert).lower(*shapes).compile()
        sizes.append(compiled.memory_analysis().temp_size_in_bytes)
    assert sizes[1] < 24e6
    assert sizes[1] < 1.5 * sizes[0]


def test_errors_name_the_argument(bare_errors):
    x, e = jnp.ones((3, 4), jnp.float32), jnp.ones((5, 4), jnp.float32)
    for call, match in [
        (lambda: moe.route(x[0], e), "tokens must have shape"),
        (lambda: moe.route(x, e[:, :2]), r"centroids must have shape \(E, 4\)"),
        (lambda: moe.route(x, e[:0]), "centroids must have shape"),
        (lambda: moe.route(x, e, top_k=6), "top_k must be at most 5"),
        (lambda: moe.route(x, e, top_k=0), "top_k must be >= 1"),
        (lambda: moe.route(x, e, search="best"), "search must be one of"),
        (lambda: moe.route(x, e, curvature=-1.0), "curvature must be positive"),
        (lambda: moe.route(x, e, curvature=jnp.ones(5)), "curvature must be one number"),
        (lambda: moe.route(x, e, curvature=jnp.ones((3, 1))), "curvature must be one number"),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match="tokens must be a real"):
        moe.route(x.astype(jnp.int32), e)
