"""Dispatch against a Python loop over tokens: outputs and gradients, whatever the loads."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import moe
from physnet.moe import _experts, _layout


def mlp(params, x):
    return jnp.tanh(x @ params["in"] + params["bias"][None, :]) @ params["out"]


def inputs(n=23, k=2, experts=5, d=4, out=3, seed=0, dtype=np.float32, expert=None):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=shape).astype(dtype)  # noqa: E731
    params = {"in": draw(experts, d, 6), "bias": draw(experts, 6), "out": draw(experts, 6, out)}
    if expert is None:
        expert = np.stack([rng.permutation(experts)[:k] for _ in range(n)])
    return draw(n, d), np.asarray(expert, np.int32), np.exp(draw(n, k)), params


def routing(expert, gate):
    return moe.Routing(expert, gate, None, None, None)


def looped(tokens, expert, gate, params, keep=True, *, fn=mlp):
    """One token and one of its experts at a time."""

    def one(pair):
        token, e, weight, kept = pair
        y = fn(jax.tree.map(lambda p: p[e], params), tokens[token][None])[0]
        return jnp.where(kept, weight * y, 0)

    token = jnp.repeat(jnp.arange(tokens.shape[0]), expert.shape[1])
    keep = jnp.broadcast_to(jnp.asarray(keep), expert.shape)
    pairs = token, expert.reshape(-1), gate.reshape(-1), keep.reshape(-1)
    return jax.lax.map(one, pairs).reshape(*expert.shape, -1).sum(1)


def applied(tokens, expert, gate, params, **options):
    return moe.apply(tokens, routing(expert, gate), mlp, params, **options)


@functools.cache
def with_slopes(function, form=None):
    """jit of slopes of the sum of squares and of the output; a program for each `form`."""

    def squared(tokens, expert, gate, params, *more):
        y = function(tokens, expert, gate, params, *more)
        return jnp.sum(jnp.square(y)), y

    return jax.jit(jax.grad(squared, (0, 2, 3), has_aux=True))


@functools.cache
def alone(function, form=None):
    return jax.jit(lambda *arrays: function(*arrays))


blocks = jax.jit(_layout.blocks, static_argnums=(1, 2))  # op by op it is twenty programs


@functools.partial(jax.jit, static_argnames="capacity_factor")
def told(tokens, expert, gate, params, capacity_factor=None):
    """Outputs and loads; one program for all tests whose shapes agree."""
    return applied(tokens, expert, gate, params, capacity_factor=capacity_factor, return_info=True)


def compare(arrays, function=applied, reference=looped, *, keep=True, form=None, tolerance=1e-6):
    """Output, alone and with gradients to tokens, gates and parameters, and those."""
    keep = np.broadcast_to(np.asarray(keep), arrays[1].shape)
    grads, got = with_slopes(function, form)(*arrays)
    wanted, want = with_slopes(reference)(*arrays, keep)
    for found in (got, alone(function, form)(*arrays)):
        np.testing.assert_allclose(found, want, rtol=tolerance, atol=tolerance)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(wanted), strict=True):
        scale = max(1.0, float(np.abs(b).max()))
        np.testing.assert_allclose(a / scale, b / scale, rtol=0, atol=tolerance)


@pytest.fixture(params=["loop", "at once"])
def form(request, monkeypatch):
    """Both ways to run blocks, whatever the device."""
    run, loop = _experts.run, request.param == "loop"
    monkeypatch.setattr(_experts, "run", lambda *a, **kw: run(*a, **{**kw, "loop": loop}))
    return request.param


@pytest.mark.parametrize(("n", "k", "experts"), [(23, 2, 5), (1, 1, 1), (1, 1, 5)])
def test_equal_to_a_loop_over_tokens(form, n, k, experts):
    compare(inputs(n, k, experts), form=form)


def test_all_to_one_expert_and_empty_experts(form):
    compare(inputs(n=40, k=1, expert=np.full((40, 1), 3)), form=form)


def test_all_experts_exact_in_float64():
    compare(inputs(9, 4, 4, dtype=np.float64), tolerance=1e-13)


@pytest.mark.parametrize("experts", [1, 3, 64])
@pytest.mark.parametrize("assignments", [1, 7, 200])
def test_layout_holds_every_assignment_once(experts, assignments):
    rng = np.random.default_rng(1)
    for expert in (rng.integers(0, experts, assignments), np.full(assignments, experts - 1)):
        size = _layout.block_size(assignments, experts, least=8)
        plan = blocks(np.asarray(expert, np.int32), experts, size)
        slot, source = np.asarray(plan.slot), np.asarray(plan.source)
        assert len(set(slot)) == assignments
        np.testing.assert_array_equal(source.reshape(-1)[slot], np.arange(assignments))
        # Every row, padding too, holds an assignment of the block's own expert.
        owner = np.asarray(plan.owner)[:, None]
        np.testing.assert_array_equal(expert[source], np.repeat(owner, size, 1))
        assert np.sum(plan.full) == sum(-(-c // size) for c in np.bincount(expert))


def polar(params, x):
    return mlp(params, x / jnp.linalg.norm(x, axis=-1, keepdims=True))


def of_directions(tokens, expert, gate, params):
    return moe.apply(tokens, routing(expert, gate), polar, params)


one_direction_each = functools.partial(looped, fn=polar)


def test_padding_reaches_nothing(form):
    """An expert that is NaN at 0, and one that is NaN everywhere and gets no token."""
    tokens, expert, gate, params = inputs(experts=4, k=1)
    expert = np.where(expert == 2, 1, expert)
    params["in"][2] = np.nan
    compare((tokens, expert, gate, params), of_directions, one_direction_each, form=form)


def test_an_expert_that_is_not_there_counts_as_none(form):
    tokens, expert, gate, params = inputs()
    expert[0], expert[1, 0] = -1, 5
    keep = (expert >= 0) & (expert < 5)
    compare((tokens, expert, gate, params), keep=keep, form=form)
    y, info = told(tokens, np.full_like(expert, -1), gate, params)
    assert not np.any(y)
    assert info.dropped == 1


def test_capacity_drops_the_later_tokens_and_says_so(form):
    factor = 0.7
    arrays = inputs()
    expert = np.asarray(arrays[1])
    capacity, seen, keep = math.ceil(factor * 46 / 5), {}, np.zeros((23, 2), bool)
    for i, j in np.ndindex(23, 2):
        seen[expert[i, j]] = seen.get(expert[i, j], 0) + 1
        keep[i, j] = seen[expert[i, j]] <= capacity
    compare(arrays, functools.partial(applied, capacity_factor=factor), keep=keep, form=form)
    info = told(*arrays, capacity_factor=factor)[1]
    np.testing.assert_allclose(info.dropped, 1 - keep.mean(), atol=1e-6)
    np.testing.assert_array_equal(info.count, np.bincount(expert.ravel(), minlength=5))
    assert not keep.all()
    plenty, info = told(*arrays, capacity_factor=50.0)
    np.testing.assert_allclose(plenty, told(*arrays)[0], rtol=1e-6)
    assert info.dropped == 0


def test_capacity_is_causal():
    tokens, expert, gate, params = inputs()
    later = np.concatenate([expert[:15], (expert[15:] + 1) % 5])
    one, two = (
        np.asarray(told(tokens, e, gate, params, capacity_factor=0.7)[0]) for e in (expert, later)
    )
    np.testing.assert_array_equal(one[:15], two[:15])
    assert (one[15:] != two[15:]).any()


def test_half_precision():
    tokens, expert, gate, params = inputs()
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), (tokens, params))
    got = told(half[0], expert, gate, half[1])[0]
    assert got.dtype == jnp.bfloat16
    want = with_slopes(looped)(tokens, expert, gate, params, np.full((23, 2), True))[1]
    np.testing.assert_allclose(np.asarray(got, np.float32), want, rtol=0.1, atol=0.15)


def test_no_tokens():
    tokens, expert, gate, params = inputs(n=1)
    y, info = told(tokens[:0], expert[:0], gate[:0], params)
    assert y.shape == (0, 3)
    assert (info.count.tolist(), float(info.effective), float(info.dropped)) == ([0] * 5, 0, 0)


@pytest.mark.slow
def test_transforms(form):
    """vmap of grad, forward mode and second order; experts that close over tracers."""
    sets = [inputs(n=7, seed=seed, dtype=np.float64) for seed in range(2)]
    stacked = jax.tree.map(lambda *x: np.stack(x), *sets)

    def loss(tokens, expert, gate, params, scale=1.0):
        scaled = lambda p, x: scale * mlp(p, x)  # noqa: E731
        y = moe.apply(tokens, routing(expert, gate), scaled, params)
        return jnp.sum(jnp.sin(y))

    gradient = jax.grad(loss, (0, 2, 3, 4))
    scales = np.array([0.5, 2.0])
    batched = jax.jit(jax.vmap(gradient))(*stacked, scales)
    gradient = jax.jit(gradient)
    for i, arrays in enumerate(sets):
        one = gradient(*arrays, scales[i])
        for a, b in zip(jax.tree.leaves(batched), jax.tree.leaves(one), strict=True):
            np.testing.assert_allclose(np.asarray(a)[i], b, rtol=1e-9, atol=1e-12)
    tokens, expert, gate, params = jax.device_put(sets[0])
    step = jax.device_put(np.cos(sets[0][0]))

    def slope(tokens):
        return jax.jvp(lambda t: loss(t, expert, gate, params), (tokens,), (step,))[1]

    first = lambda t: np.asarray(gradient(t, expert, gate, params, np.float64(1))[0])  # noqa: E731
    value, curve = jax.jit(jax.value_and_grad(slope))(tokens)
    np.testing.assert_allclose(value, np.sum(first(tokens) * step))
    ends = [first(tokens + t * step) for t in (1e-5, -1e-5)]
    np.testing.assert_allclose(curve, (ends[0] - ends[1]) / 2e-5, rtol=1e-5, atol=1e-8)


def test_with_routes_gradients_reach_the_centroids():
    tokens, _, _, params = inputs()
    centroids = np.random.default_rng(9).normal(size=(5, 4)).astype(np.float32)

    def loss(centroids, tokens):
        return jnp.sum(moe.apply(tokens, moe.route(tokens, centroids, top_k=2), mlp, params))

    gradient = jax.jit(jax.grad(loss))(centroids, tokens)
    assert np.isfinite(gradient).all()
    assert np.abs(gradient).max() > 1e-3


def test_no_copy_of_the_parameters():
    """The loop's temporaries are smaller than the parameters, and its gradient's too."""
    shape = lambda *s, dtype=jnp.float32: jax.ShapeDtypeStruct(s, dtype)  # noqa: E731
    arrays = shape(512, 64), shape(512, 1, dtype=jnp.int32), shape(512, 1), shape(128, 64, 256)
    size = 4 * 128 * 64 * 256

    def loss(tokens, expert, gate, params):
        fn = lambda p, x: x @ p  # noqa: E731
        return jnp.sum(jnp.square(moe.apply(tokens, routing(expert, gate), fn, params)))

    for function in (loss, jax.grad(loss, (0, 3))):
        compiled = jax.jit(function).lower(*arrays).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < size


@jax.jit
def scaled(tokens, expert, gate, scale):
    return moe.apply(tokens, routing(expert, gate), lambda p, x: p * x, scale, return_info=True)


loads = jax.jit(moe.load, static_argnames="experts")


@pytest.mark.parametrize("dtype", [jnp.int8, jnp.uint8, jnp.uint32, jnp.int64, jnp.uint64])
def test_any_integers_number_experts(dtype):
    """Also where the number of experts does not fit into them, and where they are beyond int32."""
    scale = np.arange(300, dtype=np.float32)
    most = min(2**32 + 7, int(jnp.iinfo(dtype).max))  # int32 would make 7 of it
    expert = jax.device_put(np.array([[0], [99], [127], [most]], dtype))
    want = np.where(np.asarray(expert) < 300, np.asarray(expert), 0).astype(np.float32)
    ones = np.ones((4, 1), np.float32)
    y, info = scaled(ones, expert, ones, scale)
    np.testing.assert_array_equal(y, want)
    np.testing.assert_array_equal(info.count, loads(expert, experts=300).count)
    assert np.sum(info.count) == (np.asarray(expert) < 300).sum()


def test_errors_name_the_argument(bare_errors):
    tokens, expert, gate, params = jax.device_put(inputs())
    for call, match in [
        (lambda: applied(tokens[0], expert, gate, params), "tokens must have shape"),
        (lambda: applied(tokens, expert[:3], gate, params), "routing.expert must have shape"),
        (lambda: applied(tokens, expert, gate[:, :1], params), "routing.gate must have shape"),
        (lambda: applied(tokens, expert, gate, {}), "expert_params must hold"),
        (lambda: applied(tokens, expert, gate, params | {"in": gate}), "one common first axis"),
        (lambda: applied(tokens, expert, gate, params, capacity_factor=0.0), "capacity_factor"),
        (
            lambda: moe.apply(tokens, routing(expert, gate), lambda p, x: x.sum(), params),
            "expert_fn must return",
        ),
    ]:
        with pytest.raises(ValueError, match=match):
            call()
    with pytest.raises(TypeError, match=r"routing\.expert must be integers"):
        applied(tokens, gate, gate, params)
    with pytest.raises(TypeError, match="capacity_factor"):
        applied(tokens, expert, gate, params, capacity_factor="all")
